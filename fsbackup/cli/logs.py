"""Log lines on standard error, as text or as JSON, one per event, with secrets masked.

Only warnings and errors are shown by default: a successful job prints nothing here, and cron mails failures only.
"""

from __future__ import annotations

import json
import logging
import sys
from collections import Counter
from datetime import datetime
from typing import Any

from fsbackup.cli import render
from fsbackup.events import FIELDS
from fsbackup.redact import redact

#: How many problems of one kind are shown without -v.
_MAX_REPEATS = 3
#: Fields that the message of a text line contains already.
_IN_MESSAGE = frozenset({"backend", "operation", "key", "outcome", "error"})


class TextFormatter(logging.Formatter):
    """``12:30:05 INFO  upload ok: r2 backups/db.sql.gz size=1024 seconds=0.31``."""

    def format(self, record: logging.LogRecord) -> str:
        fields = [f"{name}={value}" for name, value in event_fields(record).items() if name not in _IN_MESSAGE]
        time = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        head = f"{time} {record.levelname:<7} {render.one_line(record.getMessage())}"
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
            **event_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(
            {name: redact(value) if isinstance(value, str) else value for name, value in line.items()}
        )


def event_fields(record: logging.LogRecord) -> dict[str, Any]:
    """Return the fields of `fsbackup.events` that the log record has."""
    fields = {name: getattr(record, name, None) for name in FIELDS}
    return {name: value for name, value in fields.items() if value is not None}


class Repeats:
    """Lets pass only the first problems of each kind."""

    def __init__(self) -> None:
        self._counts: Counter[Any] = Counter()

    def shown(self, kind: Any, text: str) -> str | None:
        """Return what to show of a problem: its text, the last time with a note; None for what comes after."""
        self._counts[kind] += 1
        if self._counts[kind] > _MAX_REPEATS:
            return None
        is_last = self._counts[kind] == _MAX_REPEATS
        return f"{text} (further ones of this kind are not shown; use -v to show all)" if is_last else text


class RepeatFilter(logging.Filter):
    """Drops all but the first problems of one kind with one backend: one that is down fails every file."""

    def __init__(self) -> None:
        super().__init__()
        self._repeats = Repeats()

    def filter(self, record: logging.LogRecord) -> bool:
        backend = getattr(record, "backend", None)
        if backend is None or record.levelno < logging.WARNING:
            return True
        kind = (backend, getattr(record, "operation", None), getattr(record, "error_type", None))
        text = self._repeats.shown(kind, record.getMessage())
        if text is None:
            return False
        record.msg, record.args = text, ()
        return True


class _StderrHandler(logging.StreamHandler[Any]):
    """Writes to the current `sys.stderr`, which the progress display replaces while it is shown."""

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
        -1: errors; 0: also warnings; 1: also every outcome; 2: also debug messages.
    form
        ``"text"`` or ``"json"``.
    """
    handler = _StderrHandler()
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    if form == "text" and verbosity <= 0:
        handler.addFilter(RepeatFilter())
    # Other libraries log requests and their headers below WARNING.
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    level = {-1: logging.ERROR, 0: logging.WARNING, 1: logging.INFO}.get(verbosity, logging.DEBUG)
    logging.getLogger("fsbackup").setLevel(level)
    logging.captureWarnings(True)
