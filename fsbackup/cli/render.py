"""What commands print on standard output: numbers, tables, reports with a verdict line, JSON.

Every report has the same form: tables, one line per problem, and last the verdict::

    STATUS: counts; what remains. Next: what to do

Names of objects and files may contain anything, so control characters are escaped before a terminal sees them.
Log lines (`logs`) and the progress display (`progress`) go to standard error.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from fsbackup.redact import redact, redact_values

#: Characters that a terminal may interpret as a command.
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")
#: Invisible letters, and those that turn the direction of what follows: a name on a terminal is not what it seems.
_INVISIBLE = re.compile("[\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e007f]")
_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB")
#: Columns of formatted quantities, flush right like numbers.
_QUANTITIES = frozenset({"age", "freed", "generation", "objects", "seconds", "sent", "size"})

#: One row of a table: cells by column name. Numbers get thousands separators and are flush right.
Row = Mapping[str, str | int]


def configure_streams() -> None:
    """Print names that are not valid text as the bytes they are, instead of raising UnicodeEncodeError."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            unicode = (stream.encoding or "").lower().replace("-", "") == "utf8"
            reconfigure(errors="surrogateescape" if unicode else "backslashreplace")


def escape(text: str) -> str:
    """Return `text` with its control characters escaped, except line breaks."""
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def one_line(text: str) -> str:
    """Return `text` with all its control characters escaped."""
    return escape(text).replace("\n", "\\n")


def size(number: int) -> str:
    """Return a number of bytes with a binary unit: ``812 B``, ``1.4 MiB``."""
    if number < 1024:
        return f"{number} B"
    value = float(number)
    for unit in _UNITS:
        value /= 1024
        if value < 999.95 or unit == _UNITS[-1]:
            break
    return f"{value:.1f} {unit}"


def count(number: int, singular: str, plural: str | None = None) -> str:
    """Return ``1 file`` or ``2,000 files``."""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def time(epoch: float | None) -> str:
    """Return local date and time to the minute, ``-`` for None."""
    return "-" if epoch is None else datetime.fromtimestamp(epoch).strftime("%Y-%m-%d %H:%M")


def age(seconds: float) -> str:
    """Return an age in minutes, hours or days: ``40m``, ``26h``, ``12d``."""
    minutes = max(0, int(seconds // 60))
    if minutes < 120:
        return f"{minutes}m"
    return f"{minutes // 60}h" if minutes < 72 * 60 else f"{minutes // 1440}d"


def remaining(number: int, what: str, singular: str = "object", plural: str | None = None) -> str:
    """Return ``2 objects lost`` for a verdict, "" (which a verdict leaves out) when the number is 0."""
    return f"{count(number, singular, plural)} {what}" if number else ""


def unreachable(backends: Collection[str]) -> str:
    """Return the part of a verdict about backends that did not answer, "" when all did."""
    return f"{', '.join(backends)} unreachable: replicas there are unknown" if backends else ""


def reasons(errors: Mapping[str, str | None], what: str = "unreachable") -> list[str]:
    """Return a line for each backend that did not answer, with the reason: too long for a cell of a table."""
    return [f"{name}: {what}: {why.removeprefix(f'{name}: ')}" for name, why in errors.items() if why]


def repair(prefix: str, set_name: str) -> str:
    """Return the command that repairs what was looked at: sets may share backends, so never more than that."""
    return f"`fsbackup repair{f' {prefix}' if prefix else ''} --set {set_name}`"


def passed_over(backend: str, count_of: int, names: Sequence[str]) -> list[str]:
    """Return a line about what other programs left on a backend, none when there is nothing."""
    if not count_of:
        return []
    more = ", ..." if count_of > len(names) else ""
    what = count(count_of, "entry", "entries")
    return [f"passed over: {backend}: {what} of other programs ({', '.join(names)}{more})"]


def verdict(status: str, *parts: str, next_step: str = "") -> str:
    """Return the last line of a report; empty parts are left out."""
    line = f"{status}: {'; '.join(filter(None, parts))}"
    return f"{line}. Next: {next_step}" if next_step else line


def used_columns(columns: Iterable[str], counts: Collection[Mapping[Any, int]]) -> list[str]:
    """Return the columns in which any row of `counts` has a number other than 0."""
    return [column for column in columns if any(row.get(column) for row in counts)]


def format_table(rows: Sequence[Row]) -> list[str]:
    """Return a head and `rows` (at least one, all with the same columns) as aligned lines."""
    columns = {name: [name, *(_cell(row[name]) for row in rows)] for name in rows[0]}
    for name, cells in columns.items():
        width = max(map(len, cells))
        flush_right = name in _QUANTITIES or isinstance(rows[0][name], int)
        columns[name] = [cell.rjust(width) if flush_right else cell.ljust(width) for cell in cells]
    return ["  ".join(line).rstrip() for line in zip(*columns.values(), strict=True)]


def _cell(value: str | int) -> str:
    return f"{value:,}" if isinstance(value, int) else one_line(value)


def print_report(*tables: Sequence[Row], problems: Iterable[str] = (), verdict: str) -> None:
    """Print tables, each with a blank line after it, a line for each problem, and the verdict."""
    for rows in tables:
        print_table(rows)
        print()
    for line in problems:
        _print(redact(one_line(line)))
    print_line(verdict)


def print_table(rows: Sequence[Row]) -> None:
    """Print `rows` (at least one) with a head."""
    for line in format_table(rows):
        _print(redact(line))


def _print(text: str, *, to_stderr: bool = False) -> None:
    """Print a text; on a terminal with the letters escaped that nobody would see."""
    stream = sys.stderr if to_stderr else sys.stdout
    if stream.isatty():
        text = _INVISIBLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
    print(text, file=stream)


def print_key(line: str) -> None:
    """Print a line that is a key, or ends with one."""
    _print(one_line(line))


def print_line(line: str = "") -> None:
    """Print a line of text."""
    _print(redact(escape(line)))


def print_error(line: str) -> None:
    """Print a line that is no result on standard error."""
    _print(redact(escape(line)), to_stderr=True)


def print_json(value: Any) -> None:
    """Print one JSON document."""
    print(json.dumps(redact_values(value), indent=2))


def print_json_line(value: Any) -> None:
    """Print one JSON object on one line, and flush it."""
    print(json.dumps(redact_values(value), separators=(",", ":")), flush=True)
