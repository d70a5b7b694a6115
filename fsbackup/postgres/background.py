"""How a worker is started by a call that does not wait for it, and that there is one in a directory at most.

Who starts a worker takes `flock` on `spooled.LOCK` in its directory and hands it on, so that it is held from then
until the worker has ended, however that is; others see it (`spooled.is_locked`). What the worker has to say is in
`LOG` there.
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


def start(module: str, place: Path, *arguments: str, announce: bool = False) -> None:
    """Run a module of this package as the worker of a directory, in a session of its own, unless there is one.

    Parameters
    ----------
    module, arguments
        What to run.
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
        if announce:
            (place / spooled.STARTING).touch()
        with open(place / LOG, "wb") as out:
            subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd="/",
                start_new_session=True,
                pass_fds=(lock,),  # nobody closes it there before the process ends
            )
    except BlockingIOError:
        return
    finally:
        os.close(lock)
