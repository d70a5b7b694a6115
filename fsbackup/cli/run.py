"""`fsbackup run`: jobs of the configuration."""

from __future__ import annotations

import argparse
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from fsbackup.cli import command, exits, render, summary
from fsbackup.cli.command import Command
from fsbackup.errors import ConfigError, FsbackupError

if TYPE_CHECKING:
    from fsbackup.config import Config
    from fsbackup.jobs import FileResult, JobReport


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("jobs", nargs="*", metavar="JOB", help="a job of the configuration")
    parser.add_argument("--all", action="store_true", help="every job, in the configuration's order")
    parser.add_argument("--dry-run", action="store_true", help="only list what would be stored, and where")


def _execute(args: Namespace) -> int:
    path, config = command.open_config(args)
    names = _chosen(args, path, config)
    work = _dry_run if args.dry_run else _run
    statuses = {name: _guarded(args, name, partial(work, args, config, name)) for name in names}
    if args.json:
        status = max(statuses.values(), key=["complete", "degraded", "failed"].index)
        render.print_json_line({"kind": "summary", "status": status, "jobs": statuses})
    elif len(names) > 1 and not args.quiet:
        render.print_line("\n" + ", ".join(f"{name}: {status}" for name, status in statuses.items()))
    return exits.worst(exits.OF_STATUS[status] for status in statuses.values())


def _chosen(args: Namespace, path: str, config: Config) -> list[str]:
    known = list(config.jobs)
    there_are = f"there are: {', '.join(known) or 'none'}"
    if args.all == bool(args.jobs):
        raise ConfigError("name the jobs to run, or give --all", hint=f"in {path} {there_are}")
    if args.all and not known:
        raise ConfigError(f"{path} has no jobs")
    unknown = [name for name in args.jobs if name not in known]
    if unknown:
        raise ConfigError(f"{path} has no job {', '.join(map(repr, unknown))}", hint=there_are)
    return known if args.all else list(dict.fromkeys(args.jobs))


def _guarded(args: Namespace, name: str, work: Callable[[], str]) -> str:
    """Do one job; what goes wrong with it as a whole does not keep the others from being done."""
    try:
        return work()
    except (FsbackupError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            raise
        exits.explain(error, args, job=name)
        return "failed"


def _run(args: Namespace, config: Config, name: str) -> str:
    from fsbackup.jobs import run_job

    if not (args.json or args.quiet):
        render.print_line(summary.job_header(config, name))
    with command.shown(args) as display:
        report = run_job(
            config,
            name,
            on_file=_file_printer(args, name),
            progress=(lambda _path, _key: display.file()) if display else None,
        )
    _print_report(args, report)
    return report.status


def _file_printer(args: Namespace, job: str) -> Callable[[FileResult], None] | None:
    if args.json:
        return lambda outcome: render.print_json_line({"kind": "file", "job": job, **outcome.as_dict()})
    if args.verbose:
        return lambda outcome: render.print_line(summary.file_line(outcome))
    return None


def _print_report(args: Namespace, report: JobReport) -> None:
    if args.json:
        render.print_json_line({"kind": "job", **report.as_dict()})
    elif not args.quiet:
        summary.print_job(report)
    elif report.status != "complete":
        render.print_note(f"fsbackup: {report.job}: {summary.job_verdict(report)}")


def _dry_run(args: Namespace, config: Config, name: str) -> str:
    from fsbackup.jobs import Planned, Unreadable, plan_job

    where = list(config.replication[config.jobs[name].replication].backends)
    if not args.json:
        render.print_line(summary.job_header(config, name))
    counts = {Planned: 0, Unreadable: 0}
    for each in plan_job(config, name):
        if isinstance(each, Planned):
            counts[Planned] += 1
            _print_planned(args, name, where, {"path": each.path, "key": each.key})
        elif isinstance(each, Unreadable):
            counts[Unreadable] += 1
            _print_planned(args, name, [], {"path": each.path, "key": None, "error": str(each.error)})
    if not args.json:
        render.print_line(summary.plan_verdict(counts[Planned], counts[Unreadable], where))
    return "failed" if counts[Unreadable] else "complete"


def _print_planned(args: Namespace, job: str, where: list[str], plan: dict[str, Any]) -> None:
    if args.json:
        render.print_json_line({"kind": "plan", "job": job, "backends": where, **plan})
    elif plan["key"] is None:
        render.print_line(f"  cannot be backed up: {plan['error']}")
    else:
        render.print_line(f"  {plan['path']} -> {plan['key']}")


COMMAND = Command(
    name="run",
    summary="back up what jobs of the configuration say",
    description="Stores every file of the jobs in every backend of their replication sets, each read once. What "
    "is stored already, with the same content, is not sent again. A file that cannot be read is named and the "
    "rest go on. With --json: one JSON object per line, kind file, then job, then one summary.",
    examples=(
        "fsbackup run nightly",
        "fsbackup run --all --quiet              # for cron: no output unless something is wrong",
        "fsbackup run nightly --dry-run          # what would be stored, and where; contacts no backend",
    ),
    arguments=_arguments,
    execute=_execute,
)
