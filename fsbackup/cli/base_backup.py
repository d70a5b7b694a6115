"""`fsbackup base-backup`: store a base backup of a running PostgreSQL cluster in its archive."""

from __future__ import annotations

import argparse
from argparse import Namespace
from typing import TYPE_CHECKING

from fsbackup.cli import exits, render
from fsbackup.cli.command import Command, open_archive, progress_display, seconds
from fsbackup.errors import reasons

if TYPE_CHECKING:
    from fsbackup.postgres.base_backups import BaseBackupReport


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("cluster", metavar="NAME", help="the cluster, as `postgres` in the configuration calls it")
    parser.add_argument(
        "--wait",
        type=seconds,
        default=600.0,
        metavar="TIME",
        help="how long to wait until the WAL that it needs is archived (default: 10m)",
    )


def _execute(args: Namespace) -> int:
    archive, settings = open_archive(args)
    from fsbackup.postgres.base_backups import base_backup

    with progress_display(args) as display:
        callback = display.upload_callback() if display else None
        report = base_backup(archive, conninfo=settings.conninfo, wait=args.wait, callback=callback)
    return exits.of_report(args, report, lambda: _print(report))


def _print(report: BaseBackupReport) -> None:
    confirmed = f"confirmed by {report.upload.confirmed} of {render.count(len(report.upload.replicas), 'backend')}"
    what = f"base backup {report.label} ({render.size(report.size)}), WAL from {report.first} to {report.last}"
    next_step = "" if report.status == "complete" else "`fsbackup repair` fills the rest"
    verdict = render.verdict(report.status, what, confirmed, next_step=next_step)
    render.print_report(problems=reasons(report.upload.errors), verdict=verdict)


COMMAND = Command(
    name="base-backup",
    summary="store a base backup of a running PostgreSQL cluster in its archive",
    description="Runs pg_basebackup on the cluster that `conninfo` in the configuration names, and stores what it "
    "writes, a tar, on all backends while it is written. It is complete, and listed by pg-status, when the WAL "
    "from its start to its end is archived too, which is waited for. Recovery needs one; how many are kept is "
    "said by `retention` of the cluster. A cluster with tablespaces is refused. The exit code is 3 if not every "
    "backend has it.",
    examples=(
        "fsbackup base-backup shop",
        "0 3 * * 0  fsbackup base-backup shop -q   # in a crontab: every Sunday",
    ),
    add_arguments=_add_arguments,
    execute=_execute,
)
