"""What a retention rule keeps, worked out a second time from its documentation, with everything in memory.

It knows which objects are versions of one thing from whoever made them, and reads no key.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable
from datetime import date, datetime, timedelta
from typing import Any, Protocol
from zoneinfo import ZoneInfo

#: An object: its key, the series that it is of (None: it stands alone), and its time in epoch seconds, if known.
Object = tuple[str, Hashable | None, float | None]
_PERIODS = ("daily", "weekly", "monthly", "yearly")


class Rule(Protocol):
    """What is looked at of a rule: this, and its fields `keep_*`."""

    @property
    def max_age(self) -> timedelta | None:
        """What is no older is kept."""


def kept(objects: Iterable[Object], rule: Rule | None, now: float, zone: str = "UTC") -> set[str]:
    """Return the keys that a backend with these objects keeps."""
    everything = list(objects)
    if rule is None or (rule.max_age is None and not any(getattr(rule, f"keep_{each}") for each in _PERIODS)):
        return {key for key, _, _ in everything}
    stays = {key for key, series, when in everything if series is None or when is None}
    members: dict[Hashable, list[tuple[str, float]]] = defaultdict(list)
    for key, series, when in everything:
        if series is not None and when is not None:
            members[series].append((key, when))
    for one in members.values():
        if rule.max_age is not None:
            stays |= {key for key, when in one if timedelta(seconds=now - when) <= rule.max_age}
        for period in ("last", *_PERIODS):
            stays |= _newest_of_each(one, period, getattr(rule, f"keep_{period}"), zone)
    return stays


def _newest_of_each(members: list[tuple[str, float]], period: str, count: int, zone: str) -> set[str]:
    if not count:
        return set()
    newest: dict[Any, float] = {}
    for _, when in members:
        label = _label(when, period, zone)
        newest[label] = max(when, newest.get(label, 0))
    picked = set(sorted(newest.values(), reverse=True)[:count])
    return {key for key, when in members if when in picked}


def _label(when: float, period: str, zone: str) -> Any:
    if period == "last":
        return when
    day: date = datetime.fromtimestamp(when, ZoneInfo(zone)).date()
    return {
        "daily": day, "weekly": day.isocalendar()[:2], "monthly": (day.year, day.month), "yearly": day.year,
    }[period]  # fmt: skip
