"""From `argv` to an exit code."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from argparse import Namespace
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

from fsbackup.cli import exits, logs, render
from fsbackup.cli.parser import build_parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv
        The arguments after the program's name; those of the process by default.

    Returns
    -------
    int
        The exit code, see `fsbackup.cli.exits`. An interrupted command does not return: it ends the process.
    """
    try:
        listen()
        render.prepare()
        return _command(build_parser().parse_args(argv))
    except KeyboardInterrupt as interrupt:
        leave(interrupt)
    except BrokenPipeError:
        leave_quietly()


def _command(args: Namespace) -> int:
    logs.configure(verbosity=-1 if args.quiet else args.verbose, form=args.log_format)
    try:
        code: int = args.execute(args)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except Exception as error:  # noqa: BLE001 - nobody above is left to tell
        code = exits.explain(error, args)
        sys.stdout.flush()
    return code


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
