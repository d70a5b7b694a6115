"""Durations and sizes as people write them: ``30d``, ``8MiB``. Pure, and each reading has its writing."""

from __future__ import annotations

import re
from datetime import timedelta

#: Seconds per unit, the longest first.
_SECONDS = {"y": 365 * 86_400, "w": 7 * 86_400, "d": 86_400, "h": 3_600, "m": 60, "s": 1}
#: The longest duration; anything longer is a slip of the finger and overflows `timedelta` in the end.
MAX_SECONDS = 1_000 * _SECONDS["y"]

_BYTES: dict[str, int] = {"b": 1} | {
    f"{letter}{infix}b": int(base**power)
    for power, letter in enumerate("kmgt", start=1)
    for infix, base in (("", 1_000), ("i", 1_024))
}
_WRITTEN = {"TiB": 1 << 40, "GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10}
MAX_BYTES = (1 << 63) - 1

# Twelve digits are plenty, and Python refuses to read thousands of them with an error of its own.
_DURATION = re.compile(r"([0-9]{1,12})\s*([smhdwy])")
_SIZE = re.compile(r"([0-9]{1,19})\s*([a-z]*)", re.IGNORECASE)


def parse_duration(text: str) -> timedelta:
    """Return the duration that ``90s``, ``15m``, ``26h``, ``30d``, ``2w`` or ``1y`` (365 days) stands for.

    Raises
    ------
    ValueError
        When `text` is not a whole number with one of these units, or longer than 1,000 years.
    """
    found = _DURATION.fullmatch(text)
    seconds = int(found[1]) * _SECONDS[found[2]] if found else MAX_SECONDS + 1
    if seconds > MAX_SECONDS:
        raise ValueError("not a duration")
    return timedelta(seconds=seconds)


def format_duration(duration: timedelta) -> str:
    """Return the shortest exact writing in days, hours, minutes or seconds; a fraction stays bare seconds."""
    seconds = duration.total_seconds()
    for unit in "dhms":
        if seconds % _SECONDS[unit] == 0:
            return f"{int(seconds // _SECONDS[unit])}{unit}"
    return f"{seconds:.6f}".rstrip("0")


def parse_size(text: str) -> int:
    """Return the bytes that ``8MiB``, ``64MB`` (decimal), ``1 GiB`` or ``8388608`` stands for.

    Raises
    ------
    ValueError
        When `text` is not a whole number, alone or with a unit from B to TiB (in any case), or over 2**63 - 1.
    """
    found = _SIZE.fullmatch(text)
    factor = _BYTES.get(found[2].lower() or "b") if found else None
    if found is None or factor is None or int(found[1]) * factor > MAX_BYTES:
        raise ValueError("not a size")
    return int(found[1]) * factor


def format_size(size: int) -> str:
    """Return the shortest exact writing of `size` bytes: ``8MiB``, ``1500``."""
    for unit, factor in _WRITTEN.items():
        if size and size % factor == 0:
            return f"{size // factor}{unit}"
    return str(size)
