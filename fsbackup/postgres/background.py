"""How a worker is started by a call that does not wait for it, and that there is one in a directory at most.

A worker holds `flock` on `spooled.LOCK` in its directory for as long as it lives (`is_alone`), where others see it
(`spooled.is_locked`); what it has to say is in `LOG` there.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

from fsbackup.postgres import spooled

#: What the last worker wrote to standard output and standard error.
LOG = "worker.log"


def start(module: str, place: Path, *arguments: str) -> None:
    """Run a module of this package as the worker of a directory, in a session of its own.

    Raises
    ------
    OSError
        When the directory cannot be written, or the process not be started.
    """
    with open(place / LOG, "wb") as out:
        subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd="/",
            start_new_session=True,
        )


def is_alone(place: str) -> bool:
    """Make this process the worker of a directory until it ends; return False when there is one already."""
    lock = os.open(Path(place, spooled.LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
