"""The command line: `fsbackup COMMAND ...`.

`main` is the program. `app.main` parses the arguments, configures logging, runs one command and returns its exit
code. The rest:

- `parser`: the argument parser and the page that ``fsbackup --help`` prints
- `command`: the type `Command`, arguments that several commands share, and opening what they name
- one file per command (`run`, `put`, `get`, `ls`, `stat`, `status`, `verify`, `doctor`, `repair`, `rm`, `prune`,
  `wal_push`, `wal_fetch`, `pg_status`, `base_backup`, `pg_restore`, `drill`, `config`): its arguments, its call of
  the library, its report as text or JSON
- `render`: everything that goes to standard output: tables, verdict lines, numbers, JSON
- `progress`: the progress display on standard error; loaded only on a terminal
- `logs`: log lines on standard error
- `exits`: exit codes, and the message of an error that ends a command

No module imports the configuration, a backend or a third-party library before a command needs it, so that
``--help`` starts fast.
"""

from __future__ import annotations

import sys

from fsbackup.lazy import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, as `app.main` does.

    An installation that is being replaced may fail to load, and Python exits with 1 then. To PostgreSQL, which
    runs ``wal-fetch``, that would be the end of the WAL. What a worker has done ahead needs none of it to be
    loaded.
    """
    words = sys.argv[1:] if argv is None else argv
    try:
        if ("wal-push" in words or "wal-fetch" in words) and _is_done(words):
            return 0 if argv is not None else _end()
        if argv is None:
            import gc

            gc.set_threshold(20_000, 20, 20)  # what is loaded stays; looking through it is a tenth of the start
        from fsbackup.cli.app import main as run

        code = run(argv)
        if argv is None:
            gc.freeze()  # nor is it looked through once more, now that the process ends
        return code
    except Exception:
        if "wal-fetch" not in words:
            raise
        import traceback

        traceback.print_exc()
        return 255


def _is_done(words: Sequence[str]) -> bool:
    """Return whether a worker has done ahead what a command line asks for."""
    from fsbackup.postgres.spooled import fetched_before, pushed_before

    return pushed_before(words) or fetched_before(words)


def _end() -> NoReturn:
    """End the process, which has written nothing: taking the interpreter down takes as long as half its start."""
    import os

    os._exit(0)
