"""Series: which keys are versions of one thing. Pure text processing.

A series is named by fsbackup or its user: by the ``{now}`` of a destination template, or by the groups of a rule's
`series`. Dates in keys are never guessed: the number of a tenant, an id or the directory of a photo can look like
a date, and of two things wrongly taken for versions of one, retention would delete the older. Any other key is a
series of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from fsbackup.retention.template import CompiledTemplate, compile_template, is_calendar_day

#: A key with each ``{now}`` in place of its text, or the texts that the groups of a `series` expression matched.
Series = str | tuple[str | None, ...]
#: Why a key has no series.
AMBIGUOUS = "no series: its key matches the jobs' destinations in more than one way"
UNNAMED = "no series: its key matches no job's destination with {now} and no `series`"


def series_of(key: str, pattern: re.Pattern[str] | None = None, destinations: Iterable[str] = ()) -> Series | None:
    """Return the series of `key`, None when it is a series of its own.

    Parameters
    ----------
    key
        The object's key.
    pattern
        The `series` of a rule: where it matches in the key, its groups name the series, and `destinations` are
        ignored.
    destinations
        Destination templates of jobs. A key that matches one of them belongs to the series of all keys that differ
        only in the text of ``{now}``. A template without ``{now}``, or with a format that cannot be matched, makes
        no series. A key with more than one reading, by one template or by several, is a series of its own.
    """
    return find_series(key, pattern, destinations)[0]


def find_series(
    key: str, pattern: re.Pattern[str] | None = None, destinations: Iterable[str] = ()
) -> tuple[Series | None, str]:
    """Return the series of `key` as `series_of` does, and where there is none, the reason as text."""
    found = pattern.search(key) if pattern is not None else None
    if found is not None:
        return found.groups(), ""
    readings = _readings(key, destinations)
    if len(readings) > 1:
        return None, AMBIGUOUS
    if not readings or key in readings:
        return None, UNNAMED
    return readings.pop(), ""


def series_name(series: Series) -> str:
    """Return the name of a series for people."""
    if isinstance(series, str):
        return series.replace("\0", "")
    return ", ".join(each or "-" for each in series)


def _readings(key: str, destinations: Iterable[str]) -> set[str]:
    """Return all readings of the key; a template that makes no series reads it as itself."""
    return {reading for each in destinations for reading in _read(key, _compiled(each))}


def _read(key: str, template: CompiledTemplate) -> Iterable[str]:
    shortest = template.shortest.fullmatch(key)
    if shortest is None:
        return ()
    if not template.formats:
        return (key,)
    # Where fields can be split in several ways, the two extreme ways are compared. If they agree on the text of
    # {now}, so does every way between them.
    longest = template.longest.fullmatch(key)
    found = (shortest,) if longest is None or longest.regs == shortest.regs else (shortest, longest)
    return [_without_now(each, template.formats) for each in found]


def _without_now(found: re.Match[str], formats: tuple[str, ...]) -> str:
    key = found.string
    if not is_calendar_day(found):
        return key
    parts, end = [], 0
    for number, spec in enumerate(formats):
        # No key has a NUL: a key that contains the text "{now}" itself is not confused with this.
        parts += [key[end : found.start(f"now{number}")], f"\0{{now:{spec}}}"]
        end = found.end(f"now{number}")
    return "".join([*parts, key[end:]])


_compiled = lru_cache(maxsize=None)(compile_template)
