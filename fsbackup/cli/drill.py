"""`fsbackup drill`: show that a cluster or a dump can be restored, and keep when that was shown."""

from __future__ import annotations

import argparse
from argparse import Namespace
from typing import TYPE_CHECKING

from fsbackup.cli import exits, render
from fsbackup.cli.command import Command, add_identity, add_trust, moment, open_archive, open_config, seconds

if TYPE_CHECKING:
    from fsbackup.jobs.drilling import JobDrillReport
    from fsbackup.postgres.drilling import DrillReport


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = """fsbackup drill [options] CLUSTER
       fsbackup drill JOB --restore-command [--all] [options] -- PROGRAM [ARGUMENT ...]"""
    parser.add_argument("cluster", metavar="NAME", help="a cluster of `postgres` in the configuration, or a job")
    parser.add_argument(
        "--restore-command",
        action="store_true",
        help="restore the newest dump of the job, and run the program after -- on it: {file} is its path",
    )
    parser.add_argument(
        "--all", action="store_true", help="with --restore-command: the newest dump of every item of the job"
    )
    parser.add_argument("--to", type=moment, metavar="TIME", help="the moment to recover to (default: the end)")
    parser.add_argument("--sql", default="select 1", help="a query whose answer shows that the data is there")
    parser.add_argument(
        "--expect", metavar="ANSWER", help="what it must answer: '> 0', '= 42', or the text itself"
    )
    parser.add_argument("--database", default="postgres", metavar="NAME", help="where to ask (default: postgres)")
    parser.add_argument("--user", default="postgres", metavar="NAME", help="as whom to ask (default: postgres)")
    parser.add_argument("--directory", metavar="DIR", help="where to restore it for that time (default: $TMPDIR)")
    parser.add_argument(
        "--timeout",
        type=seconds,
        default=3600.0,
        metavar="TIME",
        help="how long recovery, or the program, may take (default: 1h)",
    )
    add_trust(parser)
    add_identity(parser)


def _execute(args: Namespace) -> int:
    return _drill_job(args) if args.restore_command else _drill_cluster(args)


def _drill_job(args: Namespace) -> int:
    _, config = open_config(args)
    from fsbackup.jobs.drilling import drill_job

    report = drill_job(
        config,
        args.cluster,
        args.program,
        every=args.all,
        identity=args.identity,
        directory=args.directory,
        timeout=args.timeout,
    )
    return exits.of_report(args, report, lambda: _print_job(report))


def _print_job(report: JobDrillReport) -> None:
    problems = [f"{each.key}: {each.problem}" for each in report.dumps if each.problem]
    problems += [f"{name}: {why}" for name, why in report.away.items()]
    restored = [each.key for each in report.dumps if not each.problem]
    what = f"restored: {', '.join(restored)}" if restored else ""
    none = "" if report.dumps else f"job {report.job} has no dump in its replication set"
    verdict = render.verdict(report.status, none, what, f"{report.seconds:.0f} s")
    render.print_report(problems=problems, verdict=verdict)


def _drill_cluster(args: Namespace) -> int:
    archive, settings = open_archive(args, reading=True)
    from fsbackup.postgres.drilling import drill

    report = drill(
        archive,
        to=args.to,
        sql=args.sql,
        expect=args.expect,
        database=args.database,
        user=args.user,
        trust=args.trust,
        identity=args.identity,
        directory=args.directory,
        timeout=args.timeout,
        conninfo=settings.conninfo,
    )
    return exits.of_report(args, report, lambda: _print_cluster(report))


def _print_cluster(report: DrillReport) -> None:
    problems = [f"{name}: {why}" for name, why in report.away.items()]
    what = report.problem or f"base backup {report.base}, recovered up to the commit at {report.recovered_to}"
    answer = "" if report.problem else f"the query answered {report.answer}"
    verdict = render.verdict(report.status, what, answer, f"{report.seconds:.0f} s")
    render.print_report(problems=problems, verdict=verdict)


COMMAND = Command(
    name="drill",
    summary="show that a PostgreSQL cluster, or a job's newest dump, can be restored",
    description="Restores the cluster to a temporary directory, checks it with pg_verifybackup, starts PostgreSQL "
    "on a socket there, with archiving off, and runs a query; then removes it all. The outcome and the time that "
    "it took are kept in the backends, where `status --drill-age` looks. Not as root, whom PostgreSQL does not "
    "accept. The exit code is 1 if recovery failed or the answer was another one, 3 if a backend was away. "
    "With --restore-command, NAME is a job: its newest dump is restored to a temporary file, compression and "
    "encryption undone, and the program is run on it, without a shell; what it makes is for it to remove.",
    examples=(
        "fsbackup drill shop --database shop --sql 'select count(*) from orders' --expect '> 0'",
        "fsbackup drill shop --to '2026-11-29 18:30:00+00:00' --directory /srv/scratch",
        "fsbackup drill databases --all --restore-command -- pg_restore --list {file}",
        "fsbackup drill shop-dump --restore-command -- sh -c 'dropdb --if-exists drill; createdb drill; "
        'pg_restore -d drill "$1"\' sh {file}',
        "0 5 * * 6  fsbackup drill shop -q   # in a crontab: every Saturday",
    ),
    add_arguments=_add_arguments,
    execute=_execute,
)
