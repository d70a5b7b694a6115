"""`fsbackup wal-fetch`: PostgreSQL's restore_command, whose exit code PostgreSQL reads more into than others do.

1 to 125 are "there is no such file" to it: it ends recovery, and opens the database. So 1 is for proven absence
alone, and everything else that goes wrong is 255, with which it stops and says so. A standby asks again whatever
it is told, and would be ended by 255: there, what is not known is 1, too.
"""

from __future__ import annotations

import argparse
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from fsbackup.cli import exits, render
from fsbackup.cli.command import Command, add_cluster, add_identity, add_trust, open_archive
from fsbackup.errors import ConfigError, FsbackupError, ObjectLostError, ObjectNotFoundError

if TYPE_CHECKING:
    from fsbackup.postgres.archive import Archive

#: No such file, proven; and: not known whether there is one.
ABSENT, UNKNOWN = 1, 255


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the file's name: %%f of restore_command")
    parser.add_argument("path", metavar="FILE", help="where to write it: %%p of restore_command")
    add_cluster(parser)
    add_trust(parser)
    add_identity(parser)


def _execute(args: Namespace) -> int:
    try:
        return _fetch(args)
    except Exception as error:  # noqa: BLE001 - whatever it is, it must not look like an absence
        return _failed(args, error)


def _fetch(args: Namespace) -> int:
    archive, settings = open_archive(args, reading=True)
    from fsbackup.postgres.wal_fetch import fetch

    patience, identity = settings.patience, args.identity
    if archive.spool is not None:
        _fetch_ahead(args, archive, archive.spool, settings.workers)  # first, so that the worker starts meanwhile
    report = fetch(archive, args.name, args.path, trust=args.trust, patience=patience, identity=identity)
    if args.json:
        render.print_json(report.as_dict())
    elif args.verbose:
        render.print_line(f"{report.key} fetched from {', '.join(report.replicas)}")
    return exits.COMPLETE


def _fetch_ahead(args: Namespace, archive: Archive, spool: Path, workers: int) -> None:
    """Have a worker fetch the segments that recovery will ask for next."""
    from fsbackup.postgres import prefetch
    from fsbackup.wal import parse_wal_name

    name = parse_wal_name(args.name)
    if name is None or name.kind != "segment" or archive.origin is None:
        return
    try:
        prefetch.ensure(archive, spool, archive.origin, name, 2 * workers, args.identity)
    except OSError as error:
        why = f"{error.filename or spool}: {error.strerror}"
        render.print_error(f"fsbackup: spool: {why}: nothing is fetched ahead")


def _failed(args: Namespace, error: Exception) -> int:
    if isinstance(error, ObjectNotFoundError) and not isinstance(error, ObjectLostError):
        if args.verbose or args.json or args.trust:
            exits.report_error(error, args)
        return ABSENT
    exits.report_error(error, args)
    if _is_standby(Path(args.path)) and isinstance(error, FsbackupError) and not isinstance(error, ConfigError):
        render.print_error(f"fsbackup: {args.name}: not known; this is a standby, which asks again (exit code 1)")
        return ABSENT
    return UNKNOWN


def _is_standby(path: Path) -> bool:
    """Tell whether the data directory that a file is in is that of a standby."""
    data = next((each for each in path.absolute().parents if (each / "PG_VERSION").is_file()), None)
    return data is not None and (data / "standby.signal").exists()


COMMAND = Command(
    name="wal-fetch",
    summary="fetch one WAL file of a PostgreSQL cluster: its restore_command",
    description="Reads a WAL file, proven, from any backend that has it. The exit code is 0 when it is there; 1 "
    "only if a quorum of the backends answers that there is no such file, and none has a later one of its "
    "timeline: PostgreSQL ends recovery then. It is 255 for everything else, so that an outage, a rotten copy, a "
    "gap or a mistake in the configuration never looks like the end of the WAL: PostgreSQL stops, and can be "
    "started again. Before that it asks again for as long as `patience` in the configuration says. On a standby "
    "(standby.signal), which asks again by itself, what is not known is 1.",
    examples=(
        "restore_command = 'fsbackup -c /etc/fsbackup/config.yaml wal-fetch %f %p --cluster shop'",
        "fsbackup wal-fetch 000000010000000000000007 /tmp/segment --cluster shop",
        "fsbackup wal-fetch 00000002.history /tmp/history --cluster shop --trust r2   # while b2 is away",
    ),
    add_arguments=_add_arguments,
    execute=_execute,
    failure=UNKNOWN,
)
