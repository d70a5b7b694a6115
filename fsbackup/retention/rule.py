"""The retention rule of a backend, and which times of a series each part of it picks. Pure arithmetic."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta

from fsbackup import clock
from fsbackup.errors import ConfigError
from fsbackup.retention.archive import ArchiveRule
from fsbackup.retention.template import compile_template


def _day(when: float) -> int:
    return clock.day(when).toordinal()


def _week(when: float) -> int:
    # Day 1 of the calendar was a Monday; weeks begin on Monday, as in ISO 8601.
    return (_day(when) - 1) // 7


def _month(when: float) -> int:
    day = clock.day(when)
    return day.year * 12 + day.month


def _year(when: float) -> int:
    return clock.day(when).year


def _instant(when: float) -> float:
    return when


#: Each counting rule: its field, the period that it counts (in local time), and the text of its reason.
_PERIODS: tuple[tuple[str, Callable[[float], float], str], ...] = (
    ("keep_last", _instant, "{newest} of its series"),
    ("keep_daily", _day, "the newest of its day"),
    ("keep_weekly", _week, "the newest of its week"),
    ("keep_monthly", _month, "the newest of its month"),
    ("keep_yearly", _year, "the newest of its year"),
)


@dataclass(frozen=True, slots=True)
class Retention:
    """How long a backend keeps the objects of each series. An object is kept when any part of the rule keeps it.

    With `max_age`, older objects are deleted unless a `keep_*` keeps them. With `keep_daily`, `keep_weekly`,
    `keep_monthly` or `keep_yearly` and no `max_age`, objects that none of them (nor `keep_last`) keeps are deleted
    at any age. With neither, everything is kept: `keep_last` is a minimum and deletes nothing by itself.

    Parameters
    ----------
    max_age
        Objects up to this age are kept. None: age keeps nothing.
    keep_last
        The number of newest objects of each series to keep at any age; at least 1, the default. Objects of one
        instant count as one, since their order is unknown.
    keep_daily, keep_weekly, keep_monthly, keep_yearly
        The number of days, weeks (from Monday), months and years of which to keep the newest object, in local
        time as ``{now}`` is (`fsbackup.clock`); periods without any object do not count. 0 by default.
    series
        A regular expression whose groups name the series of a key, see `series_of`.
    destinations
        Destination templates of jobs: keys that differ only in the text of ``{now}`` are a series. A key that
        matches neither these nor `series` is a series of its own, and is kept.
    archives
        The rules of the PostgreSQL archives on the backend, each of which decides alone for what is below its
        prefix.

    Raises
    ------
    ConfigError
        For a number or an age below its minimum, a `series` that is not a regular expression with a group, or a
        destination that is not a template.
    """

    max_age: timedelta | None = None
    keep_last: int = 1
    keep_daily: int = 0
    keep_weekly: int = 0
    keep_monthly: int = 0
    keep_yearly: int = 0
    series: str | None = None
    destinations: tuple[str, ...] = ()
    archives: tuple[ArchiveRule, ...] = ()

    def __post_init__(self) -> None:
        if self.max_age is not None and self.max_age <= timedelta():
            raise ConfigError(f"max_age must be greater than 0, not {self.max_age}")
        for name, _, _ in _PERIODS:
            least = 1 if name == "keep_last" else 0
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}, not {getattr(self, name)}")
        _ = self.pattern
        if isinstance(self.destinations, str):
            raise ConfigError("destinations must be a list of templates, not one string", hint="put it in a list")
        # A tuple whatever the caller passed: a rule is compared, and is a key of dictionaries.
        object.__setattr__(self, "destinations", tuple(self.destinations))
        object.__setattr__(self, "archives", tuple(self.archives))
        for template in self.destinations:
            compile_template(template)

    @property
    def pattern(self) -> re.Pattern[str] | None:
        """`series` compiled, None when there is none."""
        if self.series is None:
            return None
        try:
            pattern = re.compile(self.series)
        except re.error as error:
            raise ConfigError(f"series is not a regular expression: {error}") from None
        if not pattern.groups:
            raise ConfigError("series must have a group", hint="put the part that names the series in parentheses")
        return pattern

    @property
    def deletes(self) -> bool:
        """Whether the rule can delete anything."""
        return self.deletes_versions or any(each.deletes for each in self.archives)

    @property
    def deletes_versions(self) -> bool:
        """Whether the rule can delete older versions of a series."""
        return self.max_age is not None or any(getattr(self, name) for name, _, _ in _PERIODS[1:])

    @property
    def keeps_periods(self) -> bool:
        """Whether it keeps the newest of days, weeks, months or years: then older does not mean sooner deleted."""
        return any((self.keep_daily, self.keep_weekly, self.keep_monthly, self.keep_yearly))

    def covers(self, other: Retention | None) -> bool:
        """Tell whether this rule keeps whatever `other` keeps, None being a rule that keeps everything.

        The destinations count for nothing here: they tell which keys are of one series, and jobs of other sets
        that share the backend add theirs. Nor do the archives, whose rules are the same on all backends.
        """
        if not self.deletes_versions:
            return True
        if other is None or not other.deletes_versions or self.series not in (None, other.series):
            return False
        counts = (getattr(self, name) >= getattr(other, name) for name, _, _ in _PERIODS)
        return (self.max_age or timedelta()) >= (other.max_age or timedelta()) and all(counts)

    @property
    def max_chosen(self) -> int:
        """How many times of one series `choose` can pick."""
        return sum(getattr(self, name) for name, _, _ in _PERIODS)

    def choose(self, times: Iterable[float]) -> dict[float, int]:
        """Return the times (epoch seconds) that a `keep_*` picks, each with its rules as bits for `describe`.

        Choosing from the times chosen before and any further ones gives the same result as choosing from all times
        at once: times that were not chosen need not be kept.
        """
        newest_first = sorted(set(times), reverse=True)
        chosen: dict[float, int] = {}
        for bit, (name, period, _) in enumerate(_PERIODS):
            for when in _newest_of_each(newest_first, getattr(self, name), period):
                chosen[when] = chosen.get(when, 0) | 1 << bit
        return chosen

    def count(self, bits: Iterable[int]) -> dict[str, int]:
        """Return how many times each `keep_*` picked, from the bits of each; without those that pick none."""
        picked = list(bits)
        counts = {name: sum(each >> bit & 1 for each in picked) for bit, (name, _, _) in enumerate(_PERIODS)}
        return {name: count for name, count in counts.items() if count}

    def describe(self, bits: int) -> list[str]:
        """Return the texts of the rules that `choose` returned as `bits`."""
        words = [text for bit, (_, _, text) in enumerate(_PERIODS) if bits >> bit & 1]
        return [each.format(newest=_newest(self.keep_last)) for each in words]


def _newest(count: int) -> str:
    return "the newest" if count == 1 else f"one of the newest {count}"


def _newest_of_each(
    newest_first: Iterable[float], count: int, period: Callable[[float], float]
) -> Iterable[float]:
    # Where a zone goes back over midnight, a day comes twice: it is one period all the same.
    seen: set[float] = set()
    for when in newest_first:
        current = period(when)
        if current in seen:
            continue
        if len(seen) == count:
            return
        seen.add(current)
        yield when
