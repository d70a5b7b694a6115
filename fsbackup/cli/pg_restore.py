"""`fsbackup pg-restore`: a data directory from which PostgreSQL recovers to any moment of the archive."""

from __future__ import annotations

import argparse
from argparse import Namespace
from typing import TYPE_CHECKING

from fsbackup.cli import exits, render
from fsbackup.cli.command import Command, add_identity, add_timeline, add_trust, moment, open_archive

if TYPE_CHECKING:
    from fsbackup.postgres.restoring import PgRestoreReport


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("cluster", metavar="NAME", help="the cluster, as `postgres` in the configuration calls it")
    parser.add_argument("directory", metavar="DIR", help="the data directory to make: empty, or not there yet")
    parser.add_argument(
        "--to",
        type=moment,
        metavar="TIME",
        help="the moment to recover to, such as '2026-11-29 18:30:00+00:00'; local time without a zone (default: "
        "all that is archived)",
    )
    add_timeline(parser)
    add_trust(parser)
    add_identity(parser)


def _execute(args: Namespace) -> int:
    archive, settings = open_archive(args, reading=True)
    from fsbackup.postgres.restoring import pg_restore

    report = pg_restore(
        archive,
        args.directory,
        to=args.to,
        timeline=args.timeline,
        trust=args.trust,
        identity=args.identity,
        conninfo=settings.conninfo,
    )
    return exits.of_report(args, report, lambda: _print(report))


def _print(report: PgRestoreReport) -> None:
    lines = [f"{name}: {why}" for name, why in report.away.items()]
    if report.directory.stat().st_uid == 0:
        lines.append(
            f"{report.directory} is root's, as whom PostgreSQL refuses to start: give it to PostgreSQL's user "
            f"(chown -R postgres {report.directory}), or run this as that user"
        )
    lines.append(f"restore_command: {report.restore_command}")
    lines.append(
        f"it recovers on timeline {report.timeline}; the newest segment is {report.last_segment}, archived "
        f"{report.last_at}"
    )
    lines += report.alternatives.values()
    if report.target:
        lines.append(
            "the target needs a commit after it in the WAL, else PostgreSQL ends with FATAL; at the target it "
            "pauses: look, then `select pg_wal_replay_resume()`"
        )
    if report.archiving:
        lines.append(
            f"once it has recovered, it archives as the old server did ({'; '.join(report.archiving)}): for a "
            "copy, set archive_mode = off before it is started"
        )
    to = f"to {report.target}" if report.target else "to the end of the WAL"
    render.print_report(
        problems=lines,
        verdict=render.verdict(
            report.status,
            f"base backup {report.base} ({render.size(report.download.size)}, proven) is in {report.directory}",
            next_step=f"start PostgreSQL on it, and it recovers {to}",
        ),
    )


COMMAND = Command(
    name="pg-restore",
    summary="restore a PostgreSQL cluster into an empty directory, to any moment",
    description="Unpacks the newest base backup that leads to the target, every block proven, and writes "
    "recovery.signal and the settings with which PostgreSQL fetches the WAL (wal-fetch) when it is started. A "
    "target outside of what the archive has is refused, and so is a machine on which the cluster runs with "
    "tablespaces. So is a moment that two timelines have, each with commits of its own, unless --timeline says "
    "which one is meant: an old server went on after a failover, or a recovery to a moment has left later commits "
    "behind. If anything fails, the directory is left empty. Run it as PostgreSQL's user: as root, the files get "
    "the owner of DIR, and one that is made is root's. The exit code is 3 if a backend was away.",
    examples=(
        "sudo -u postgres fsbackup pg-restore shop /var/lib/postgresql/15/restored",
        "fsbackup pg-restore shop /srv/shop --to '2026-11-29 18:30:00+00:00'",
        "fsbackup pg-restore shop /srv/shop --to '2026-11-29 18:30:00+00:00' --timeline 1",
        "fsbackup pg-restore shop /srv/shop --trust r2   # while b2 is gone for good",
    ),
    add_arguments=_add_arguments,
    execute=_execute,
)
