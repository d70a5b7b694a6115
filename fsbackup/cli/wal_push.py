"""`fsbackup wal-push`: PostgreSQL's archive_command."""

from __future__ import annotations

import argparse
from argparse import Namespace
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from fsbackup.cli import exits, render
from fsbackup.cli.command import Command, add_cluster, open_archive
from fsbackup.errors import reasons

if TYPE_CHECKING:
    from fsbackup.engine.results import Report
    from fsbackup.postgres.archive import Archive


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="FILE", help="the file to archive: %%p of archive_command")
    add_cluster(parser)


def _execute(args: Namespace) -> int:
    archive, settings = open_archive(args)
    from fsbackup.postgres.wal_push import push

    if archive.spool is not None and _is_archived_ahead(args, archive, archive.spool, settings.workers):
        return exits.COMPLETE
    report = push(archive, args.path)
    if args.json:
        render.print_json(report.as_dict())
    elif args.verbose and report:
        render.print_line(render.verdict(report.status, _done(report)))
    if report.status != "complete":
        _print_problems(report)
    return exits.COMPLETE if report else exits.FAILED


def _is_archived_ahead(args: Namespace, archive: Archive, spool: Path, workers: int) -> bool:
    """Have a worker archive ahead; return whether it, or one before, has archived this file already."""
    from fsbackup.postgres import spooled, worker

    path = Path(args.path)
    if archive.origin is None or not (path.parent / "archive_status").is_dir():
        return False  # nobody but PostgreSQL says what comes next
    with suppress(OSError, ValueError):
        if spooled.take(str(spool), args.path, archive.identity):
            return True
    try:
        is_busy = worker.ensure(archive, spool, archive.origin, path, workers)
    except OSError as error:
        why = f"{error.filename or spool}: {error.strerror}"
        render.print_error(
            f"fsbackup: spool: {why}: nothing is archived ahead; check `spool` of postgres.{args.cluster}"
        )
        return False
    return is_busy and worker.wait_for(spool, path, archive)


def _done(report: Report) -> str:
    return f"{report.key} was archived before" if report.already else f"{report.key} archived"


def _print_problems(report: Report) -> None:
    for line in reasons(report.errors):
        render.print_error(f"fsbackup: {line}")
    confirmed = render.count(report.confirmed, "backend")
    if report:
        line = f"{_done(report)} on {confirmed}, not on all; `fsbackup repair` fills the rest"
    else:
        line = f"{report.key} is not archived: confirmed by {confirmed}, {report.min_copies} are required"
    render.print_error(f"fsbackup: {report.status}: {line}")


COMMAND = Command(
    name="wal-push",
    summary="archive one WAL file of a PostgreSQL cluster: its archive_command",
    description="Stores a WAL file on all backends of the cluster's replication set at once. The exit code is 0 "
    "when min_copies of them have confirmed it, also when others are away (repair fills these), and when they had "
    "it before; 1 otherwise, and PostgreSQL hands the file on again. It is never above 125, which would restart "
    "PostgreSQL's archiver. A segment must be what its name says, and of the cluster whose archive it is; other "
    "content under a name that the archive has is refused. With `spool` in the configuration, the first call "
    "starts a worker that archives what PostgreSQL has ready next, several files at once, and the calls for these "
    "find them confirmed.",
    examples=(
        "archive_command = '/opt/fsbackup/bin/fsbackup -c /etc/fsbackup/config.yaml wal-push %p --cluster shop'",
        "fsbackup wal-push pg_wal/000000010000000000000007 --cluster shop -v",
    ),
    add_arguments=_add_arguments,
    execute=_execute,
)
