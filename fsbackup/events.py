"""The log line of an operation's outcome, with the same structured fields everywhere.

Handlers find the fields on the `logging.LogRecord`: ``backend``, ``operation``, ``key``, ``size`` (bytes),
``seconds``, ``outcome`` (``"ok"`` or ``"failed"``), ``error_type`` and ``error``. From them upload success rates,
transfer times and failures per backend can be counted.
"""

from __future__ import annotations

import logging

from fsbackup.errors import FsbackupError

log = logging.getLogger("fsbackup.storage")
# Without any handler Python prints warnings to stderr; where lines go is the application's choice.
logging.getLogger("fsbackup").addHandler(logging.NullHandler())

#: Names of the structured fields, in the order in which text formats show them.
FIELDS = ("backend", "operation", "key", "size", "seconds", "outcome", "error_type", "error")

#: Operations that change nothing: their success is logged at DEBUG.
_QUERIES = frozenset({"exists", "get_size", "stat"})


def log_outcome(
    operation: str,
    backend: str,
    key: str,
    *,
    size: int | None = None,
    seconds: float | None = None,
    error: BaseException | None = None,
) -> None:
    """Log the outcome of `operation` on `key`: ERROR when `error` is given, else INFO (DEBUG for queries)."""
    ok = error is None
    level = logging.ERROR if not ok else logging.DEBUG if operation in _QUERIES else logging.INFO
    if not log.isEnabledFor(level):
        return
    fields = {
        "backend": backend,
        "operation": operation,
        "key": key,
        "size": size,
        "seconds": None if seconds is None else round(seconds, 3),
        "outcome": "ok" if ok else "failed",
        "error_type": None if ok else type(error).__name__,
        "error": None if ok else str(error),
    }
    text = f"{operation} {fields['outcome']}: {backend} {key}" + (
        "" if error is None else f": {_reason(error, backend)}"
    )
    log.log(level, "%s", text, extra=fields)


def _reason(error: BaseException, backend: str) -> str:
    """Return the error's text, without what the line says already."""
    return error.reason if isinstance(error, FsbackupError) and error.backend == backend else str(error)
