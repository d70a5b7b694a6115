"""From `argv` to an exit code, also after Ctrl-C, SIGTERM, SIGHUP and a closed pipe."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import warnings
from argparse import Namespace
from collections.abc import Sequence
from functools import partial
from types import FrameType
from typing import NoReturn

from fsbackup.cli import exits, logs, render
from fsbackup.cli.parser import UsageExit, failure_code, own_words, parse_arguments
from fsbackup.errors import ConfigError, StaleReadWarning


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
        _raise_on_signals()
        _open_standard_streams()
        if argv is None and sys.getfilesystemencoding() != "utf-8":
            _start_again_with_utf8()
        render.configure_streams()
        return _run_command(_parse(sys.argv[1:] if argv is None else argv))
    except KeyboardInterrupt as interrupt:
        _exit_interrupted(interrupt)
    except BrokenPipeError:  # the reader has closed the pipe (``fsbackup ls | head``)
        os._exit(exits.BROKEN_PIPE)


def _parse(words: Sequence[str]) -> Namespace:
    try:
        return parse_arguments(words)
    except SystemExit as end:
        if isinstance(end, UsageExit) and "--json" in own_words(words):
            render.print_json_line({"error": exits.error_as_dict(ConfigError(end.message))})
            sys.stdout.flush()
        if end.code:
            raise SystemExit(failure_code(words, exits.USAGE)) from None
        raise


def _run_command(args: Namespace) -> int:
    warnings.simplefilter("ignore", StaleReadWarning)  # a command says it in its own line
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


def _open_standard_streams() -> None:
    """Open /dev/null for standard streams that are closed, so that no file of ours gets one of their numbers."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def _start_again_with_utf8() -> None:
    """Replace this process by one for which names are UTF-8, whatever the locale says they are.

    In a Latin-1 locale Python reads the name of a file as other letters, and they would become its key.
    """
    arguments = [sys.executable, "-X", "utf8", "-m", "fsbackup", *sys.argv[1:]]
    os.execv(sys.executable, [os.fsencode(argument) for argument in arguments])


class TerminatedError(KeyboardInterrupt):
    """SIGTERM or SIGHUP was received. A KeyboardInterrupt, so that the same clean-up runs as after Ctrl-C."""

    def __init__(self, exit_code: int) -> None:
        super().__init__()
        self.exit_code = exit_code


def _raise_on_signals() -> None:
    """Turn SIGTERM and SIGHUP into an exception, unless the parent process has set them to be ignored (nohup)."""
    for number, exit_code in ((signal.SIGTERM, exits.TERMINATED), (signal.SIGHUP, exits.HUNG_UP)):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, partial(_terminate, exit_code))


def _terminate(exit_code: int, _number: int, _frame: FrameType | None) -> NoReturn:
    raise TerminatedError(exit_code)


def _exit_interrupted(interrupt: KeyboardInterrupt) -> NoReturn:
    """Print one line and end the process without joining threads: one may block in a read for ever."""
    terminated = isinstance(interrupt, TerminatedError)
    with contextlib.suppress(OSError, ValueError):
        print(
            f"fsbackup: {'terminated' if terminated else 'interrupted'}; no partial object was stored",
            file=sys.stderr,
        )
        sys.stderr.flush()
    os._exit(interrupt.exit_code if isinstance(interrupt, TerminatedError) else exits.INTERRUPTED)
