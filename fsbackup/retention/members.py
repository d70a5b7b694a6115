"""What a plan holds of one series between its two walks, and what it tells people of it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

from fsbackup.retention.rule import Retention
from fsbackup.retention.series import Series, series_name


@dataclass(frozen=True, slots=True)
class SeriesSummary:
    """One series of a backend, among the objects of known age.

    Parameters
    ----------
    series
        Its name: the keys with ``{now}`` in place of its text, or what the groups of `series` matched.
    members
        How many objects it has.
    newest, newest_at
        The key of the newest one, and its time in epoch seconds.
    kept
        How many objects each part of the rule keeps, by the name of its field; an object may be in several. For a
        `keep_*`, objects of one instant count as one.
    """

    series: str
    members: int
    newest: str
    newest_at: float
    kept: Mapping[str, int]


class Members:
    """The times of one series: unsorted as seen, or those that the rule picked, ascending, each with its `bits`.

    `count` is the number of objects, `young` that of those which `max_age` keeps.
    """

    __slots__ = ("bits", "count", "newest", "times", "young")

    def __init__(self) -> None:
        self.times: list[float] = []
        self.bits = b""
        self.count = self.young = 0
        self.newest: tuple[float, str] = (-inf, "")

    def add(self, key: str, when: float, *, is_young: bool) -> None:
        """Add an object."""
        self.times.append(when)
        self.bits = b""
        self.count += 1
        self.young += is_young
        if when > self.newest[0]:
            self.newest = (when, key)

    def choose(self, rule: Retention) -> None:
        """Leave only the times that the rule picks."""
        if not self.bits:
            chosen = rule.choose(self.times)
            self.times = sorted(chosen)
            self.bits = bytes(chosen[when] for when in self.times)

    def bits_at(self, when: float) -> int:
        """Return the rules that picked a time, none later than the last; call `choose` before."""
        at = bisect_left(self.times, when)
        return self.bits[at] if self.times[at] == when else 0

    def summary(self, series: Series, rule: Retention) -> SeriesSummary:
        """Return what people want to know of the series."""
        self.choose(rule)
        young = {} if rule.max_age is None else {"max_age": self.young}
        when, key = self.newest
        return SeriesSummary(series_name(series), self.count, key, when, {**young, **rule.count(self.bits)})
