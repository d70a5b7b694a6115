"""From `argv` to an exit code, also after Ctrl-C, SIGTERM and a closed pipe."""

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
        The exit code, see `fsbackup.cli.exits`. An interrupted command ends the process instead of returning.
    """
    try:
        _raise_on_sigterm()
        render.configure_streams()
        return _run_command(build_parser().parse_args(argv))
    except KeyboardInterrupt as interrupt:
        _exit_interrupted(interrupt)
    except BrokenPipeError:  # the reader has closed the pipe (``fsbackup ls | head``)
        os._exit(exits.BROKEN_PIPE)


def _run_command(args: Namespace) -> int:
    logs.configure(verbosity=-1 if args.quiet else args.verbose, form=args.log_format)
    try:
        code: int = args.execute(args)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except Exception as error:  # noqa: BLE001 - the outermost handler
        code = exits.report_error(error, args)
        sys.stdout.flush()
    return code


class TerminatedError(KeyboardInterrupt):
    """SIGTERM was received. A KeyboardInterrupt, so that the same clean-up runs as after Ctrl-C."""


def _raise_on_sigterm() -> None:
    """Turn SIGTERM into an exception, unless the parent process has set it to be ignored."""

    def terminate(_number: int, _frame: FrameType | None) -> NoReturn:
        raise TerminatedError

    if signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN:
        signal.signal(signal.SIGTERM, terminate)


def _exit_interrupted(interrupt: KeyboardInterrupt) -> NoReturn:
    """Print one line and end the process without joining threads: one may block in a read for ever."""
    terminated = isinstance(interrupt, TerminatedError)
    with contextlib.suppress(OSError, ValueError):
        print(
            f"fsbackup: {'terminated' if terminated else 'interrupted'}; no partial object was stored",
            file=sys.stderr,
        )
        sys.stderr.flush()
    os._exit(exits.TERMINATED if terminated else exits.INTERRUPTED)
