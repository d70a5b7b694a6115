"""Where a command's results go: standard output, for people or as JSON. Never logs, never progress."""

from __future__ import annotations

import json
import sys
from typing import Any

from fsbackup.cli import text


def prepare() -> None:
    """Let names that are not valid text pass through as the bytes they are, instead of failing the command."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            unicode = (stream.encoding or "").lower().replace("-", "") == "utf8"
            reconfigure(errors="surrogateescape" if unicode else "backslashreplace")


def print_line(line: str = "") -> None:
    """Print a line for people."""
    print(text.clean(line))


def print_table(rows: list[list[str]], *, right: tuple[int, ...] = ()) -> None:
    """Print rows, the first of which is the head, as a table."""
    for line in text.table([[text.one_line(cell) for cell in row] for row in rows], right=right):
        print(line)


def print_json(value: Any) -> None:
    """Print one JSON document."""
    print(json.dumps(value, indent=2))


def print_json_line(value: Any) -> None:
    """Print one JSON object on a line of its own."""
    print(json.dumps(value, separators=(",", ":")), flush=True)


def print_note(line: str) -> None:
    """Print a line for people that is no result, on standard error."""
    print(text.clean(line), file=sys.stderr)
