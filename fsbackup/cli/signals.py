"""Ctrl-C and SIGTERM: both cancel what is under way and let it clean up."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

from fsbackup.cli import exits


class TerminatedError(KeyboardInterrupt):
    """SIGTERM: everything that cleans up after a Ctrl-C cleans up after it too."""


def listen() -> None:
    """Turn SIGTERM into an exception from now on. SIGINT is one already; one that is ignored stays ignored."""

    def terminate(_number: int, _frame: FrameType | None) -> NoReturn:
        raise TerminatedError

    if signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN:
        signal.signal(signal.SIGTERM, terminate)


def leave(interrupt: KeyboardInterrupt) -> NoReturn:
    """Say that it was interrupted, and end at once: a thread that hangs in a read must not keep the process."""
    terminated = isinstance(interrupt, TerminatedError)
    with contextlib.suppress(OSError, ValueError):
        print(
            f"fsbackup: {'terminated' if terminated else 'interrupted'}; nothing unfinished was stored",
            file=sys.stderr,
        )
        sys.stderr.flush()
    os._exit(exits.TERMINATED if terminated else exits.INTERRUPTED)


def leave_quietly() -> NoReturn:
    """End as a program does whose reader went away (``fsbackup ls | head``)."""
    os._exit(exits.BROKEN_PIPE)
