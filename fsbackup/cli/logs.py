"""Log lines on standard error: as text or as JSON, one per event, without a single secret.

By default only warnings and errors are shown, so that a job that went well is silent and cron mails failures only.
"""

from __future__ import annotations

import json
import logging
import sys
from collections import Counter
from datetime import datetime
from typing import Any

from fsbackup.cli import render
from fsbackup.cli.redact import redact
from fsbackup.events import FIELDS

#: How many errors of one kind are shown where not everything is asked for.
_REPEATS = 3
#: The fields that a text line has in its message already.
_IN_MESSAGE = frozenset({"backend", "operation", "key", "outcome", "error"})


class TextFormatter(logging.Formatter):
    """``12:30:05 INFO  upload ok: r2 backups/db.sql.gz size=1024 seconds=0.31``."""

    def format(self, record: logging.LogRecord) -> str:
        fields = [f"{name}={value}" for name, value in structured(record).items() if name not in _IN_MESSAGE]
        moment = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        head = f"{moment} {record.levelname:<7} {render.one_line(record.getMessage())}"
        line = " ".join([head, *fields])
        return redact(f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line)


class JsonFormatter(logging.Formatter):
    """One JSON object per line: ``time``, ``level``, ``logger``, ``message``, and the fields of `events`."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **structured(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(
            {name: redact(value) if isinstance(value, str) else value for name, value in line.items()}
        )


def structured(record: logging.LogRecord) -> dict[str, Any]:
    """Return the structured fields of a log record that have a value."""
    fields = {name: getattr(record, name, None) for name in FIELDS}
    return {name: value for name, value in fields.items() if value is not None}


class FewRepeats(logging.Filter):
    """Lets the first errors of one kind from one backend through; a dead backend fails every file alike."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: Counter[tuple[Any, ...]] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        backend = getattr(record, "backend", None)
        if backend is None or record.levelno < logging.ERROR:
            return True
        kind = (backend, getattr(record, "operation", None), getattr(record, "error_type", None))
        self._seen[kind] += 1
        if self._seen[kind] == _REPEATS:
            record.msg = f"{record.getMessage()} (more of the same are not shown, -v shows each)"
            record.args = ()
        return self._seen[kind] <= _REPEATS


class _CurrentStderr(logging.StreamHandler[Any]):
    """Writes to whatever standard error is at the moment: a progress display takes its place for a while."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        return sys.stderr


def configure(*, verbosity: int, form: str) -> None:
    """Send log lines to standard error.

    Parameters
    ----------
    verbosity
        -1: errors; 0: warnings too; 1: every outcome; 2: debugging.
    form
        ``"text"`` or ``"json"``.
    """
    handler = _CurrentStderr()
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    if form == "text" and verbosity <= 0:
        handler.addFilter(FewRepeats())
    # Others' libraries say at WARNING what matters; below it they talk about requests and their headers.
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    level = {-1: logging.ERROR, 0: logging.WARNING, 1: logging.INFO}.get(verbosity, logging.DEBUG)
    logging.getLogger("fsbackup").setLevel(level)
    logging.captureWarnings(True)
