"""What becomes of every object of one backend, decided from two walks over its listing.

Between the walks a series is remembered by the few times its rule picks (and as many again, so that they are
sorted out rarely), however many objects it has: memory grows with the series, not with the objects. A key without
a series takes none.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from math import inf
from typing import Any, TypeGuard

from fsbackup.retention.rule import Retention
from fsbackup.retention.series import Series, series_of, why_no_series

#: One listing is shown to several plans, key by key.
_series_of = lru_cache(maxsize=64)(series_of)
#: Times kept beyond twice what a rule picks before they are sorted out.
_SLACK = 8
_UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of one object: `keep`, and the `reason` for people, naming every rule that keeps it."""

    key: str
    keep: bool
    reason: str

    def as_dict(self) -> dict[str, Any]:
        """Return the decision as plain JSON types."""
        return {"key": self.key, "keep": self.keep, "reason": self.reason}


class _Members:
    """The times of one series: those seen and not yet sorted out, or (with `bits`) those chosen, ascending."""

    __slots__ = ("bits", "times", "young")

    def __init__(self) -> None:
        self.times: list[float] = []
        self.bits = b""
        self.young = 0

    def choose(self, rule: Retention) -> None:
        chosen = rule.choose(self.times)
        self.times = sorted(chosen)
        self.bits = bytes(chosen[when] for when in self.times)


class Plan:
    """Decides for the objects of one backend; `see` them all, then `decide` each.

    An object without a known age, one that came after `see`, and every object while the clock is behind the
    newest of them, stays.

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
        #: From this time on max_age keeps everything.
        self._young = inf if rule.max_age is None else now - rule.max_age.total_seconds()
        self._room = 2 * rule.max_chosen + _SLACK
        self._newest: tuple[float, str] = (-inf, "")
        self._series: dict[Series, _Members] = {}

    @property
    def clock_is_behind(self) -> bool:
        """Whether an object seen so far is newer than `now`, so that nothing is let go."""
        return self._newest[0] > self._now

    def see(self, key: str, when: float | None) -> None:
        """Take note of an object of the complete listing.

        Parameters
        ----------
        key
            Its key; each is seen once, in any order.
        when
            Epoch seconds: its manifest's `created_at`, else the listing's time, and the same again for `decide`.
            None when it is not known.
        """
        if not _known(when):
            return
        if when > self._newest[0]:
            self._newest = (when, key)
        series = self._series_of(key)
        # While the clock is behind, everything stays, and such times may be beyond any calendar.
        if series is not None and when <= self._now:
            self._add(series, when)

    def _series_of(self, key: str) -> Series | None:
        return _series_of(key, self._pattern, self._rule.destinations)

    def _add(self, series: Series, when: float) -> None:
        members = self._series.get(series)
        if members is None:
            members = self._series[series] = _Members()
        members.times.append(when)
        members.bits = b""
        members.young += when >= self._young
        if len(members.times) > self._room:
            members.choose(self._rule)

    def decide(self, key: str, when: float | None) -> Decision:
        """Return what becomes of the object `key` of the time `when`, as given to `see`."""
        if not self._rule.deletes:
            return Decision(key, True, "no rule lets anything go")
        if self.clock_is_behind:
            return Decision(key, True, self._behind())
        if not _known(when):
            return Decision(key, True, "its age is not known")
        series = self._series_of(key)
        if series is None:
            return Decision(key, True, why_no_series(key, self._rule.destinations))
        return self._decide(key, when, self._series.get(series))

    def _decide(self, key: str, when: float, members: _Members | None) -> Decision:
        if members is not None and not members.bits:
            members.choose(self._rule)
        if members is None or when > members.times[-1]:
            return Decision(key, True, "it came after the listing")
        reasons = [self._age(when)] if when >= self._young else []
        at = bisect_left(members.times, when)
        if members.times[at] == when:
            reasons += self._rule.describe(members.bits[at])
        if reasons:
            return Decision(key, True, ", ".join(reasons))
        return Decision(key, False, f"{self._age(when)}, {self._newer(when, members)}")

    def wants(self, key: str, when: float | None, instead_of: float | None = None) -> bool:
        """Tell whether the rule would keep the object if this backend had it, among those it has.

        Where it was seen, as of the time `instead_of`, it does not count beside itself.
        """
        series = self._series_of(key)
        if not self._rule.deletes or self.clock_is_behind or not _known(when) or series is None:
            return True
        if when > self._now or when >= self._young:
            return True
        members = self._series.get(series)
        if members is None:
            return True
        others = [each for each in members.times if each != instead_of]
        return when in self._rule.choose([*others, when])

    def _age(self, when: float) -> str:
        if self._rule.max_age is None:
            return "no rule keeps it"
        limit, age = self._rule.max_age.total_seconds(), self._now - when
        # In the unit of the limit, so that the two can be compared.
        unit = next((each for each, seconds in _UNITS.items() if limit % seconds == 0), "s")
        order = "not older" if when >= self._young else "older"
        return f"{order} than {limit / _UNITS[unit]:g}{unit} ({age // _UNITS[unit]:.0f}{unit})"

    def _newer(self, when: float, members: _Members) -> str:
        chosen = bisect_left(members.times, self._young) - bisect_left(members.times, when)
        count = members.young + chosen
        return f"{count} newer ones of its series are kept" if count > 1 else "a newer one of its series is kept"

    def _behind(self) -> str:
        when, key = self._newest
        ahead = when - self._now
        unit = next((each for each, seconds in _UNITS.items() if ahead >= seconds), "s")
        return f"the clock is behind the newest object ({key!r}, by {ahead / _UNITS[unit]:.3g}{unit})"


def _known(when: float | None) -> TypeGuard[float]:
    # Zero is what stores say that do not know; NaN is not greater than it.
    return when is not None and 0 < when < inf


def decide(objects: Iterable[tuple[str, float | None]], rule: Retention, now: float) -> list[Decision]:
    """Return the decision for each of a few objects (key, epoch seconds or None), in their order.

    `now` is epoch seconds too. A large listing is better walked twice, with `Plan`.
    """
    everything = list(objects)
    plan = Plan(rule, now)
    for key, when in everything:
        plan.see(key, when)
    return [plan.decide(key, when) for key, when in everything]
