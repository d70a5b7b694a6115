"""The state directory of this machine, small files in it, and the locks: one run of a job at a time.

A lock is `flock` on a file that stays: the kernel frees it with the process, however that ends. What is in the
file says who holds it, for people. On a machine without a place for it nothing is locked, which is logged: two
runs at once waste time and traffic, and harm nothing.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from fsbackup.errors import AlreadyRunningError

log = logging.getLogger("fsbackup.state")

#: Bytes of a file of `write_json`.
_MAX_JSON = 1 << 20
#: Seconds between two tries to get a lock that somebody holds.
_TICK = 0.2


def state_directory(configured: str | None = None) -> Path:
    """Return where state is kept.

    `configured`; else ``$XDG_STATE_HOME/fsbackup``; else ``/var/lib/fsbackup`` for root, and
    ``~/.local/state/fsbackup`` for anybody else.
    """
    if configured:
        return Path(configured)
    if os.path.isabs(home := os.environ.get("XDG_STATE_HOME", "")):
        return Path(home) / "fsbackup"
    if os.geteuid() == 0:
        return Path("/var/lib/fsbackup")
    return Path(os.path.expanduser("~/.local/state/fsbackup"))


def read_json(path: Path) -> Any:
    """Return what a file of `write_json` holds, None when it is missing, unreadable, damaged or too large."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_JSON + 1)
        return json.loads(data) if len(data) <= _MAX_JSON else None
    except (OSError, ValueError, RecursionError):
        return None


def write_json(path: Path, value: object) -> None:
    """Replace a file in one step; where there is no place for it, nothing is written. A crash may lose it."""
    temp = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w") as file:
            json.dump(value, file)
        temp.replace(path)
    except OSError as error:
        log.debug("%s was not written: %s", path, error)
        with suppress(OSError):
            temp.unlink(missing_ok=True)


@contextmanager
def run_lock(directory: Path, name: str, what: str, *, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock `name` during the block.

    Parameters
    ----------
    directory
        The state directory; it is made when it is missing.
    name
        The file's name: letters, digits, ``-``, ``_`` and ``.``.
    what
        What is run, for messages.
    wait
        Seconds to wait while somebody else holds it.

    Raises
    ------
    AlreadyRunningError
        When somebody else still holds it; the message has their process and since when.
    """
    file = _open(directory / "locks", name, what)
    if file is None:
        yield
        return
    try:
        _acquire(file, what, wait)
        os.ftruncate(file, 0)
        os.pwrite(file, f"process {os.getpid()} since {datetime.now():%Y-%m-%d %H:%M:%S}".encode(), 0)
        yield
    finally:
        os.close(file)


def _open(directory: Path, name: str, what: str) -> int | None:
    """Return the descriptor of a lock's file, None where there can be none."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(directory / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        log.warning("%s runs without a lock: %s: %s; set state_dir", what, error.filename, error.strerror)
        return None


def _acquire(file: int, what: str, wait: float) -> None:
    deadline, has_waited = time.monotonic() + wait, False
    while not _try(file):
        if time.monotonic() >= deadline:
            hint = "wait for it with --lock-wait"
            raise AlreadyRunningError(f"{what} is already running: {_holder(file)}", hint=hint)
        if not has_waited:
            log.info("waiting: %s is already running: %s", what, _holder(file))
            has_waited = True
        time.sleep(max(0.0, min(_TICK, deadline - time.monotonic())))


def _try(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(file: int) -> str:
    return os.pread(file, 200, 0).decode(errors="replace") or "a process that has just begun"
