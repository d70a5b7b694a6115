"""What the exit codes mean: the one map."""

from __future__ import annotations

import os
import sys
import traceback
from argparse import Namespace
from collections.abc import Iterable
from typing import Any

from fsbackup.cli import render
from fsbackup.cli.redact import redact
from fsbackup.errors import ConfigError, FsbackupError

COMPLETE = 0
FAILED = 1
USAGE = 2
DEGRADED = 3
#: As a shell reports a program that a signal ended: 128 and the signal's number.
INTERRUPTED = 130
BROKEN_PIPE = 141
TERMINATED = 143

OF_STATUS = {"complete": COMPLETE, "degraded": DEGRADED, "failed": FAILED}

MEANING = {
    COMPLETE: "complete: every replica is good",
    FAILED: "failed: something is not stored, not found or not proven",
    USAGE: "wrong usage or configuration; nothing was done",
    DEGRADED: "degraded: enough copies (min_copies), but not all",
    INTERRUPTED: "interrupted by Ctrl-C (143: by SIGTERM); nothing unfinished was stored",
}

_SEVERITY = (COMPLETE, DEGRADED, FAILED, USAGE)


def worst(codes: Iterable[int]) -> int:
    """Return the worst of several outcomes; none at all is complete."""
    return max(codes, key=_SEVERITY.index, default=COMPLETE)


def explain(error: Exception, args: Namespace, *, job: str | None = None) -> int:
    """Print why a command (or one job of it) failed, and return the exit code that says so."""
    expected = isinstance(error, FsbackupError | OSError)
    if not expected or args.verbose > 1 or os.environ.get("FSBACKUP_DEBUG"):
        print(redact("".join(traceback.format_exception(error))), file=sys.stderr, end="")
    for line in _lines(error) if expected else _unexpected(error):
        render.print_note(redact(line))
    if args.json:
        which = {"kind": "job", "job": job, "status": "failed"} if job else {}
        render.print_json_line(_redacted({**which, "error": as_dict(error)}))
    return USAGE if isinstance(error, ConfigError) else FAILED


def _lines(error: Exception) -> list[str]:
    problems = getattr(error, "problems", None)
    if problems is not None:
        what = "is 1 problem" if len(problems) == 1 else f"are {len(problems)} problems"
        return [*map(str, problems), f"fsbackup: there {what} in the configuration; nothing was done"]
    return [f"fsbackup: {message(error)}"]


def message(error: Exception) -> str:
    """Return the error in one line, its hint included."""
    if isinstance(error, OSError) and not isinstance(error, FsbackupError):
        name = f"{error.filename}: " if error.filename is not None else ""
        return f"{name}{error.strerror or error}"
    return str(error)


def reason(error: FsbackupError | None) -> str:
    """Return what is wrong and what to do, for a line that says already where."""
    return "" if error is None else f"{error.message} - {error.hint}" if error.hint else error.message


def _unexpected(error: Exception) -> list[str]:
    return [f"fsbackup: this is a fault of fsbackup itself, please report it: {type(error).__name__}: {error}"]


def as_dict(error: Exception) -> dict[str, Any]:
    """Return the error as plain JSON types."""
    fields = {name: getattr(error, name, None) for name in ("backend", "operation", "key", "hint")}
    result: dict[str, Any] = {"type": type(error).__name__, "message": message(error), **fields}
    problems = getattr(error, "problems", None)
    if problems is not None:
        result["problems"] = [
            {"file": each.file, "line": each.line, "field": each.field, "message": each.message}
            for each in problems
        ]
    return result


def _redacted(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _redacted(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_redacted(each) for each in value]
    return redact(value) if isinstance(value, str) else value
