"""Human output: clean text, sizes, tables. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime

#: What a terminal may take for a command. Names of files may hold anything.
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")
_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB")


def clean(text: str) -> str:
    """Return `text` with its control characters written out; line breaks stay."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def one_line(text: str) -> str:
    """Return `text` with all its control characters written out."""
    return clean(text).replace("\n", "\\n")


def size(count: int) -> str:
    """Return a number of bytes as people read it: ``812 B``, ``1.4 MiB``."""
    if count < 1024:
        return f"{count} B"
    value = float(count)
    for unit in _UNITS:
        value /= 1024
        if value < 999.95 or unit == _UNITS[-1]:
            break
    return f"{value:.1f} {unit}"


def count(number: int, one: str, many: str | None = None) -> str:
    """Return ``1 file`` or ``2,000 files``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def when(epoch: float | None) -> str:
    """Return a time as local date and time to the minute; ``-`` when it is not known."""
    return "-" if epoch is None else datetime.fromtimestamp(epoch).strftime("%Y-%m-%d %H:%M")


def table(rows: Sequence[Sequence[str]], *, right: Iterable[int] = ()) -> list[str]:
    """Return rows (the first is the head) as aligned lines; the columns in `right` are set flush right."""
    flush = set(right)
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return ["  ".join(_cells(row, widths, flush)).rstrip() for row in rows]


def _cells(row: Sequence[str], widths: Sequence[int], flush: set[int]) -> list[str]:
    return [
        cell.rjust(width) if at in flush else cell.ljust(width)
        for at, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
