"""What a person gets to read when a command fails: one clear message, and what to do about it."""

from __future__ import annotations

import os
import sys
import traceback
from argparse import Namespace
from typing import Any

from fsbackup.cli import exits, output
from fsbackup.cli.redact import redact
from fsbackup.errors import ConfigError, FsbackupError


def explain(error: Exception, args: Namespace, *, job: str | None = None) -> int:
    """Print why a command (or one job of it) failed, and return the exit code that says so."""
    expected = isinstance(error, FsbackupError | OSError)
    if not expected or args.verbose > 1 or os.environ.get("FSBACKUP_DEBUG"):
        print(redact("".join(traceback.format_exception(error))), file=sys.stderr, end="")
    for line in _lines(error) if expected else _unexpected(error):
        output.print_note(redact(line))
    if args.json:
        which = {"kind": "job", "job": job, "status": "failed"} if job else {}
        output.print_json_line(_redacted({**which, "error": as_dict(error)}))
    return exits.USAGE if isinstance(error, ConfigError) else exits.FAILED


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
