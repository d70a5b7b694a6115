"""How a call leaves a worker behind, how that is ended, and that there is one in a directory at most.

A worker is a fork of the call, made before it has any thread or connection: what the call has loaded, and its
configuration, are there already, and loading them again would take as long as some segments do. Who starts one
takes `flock` on `spooled.LOCK` in its directory, so that it is held from then until the worker has ended, however
that is; others see it (`spooled.is_locked`), and its process id is in there. What it has to say is in `LOG`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from fsbackup.postgres import spooled

#: What the last worker wrote to standard output and standard error.
LOG = "worker.log"
#: Seconds in which one ends that is told to, and between two looks.
_PATIENCE, _TICK = 5.0, 0.01


def start(work: Callable[[], None], place: Path, *, announce: bool = False) -> None:
    """Do `work` in a process and a session of its own, as the worker of a directory, unless there is one.

    Parameters
    ----------
    work
        What to do.
    place
        The directory.
    announce
        Leave `spooled.STARTING` there, which the worker removes once it can be asked.

    Raises
    ------
    OSError
        When the directory cannot be written, or the process not be started.
    """
    lock = os.open(place / spooled.LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(lock, 0)  # the last worker's id
        if announce:
            (place / spooled.STARTING).touch()
        out = os.open(place / LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            if os.fork() == 0:
                _become(work, lock, out)
        finally:
            os.close(out)
    except BlockingIOError:
        return
    finally:
        os.close(lock)


def stop(place: Path) -> None:
    """End the worker of a directory, if there is one.

    Raises
    ------
    OSError
        When it is another user's, or does not end.
    """
    deadline = time.monotonic() + _PATIENCE
    while spooled.is_locked(str(place)):
        if time.monotonic() > deadline:
            raise TimeoutError(errno.ETIMEDOUT, "its worker does not end", str(place))
        worker = (place / spooled.LOCK).read_text().strip()
        with suppress(ProcessLookupError):
            if worker:  # else it has just begun
                os.kill(int(worker), signal.SIGTERM)
        time.sleep(_TICK)


def _become(work: Callable[[], None], lock: int, out: int) -> NoReturn:
    """Be the worker: nothing of the call but its memory, so that who waits for the call does not wait for this."""
    code = 1
    try:
        _leave(lock, out)
        work()
        code = 0
    except BaseException:  # noqa: BLE001 - there is nobody above
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)  # what the call has still to write is not written twice


def _leave(lock: int, out: int) -> None:
    os.setsid()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for stream in (1, 2):
        os.dup2(out, stream)
    os.closerange(3, lock)
    os.closerange(lock + 1, os.sysconf("SC_OPEN_MAX"))
    os.write(lock, f"{os.getpid()}\n".encode())
    os.chdir("/")
