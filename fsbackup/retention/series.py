"""Which keys are versions of one thing: a *series*. Pure text.

A series is named by fsbackup or its user: by the ``{now}`` of a destination template, or the groups of a rule's
`series`. Dates are never guessed. The number of a tenant, an id or a photo's directory can look like one, and two
things taken for versions of one cost the older of them; any other key is a series of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from fsbackup.retention.template import CompiledTemplate, compile_template, is_calendar_day

#: A key with each ``{now}`` in the place of what it made, or what the groups of a `series` expression matched.
Series = str | tuple[str | None, ...]


def series_of(key: str, pattern: re.Pattern[str] | None = None, destinations: Iterable[str] = ()) -> Series | None:
    """Return the series of `key`, or None when it is a series of its own.

    Parameters
    ----------
    key
        The object's key.
    pattern
        A rule's own `series`: where it is found in the key, its groups name the series, and `destinations` do
        not count.
    destinations
        Destination templates, as jobs have them. A key that one of them made is of the series of all keys that
        differ only in what ``{now}`` made. A template without ``{now}``, or whose format cannot be matched, makes
        no series. A key that can be read in several ways, by one template or by several, is a series of its own.
    """
    found = pattern.search(key) if pattern is not None else None
    if found is not None:
        return found.groups()
    readings = _readings(key, destinations)
    return readings.pop() if len(readings) == 1 and key not in readings else None


def why_no_series(key: str, destinations: Iterable[str] = ()) -> str:
    """Return in words why `series_of` returned None."""
    if len(_readings(key, destinations)) > 1:
        return "no series: its key can be read in more than one way by the jobs' destinations"
    return "no series: its key matches no job's destination with {now} and no `series`"


def _readings(key: str, destinations: Iterable[str]) -> set[str]:
    """Return all that the key could be: itself where a template reads it as one thing that has no versions."""
    return {reading for each in destinations for reading in _read(key, _compiled(each))}


def _read(key: str, template: CompiledTemplate) -> Iterable[str]:
    shortest = template.shortest.fullmatch(key)
    if shortest is None:
        return ()
    if not template.formats:
        return (key,)
    # Fields that can be split in several ways are split in both extreme ways. If these agree on what {now}
    # made, no way between them differs.
    longest = template.longest.fullmatch(key)
    found = (shortest,) if longest is None or longest.regs == shortest.regs else (shortest, longest)
    return [_without_now(each, template.formats) for each in found]


def _without_now(found: re.Match[str], formats: tuple[str, ...]) -> str:
    key = found.string
    if not is_calendar_day(found):
        return key
    parts, end = [], 0
    for number, spec in enumerate(formats):
        # No key has a NUL, so a key with the text "{now}" of its own is not taken for this.
        parts += [key[end : found.start(f"now{number}")], f"\0{{now:{spec}}}"]
        end = found.end(f"now{number}")
    return "".join([*parts, key[end:]])


_compiled = lru_cache(maxsize=None)(compile_template)
