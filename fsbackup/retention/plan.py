"""The decision to keep or delete each object of one backend, from two walks over its listing.

The first walk collects the times of each series, the second decides. Between them a series holds only the times
that its rule picks (and up to as many again, so that the rule is rarely applied): memory grows with the number of
series, not of objects. A key without a series takes no memory.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import inf
from typing import Any, TypeGuard

from fsbackup.retention.archive import ArchivePlan
from fsbackup.retention.members import Members, SeriesSummary
from fsbackup.retention.rule import Retention
from fsbackup.retention.series import Series, find_series, series_name

#: Several plans see one listing, key by key.
_find_series = lru_cache(maxsize=64)(find_series)
#: Times held beyond twice the number that a rule picks before the rule is applied to them.
_SLACK = 8
#: A time older than any backup, in epoch seconds: without periods, what keeps an object keeps all that are newer.
_LONG_AGO = 1.0
_UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether to keep one object, and the reason as text; it names every rule that keeps the object."""

    key: str
    keep: bool
    reason: str

    def as_dict(self) -> dict[str, Any]:
        """Return the decision as plain JSON types."""
        return {"key": self.key, "keep": self.keep, "reason": self.reason}


class Plan:
    """Decides for the objects of one backend; `see` all of them, then `decide` each.

    Kept in any case: an object of unknown age, one that is newer than all seen, and every object while the clock
    is behind the newest of them.

    Parameters
    ----------
    rule
        The backend's retention.
    now
        Epoch seconds.
    """

    def __init__(self, rule: Retention, now: float) -> None:
        self._rule = rule
        self._now = now
        self._pattern = rule.pattern
        #: `max_age` keeps everything from this time on.
        self._young = inf if rule.max_age is None else now - rule.max_age.total_seconds()
        self._room = 2 * rule.max_chosen + _SLACK
        self._newest: tuple[float, str] = (-inf, "")
        self._series: dict[Series, Members] = {}
        self._without_series: Counter[str] = Counter()
        self._archives = [(each, ArchivePlan(each, now)) for each in rule.archives]

    def _archive_of(self, key: str) -> ArchivePlan | None:
        """Return the plan of the PostgreSQL archive that a key is in, which decides alone."""
        return next((plan for rule, plan in self._archives if rule.has(key)), None) if self._archives else None

    @property
    def clock_is_behind(self) -> bool:
        """Whether an object seen so far is newer than `now`, so that nothing is deleted."""
        return self._newest[0] > self._now

    def see(self, key: str, when: float | None) -> None:
        """Add an object of the complete listing.

        Parameters
        ----------
        key
            Its key; every key once, in any order.
        when
            Epoch seconds: `created_at` of its manifest, else the time in the listing; None when unknown. `decide`
            needs the same value.
        """
        if (archive := self._archive_of(key)) is not None:
            archive.see(key)
            return
        if not _known(when):
            return
        if when > self._newest[0]:
            self._newest = (when, key)
        series, why = self._find(key)
        if series is None:
            self._without_series[why] += 1
        # Times after `now` make `clock_is_behind` true, and may be beyond any calendar.
        if series is not None and when <= self._now:
            self._add(series, key, when)

    def _find(self, key: str) -> tuple[Series | None, str]:
        return _find_series(key, self._pattern, self._rule.destinations)

    def _add(self, series: Series, key: str, when: float) -> None:
        members = self._series.get(series)
        if members is None:
            members = self._series[series] = Members()
        members.add(key, when, is_young=when >= self._young)
        if len(members.times) > self._room:
            members.choose(self._rule)

    def series_of(self, key: str) -> str | None:
        """Return the name of the series of a key, None when it has none."""
        if self._archive_of(key) is not None:
            return None
        series, _ = self._find(key)
        return None if series is None else series_name(series)

    def summaries(self) -> list[SeriesSummary]:
        """Return all series, by name."""
        found = [members.summary(series, self._rule) for series, members in self._series.items()]
        return sorted(found, key=lambda each: each.series)

    @property
    def without_series(self) -> Mapping[str, int]:
        """How many objects have no series, by the reason."""
        return dict(self._without_series)

    def decide(self, key: str, when: float | None) -> Decision:
        """Return the decision for the object `key`; `when` as given to `see`."""
        if (archive := self._archive_of(key)) is not None:
            return Decision(key, *archive.decide(key))
        if not self._rule.deletes_versions:
            return Decision(key, True, "no rule deletes anything")
        if self.clock_is_behind:
            return Decision(key, True, self._behind())
        if not _known(when):
            return Decision(key, True, "its age is unknown")
        series, why = self._find(key)
        if series is None:
            return Decision(key, True, why)
        return self._decide(key, when, self._series.get(series))

    def _decide(self, key: str, when: float, members: Members | None) -> Decision:
        if members is not None:
            members.choose(self._rule)
        if members is None or when > members.times[-1]:
            return Decision(key, True, "it was stored after the listing")
        reasons = [self._age(when)] if when >= self._young else []
        reasons += self._rule.describe(members.bits_at(when))
        if reasons:
            return Decision(key, True, ", ".join(reasons))
        return Decision(key, False, f"{self._age(when)}, {self._newer(when, members)}")

    def wants(self, key: str, when: float | None, instead_of: float | None = None) -> bool:
        """Tell whether the rule would keep the object if this backend had it, with the time `when`.

        `instead_of` is the time under which the object was already counted on this backend; it is ignored.
        """
        if (archive := self._archive_of(key)) is not None:
            return archive.decide(key)[0]
        series, _ = self._find(key)
        if not self._rule.deletes_versions or self.clock_is_behind or not _known(when) or series is None:
            return True
        if when > self._now or when >= self._young:
            return True
        members = self._series.get(series)
        if members is None:
            return True
        others = [each for each in members.times if each != instead_of]
        return when in self._rule.choose([*others, when])

    def may_delete(self, key: str) -> bool:
        """Tell whether the rule would delete the object with some other time, which only its manifest tells."""
        if not self._rule.keeps_periods:
            return not self.wants(key, _LONG_AGO)
        # A period of its own keeps an old object, and a newer one of the same day deletes a young one.
        in_series = self._archive_of(key) is None and self._find(key)[0] in self._series
        return not self.clock_is_behind if in_series else not self.wants(key, _LONG_AGO)

    def _age(self, when: float) -> str:
        if self._rule.max_age is None:
            return "no rule keeps it"
        limit, age = self._rule.max_age.total_seconds(), self._now - when
        # In the unit of the limit, so that a reader can compare the two.
        unit = next((each for each, seconds in _UNITS.items() if limit % seconds == 0), "s")
        order = "not older" if when >= self._young else "older"
        return f"{order} than {limit / _UNITS[unit]:g}{unit} ({age // _UNITS[unit]:.0f}{unit})"

    def _newer(self, when: float, members: Members) -> str:
        chosen = bisect_left(members.times, self._young) - bisect_left(members.times, when)
        count = members.young + chosen
        return f"{count} newer ones of its series are kept" if count > 1 else "a newer one of its series is kept"

    def _behind(self) -> str:
        when, key = self._newest
        ahead = when - self._now
        unit = next((each for each, seconds in _UNITS.items() if ahead >= seconds), "s")
        return f"the clock is behind the newest object ({key!r}, by {ahead / _UNITS[unit]:.3g}{unit})"


def _known(when: float | None) -> TypeGuard[float]:
    # Some stores report 0 for an unknown time; the comparison is also false for NaN.
    return when is not None and 0 < when < inf


def decide(objects: Iterable[tuple[str, float | None]], rule: Retention, now: float) -> list[Decision]:
    """Return the decision for each object (key, epoch seconds or None), in their order; `now` is in epoch seconds.

    For a large listing use `Plan`, which does not hold all objects.
    """
    everything = list(objects)
    plan = Plan(rule, now)
    for key, when in everything:
        plan.see(key, when)
    return [plan.decide(key, when) for key, when in everything]
