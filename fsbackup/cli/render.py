"""Human output: clean text, sizes, tables. Pure."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

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


def format_table(rows: Sequence[Sequence[str]], *, right: Iterable[int] = ()) -> list[str]:
    """Return rows (the first is the head) as aligned lines; the columns in `right` are set flush right."""
    flush = set(right)
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return ["  ".join(_cells(row, widths, flush)).rstrip() for row in rows]


def _cells(row: Sequence[str], widths: Sequence[int], flush: set[int]) -> list[str]:
    return [
        cell.rjust(width) if at in flush else cell.ljust(width)
        for at, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]


def prepare() -> None:
    """Let names that are not valid text pass through as the bytes they are, instead of failing the command."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            unicode = (stream.encoding or "").lower().replace("-", "") == "utf8"
            reconfigure(errors="surrogateescape" if unicode else "backslashreplace")


def print_line(line: str = "") -> None:
    """Print a line for people."""
    print(clean(line))


def print_table(rows: list[list[str]], *, right: tuple[int, ...] = ()) -> None:
    """Print rows, the first of which is the head, as a table."""
    for line in format_table([[one_line(cell) for cell in row] for row in rows], right=right):
        print(line)


def print_json(value: Any) -> None:
    """Print one JSON document."""
    print(json.dumps(value, indent=2))


def print_json_line(value: Any) -> None:
    """Print one JSON object on a line of its own."""
    print(json.dumps(value, separators=(",", ":")), flush=True)


def print_note(line: str) -> None:
    """Print a line for people that is no result, on standard error."""
    print(clean(line), file=sys.stderr)
