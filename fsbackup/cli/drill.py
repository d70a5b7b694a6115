"""`fsbackup drill`: show that a cluster or a dump can be restored, and keep when that was shown."""

from __future__ import annotations

import argparse
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from fsbackup.cli import exits, render
from fsbackup.cli.command import (
    Command,
    add_identity,
    add_timeline,
    add_trust,
    moment,
    open_archive,
    open_config,
    seconds,
)
from fsbackup.errors import ConfigError

if TYPE_CHECKING:
    from fsbackup.jobs.drilling import JobDrillReport
    from fsbackup.postgres.drilling import DrillReport

#: Options that ask a cluster, and what each is where it is not given: a job has none of it.
_OF_CLUSTERS: dict[str, Any] = {
    "to": None,
    "timeline": None,
    "sql": None,
    "expect": None,
    "database": None,
    "user": None,
    "trust": [],
}


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = """fsbackup drill [options] CLUSTER
       fsbackup drill JOB --restore-command [--all] [options] -- PROGRAM [ARGUMENT ...]"""
    parser.add_argument("cluster", metavar="NAME", help="a cluster of `postgres` in the configuration, or a job")
    parser.add_argument(
        "--restore-command",
        action="store_true",
        help="restore the newest dump of the job, and run the program after -- on it, in a temporary directory: "
        "{file} is its path",
    )
    parser.add_argument(
        "--all", action="store_true", help="with --restore-command: the newest dump of every item of the job"
    )
    parser.add_argument("--to", type=moment, metavar="TIME", help="the moment to recover to (default: the end)")
    add_timeline(parser)
    parser.add_argument(
        "--sql", metavar="QUERY", help="a query whose answer shows that the data is there (default: select 1)"
    )
    parser.add_argument(
        "--expect", metavar="ANSWER", help="what it must answer: '> 0', '= 42', or the text itself"
    )
    parser.add_argument("--database", metavar="NAME", help="where to ask (default: postgres)")
    parser.add_argument("--user", metavar="NAME", help="as whom to ask (default: postgres)")
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
    _check(args)
    return _drill_job(args) if args.restore_command else _drill_cluster(args)


def _check(args: Namespace) -> None:
    """Refuse what would be ignored: who asks a query of a dump takes it for answered."""
    if args.all and not args.restore_command:
        raise ConfigError("--all goes with --restore-command only", hint="name one cluster")
    given = [f"--{name}" for name, none in _OF_CLUSTERS.items() if getattr(args, name) != none]
    if args.restore_command and given:
        raise ConfigError(
            f"{', '.join(given)} cannot be used with --restore-command",
            hint="it is for clusters; let the program look at the dump, and exit with another code than 0",
        )


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
        **_given(args),
        identity=args.identity,
        directory=args.directory,
        timeout=args.timeout,
        conninfo=settings.conninfo,
    )
    return exits.of_report(args, report, lambda: _print_cluster(report))


def _given(args: Namespace) -> dict[str, Any]:
    """Return the options of clusters that were given."""
    options = {name: getattr(args, name) for name in _OF_CLUSTERS}
    return {name: value for name, value in options.items() if value is not None}


def _print_cluster(report: DrillReport) -> None:
    problems = [f"{name}: {why}" for name, why in report.away.items()]
    problems += report.alternatives.values()
    to = report.recovered_to
    end = f"recovered up to the commit at {to}" if to else "recovered; the WAL after it has no commit"
    what = report.problem or f"base backup {report.base}, {end}"
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
    "With --restore-command, NAME is a job: its newest dump is restored to a temporary directory, compression and "
    "encryption undone, and the program is run on it, without a shell, in that directory; what it makes elsewhere "
    "is for it to remove. A program given as a path (./restore.sh) is looked for from where you are.",
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
