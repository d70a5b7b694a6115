"""How a command ends: the exit codes, and the message of an error."""

from __future__ import annotations

import os
import sys
import traceback
from argparse import Namespace
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, Any

from fsbackup.cli import render
from fsbackup.errors import AlreadyRunningError, ConfigError, FsbackupError, ObjectLostError, ObjectNotFoundError
from fsbackup.redact import redact

if TYPE_CHECKING:
    from fsbackup.engine.results import BaseReport

COMPLETE = 0
FAILED = 1
USAGE = 2
DEGRADED = 3
#: Proven: every backend that must answer has answered that there is no such object, or none at or below a prefix.
ABSENT = 4
#: As BSD's sysexits has it for what may be tried again later (EX_TEMPFAIL).
BUSY = 75
#: Ended by a signal, as shells report it: 128 plus the signal's number.
HUNG_UP = 129
INTERRUPTED = 130
BROKEN_PIPE = 141
TERMINATED = 143

BY_STATUS = {"complete": COMPLETE, "degraded": DEGRADED, "busy": BUSY, "failed": FAILED}

MEANING = {
    COMPLETE: "complete: every replica is good",
    FAILED: "failed or unknown: something is not stored, not verified, or not known because a backend is away",
    USAGE: "wrong usage or configuration; nothing was done",
    DEGRADED: "degraded: at least min_copies good replicas, but not all",
    ABSENT: "absent: every backend answered that it has no such object (get, stat), or nothing below the prefix",
    BUSY: "another run of the job is under way; nothing was done",
    INTERRUPTED: "interrupted by Ctrl-C (143: SIGTERM, 129: SIGHUP); no partial object was stored",
}

_SEVERITY = (COMPLETE, DEGRADED, ABSENT, BUSY, FAILED, USAGE)


def worst(codes: Iterable[int]) -> int:
    """Return the most severe exit code, `COMPLETE` when there is none."""
    return max(codes, key=_SEVERITY.index, default=COMPLETE)


def of_report(args: Namespace, report: BaseReport, show: Callable[[], None]) -> int:
    """Print a report, as JSON or with `show`, which ``-q`` leaves out when all is well; return the exit code."""
    if args.json:
        render.print_json(report.as_dict())
    elif not (args.quiet and report.status == "complete"):
        show()
    return BY_STATUS[report.status]


def report_error(error: Exception, args: Namespace, *, job: str | None = None) -> int:
    """Print why a command (or one job of it) failed, and return its exit code."""
    expected = isinstance(error, FsbackupError | OSError)
    if not expected or args.verbose > 1 or os.environ.get("FSBACKUP_DEBUG"):
        print(redact("".join(traceback.format_exception(error))), file=sys.stderr, end="")
    for line in _error_lines(error):
        render.print_error(line)
    if args.json:
        fields = {"kind": "job", "job": job, "status": "failed"} if job else {}
        render.print_json_line({**fields, "error": error_as_dict(error)})
    if isinstance(error, AlreadyRunningError):
        return BUSY
    if isinstance(error, ConfigError):
        return USAGE
    is_absent = isinstance(error, ObjectNotFoundError) and not isinstance(error, ObjectLostError)
    return ABSENT if is_absent else FAILED


def nothing_stored(prefix: str, unreachable: Collection[str]) -> tuple[int, str]:
    """Return exit code and verdict where no backend that answered has an object at or below a prefix."""
    what = f"nothing is stored{f' at or below {prefix}' if prefix else ''}"
    if unreachable:
        known = f"{what} on the backends that answered"
        return FAILED, render.verdict("failed", known, render.unreachable(unreachable))
    next_step = "check the prefix, and whether the disks are mounted; --allow-empty accepts it"
    return ABSENT, render.verdict("failed", f"{what}, all backends answered", next_step=next_step)


def _error_lines(error: Exception) -> list[str]:
    if not isinstance(error, FsbackupError | OSError):
        return [f"fsbackup: internal error, please report it: {type(error).__name__}: {error}"]
    problems = getattr(error, "problems", None)
    if problems is None:
        return [f"fsbackup: {error_message(error)}"]
    count = render.count(len(problems), "problem")
    return [*map(str, problems), f"fsbackup: {count} in the configuration; nothing was done"]


def error_message(error: Exception) -> str:
    """Return the error in one line, including its hint."""
    if isinstance(error, OSError) and not isinstance(error, FsbackupError):
        name = f"{error.filename}: " if error.filename is not None else ""
        return f"{name}{error.strerror or error}"
    return str(error)


def error_as_dict(error: Exception) -> dict[str, Any]:
    """Return the error as plain JSON types."""
    fields = {name: getattr(error, name, None) for name in ("backend", "operation", "key", "hint")}
    result: dict[str, Any] = {"type": type(error).__name__, "message": error_message(error), **fields}
    problems = getattr(error, "problems", None)
    if problems is not None:
        result["problems"] = [
            {"file": each.file, "line": each.line, "field": each.field, "message": each.message}
            for each in problems
        ]
    return result
