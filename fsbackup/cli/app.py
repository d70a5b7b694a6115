"""From `argv` to an exit code."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence

from fsbackup.cli import failures, logs, output, signals
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
        signals.listen()
        output.prepare()
        return _command(build_parser().parse_args(argv))
    except KeyboardInterrupt as interrupt:
        signals.leave(interrupt)
    except BrokenPipeError:
        signals.leave_quietly()


def _command(args: Namespace) -> int:
    logs.configure(verbosity=-1 if args.quiet else args.verbose, form=args.log_format)
    try:
        code: int = args.execute(args)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except Exception as error:  # noqa: BLE001 - nobody above is left to tell
        code = failures.explain(error, args)
        sys.stdout.flush()
    return code
