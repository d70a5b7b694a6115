"""`fsbackup run`: run jobs of the configuration."""

from __future__ import annotations

import argparse
import sys
from argparse import Namespace
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fsbackup.cli import exits, render
from fsbackup.cli.command import Command, open_config, progress_display, seconds
from fsbackup.cli.prune import deletions
from fsbackup.errors import ConfigError, FsbackupError

if TYPE_CHECKING:
    from fsbackup.config import Config
    from fsbackup.jobs import BackendCounts, FileResult, JobReport

#: How many failed files are printed below the table.
_MAX_LISTED = 20


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("jobs", nargs="*", metavar="JOB", help="a job of the configuration")
    parser.add_argument("--all", action="store_true", help="every job, in the order of the configuration")
    parser.add_argument("--dry-run", action="store_true", help="only list what would be stored, and where")
    parser.add_argument(
        "--reread",
        action="store_true",
        help="read also the files that have not changed since the last run, and ask each backend for them",
    )
    parser.add_argument(
        "--lock-wait",
        type=seconds,
        default=0.0,
        metavar="TIME",
        help="wait so long for another run of the job to end (10m); by default that is exit code 75 at once",
    )


def _execute(args: Namespace) -> int:
    path, config = open_config(args)
    names = _select_jobs(args, path, config)
    statuses = {name: _run_isolated(args, config, name) for name in names}
    if args.json:
        status = max(statuses.values(), key=list(exits.BY_STATUS).index)
        render.print_json_line({"kind": "summary", "status": status, "jobs": statuses})
    elif len(names) > 1 and not args.quiet and (_is_loud(args) or set(statuses.values()) != {"complete"}):
        render.print_line("\n" + ", ".join(f"{name}: {status}" for name, status in statuses.items()))
    return exits.worst(exits.BY_STATUS[status] for status in statuses.values())


def _select_jobs(args: Namespace, path: str, config: Config) -> list[str]:
    known = list(config.jobs)
    available = f"available: {', '.join(known) or 'none'}"
    if args.all == bool(args.jobs):
        raise ConfigError("name the jobs to run, or give --all", hint=f"jobs of {path} {available}")
    if args.all and not known:
        raise ConfigError(f"{path} has no jobs")
    unknown = [name for name in args.jobs if name not in known]
    if unknown:
        raise ConfigError(f"{path} has no job {', '.join(map(repr, unknown))}", hint=available)
    return known if args.all else list(dict.fromkeys(args.jobs))


def _run_isolated(args: Namespace, config: Config, name: str) -> str:
    """Run one job and return its status; its error is printed, and the other jobs still run."""
    try:
        return _dry_run(args, config, name) if args.dry_run else _run(args, config, name)
    except BrokenPipeError:
        raise
    except (FsbackupError, OSError) as error:
        code = exits.report_error(error, args, job=name)
        return "busy" if code == exits.BUSY else "failed"


def _run(args: Namespace, config: Config, name: str) -> str:
    from fsbackup.jobs import run_job

    if _is_loud(args):
        render.print_line(_job_header(config, name))
    with progress_display(args) as display:
        report = run_job(
            config,
            name,
            on_file=_on_file(args, name),
            progress=(lambda _path, _key: display.upload_callback()) if display else None,
            lock_wait=args.lock_wait,
            reread=args.reread,
        )
    if args.json:
        render.print_json_line({"kind": "job", **report.as_dict()})
    elif args.quiet:
        _print_problems(report)
    elif _is_loud(args):
        _print_report(report)
    elif report.status != "complete" or report.shrunk:
        render.print_line(_job_header(config, name))
        _print_report(report)
    return report.status


def _is_loud(args: Namespace) -> bool:
    """Return whether to print also that all went well: to a person at a terminal, and to who asks with -v."""
    return not (args.json or args.quiet) and (args.verbose > 0 or args.dry_run or sys.stdout.isatty())


def _on_file(args: Namespace, job: str) -> Callable[[FileResult], None] | None:
    if args.json:
        return lambda result: render.print_json_line({"kind": "file", "job": job, **result.as_dict()})
    if args.verbose:
        return lambda result: render.print_line(_file_line(result))
    return None


def _job_header(config: Config, name: str) -> str:
    job = config.jobs[name]
    backends = ", ".join(config.replication[job.replication].backends)
    return f"{name}: {job.source.label} -> {job.replication} ({backends})"


def _file_line(result: FileResult) -> str:
    name = result.path if result.key is None else result.key
    return f"  {result.status:<9}{render.one_line(name)}" + (f": {result.error}" if result.error else "")


def _print_report(report: JobReport) -> None:
    failed = sorted((each for each in report.problems if each.status == "failed"), key=lambda each: each.path)
    problems = [f"not backed up: {_problem(each)}" for each in failed[:_MAX_LISTED]]
    if failed and report.failed > _MAX_LISTED:
        more = render.count(report.failed - _MAX_LISTED, "more file")
        problems.append(f"... and {more}; use -v to print all")
    problems += _shrunk(report)
    rows = [_row(name, counts) for name, counts in report.backends.items()]
    render.print_line()
    render.print_report(rows, problems=problems, verdict=_verdict(report))


def _problem(result: FileResult) -> str:
    """Return path and error; errors of the source contain the path already."""
    error = result.error or ""
    return error if result.path in error else f"{result.path}: {error}"


def _print_problems(report: JobReport) -> None:
    """Print what is wrong, if anything is, on standard error."""
    problems = _shrunk(report)
    if report.status != "complete":
        problems.append(_verdict(report))
    for line in problems:
        render.print_error(f"fsbackup: {report.job}: {line}")


def _shrunk(report: JobReport) -> list[str]:
    """Return a line for each object that is much smaller than the last of its series."""
    small = [(each.key, each.report, each.before) for each in report.problems]
    return [
        f"much smaller: {key} has {render.size(now.size or 0)}, the last of its series had {render.size(before)}"
        for key, now, before in small
        if now is not None and before is not None
    ][:_MAX_LISTED]


def _row(name: str, counts: BackendCounts) -> render.Row:
    confirmed = counts.stored + counts.already
    status = ("incomplete" if confirmed else "failed") if counts.failed else "ok" if confirmed else "-"
    return {
        "backend": name,
        "stored": counts.stored,
        "already stored": counts.already,
        "failed": counts.failed,
        "sent": render.size(counts.bytes_sent),
        "seconds": f"{counts.seconds:.1f}",
        "status": status,
        "location": counts.location,
    }


def _verdict(report: JobReport) -> str:
    parts, next_step = {"complete": _complete, "degraded": _degraded, "failed": _failed}[report.stored_status](
        report
    )
    shrunk = f"{report.shrunk:,} much smaller than the last of its series" if report.shrunk else ""
    return render.verdict(report.status, *parts, shrunk, *_pruned(report), next_step=next_step)


def _complete(report: JobReport) -> tuple[list[str], str]:
    backends = render.count(len(report.backends), "backend")
    files = _files(report)
    if not report.files:
        return ["the source is empty, which this job allows", "nothing was sent"], ""
    if not report.stored:
        return [f"{files} already stored on {backends}", "nothing was sent"], ""
    skipped = render.remaining(
        report.skipped, "skipped (use -v to print them)", "link or special file", "links or special files"
    )
    return [f"{files}, {render.size(report.bytes_read)}", f"every replica confirmed by {backends}", skipped], ""


def _degraded(report: JobReport) -> tuple[list[str], str]:
    if report.failed:
        return _failed(report)
    incomplete = f"{report.degraded:,} of them not on every backend{_examples(report)}"
    again = "run the job again; only missing replicas are sent"
    # The next run of a command writes something else.
    repair = render.repair(report.prefix, report.replication)
    next_step = again if report.source == "files" else f"{repair} fills them"
    return [f"all {_files(report)} are stored, {incomplete}"], f"fix the cause and {next_step}"


def _failed(report: JobReport) -> tuple[list[str], str]:
    failed = f"{report.failed:,} of {_files(report)} not backed up{_examples(report)}"
    again = "; stored files are not sent again" if report.source == "files" else ""
    return [failed], f"fix the cause and run the job again{again}"


def _files(report: JobReport) -> str:
    return render.count(report.files, {"files": "file", "command": "command", "items": "item"}[report.source])


def _examples(report: JobReport) -> str:
    errors = dict.fromkeys(render.one_line(each.error) for each in report.backends.values() if each.error)
    return f" (for example {'; '.join(errors)})" if errors else ""


def _pruned(report: JobReport) -> list[str]:
    if report.prune is None:
        return []
    first, *remaining = deletions(report.prune)
    arguments = f"{report.prune.prefix} --set {report.replication}".lstrip()
    why = "" if report.prune.status == "complete" else f"`fsbackup prune {arguments} --dry-run` prints the reasons"
    return [f"pruned: {first}", *remaining, why]


def _dry_run(args: Namespace, config: Config, name: str) -> str:
    from fsbackup.jobs import Note, Planned, Unreadable, plan_job

    backends = list(config.replication[config.jobs[name].replication].backends)
    if not args.json:
        render.print_line(_job_header(config, name))
    planned, unreadable = 0, 0
    for entry in plan_job(config, name):
        if isinstance(entry, Planned):
            planned += 1
            _print_plan(args, name, backends, {"path": entry.path, "key": entry.key})
        elif isinstance(entry, Unreadable):
            unreadable += 1
            _print_plan(args, name, [], {"path": entry.path, "key": None, "error": str(entry.error)})
        elif isinstance(entry, Note) and not args.json:
            render.print_line(f"  note: {entry.text}")
    if not args.json:
        stored = f"{render.count(planned, 'file')} would be stored on {', '.join(backends)}"
        failed = render.remaining(unreadable, "cannot be backed up", "file")
        render.print_line(render.verdict("dry run", stored, "nothing was sent", failed))
    return "failed" if unreadable else "complete"


def _print_plan(args: Namespace, job: str, backends: list[str], plan: dict[str, Any]) -> None:
    if args.json:
        render.print_json_line({"kind": "plan", "job": job, "backends": backends, **plan})
    elif plan["key"] is None:
        render.print_line(f"  cannot be backed up: {plan['error']}")
    else:
        render.print_line(f"  {plan['path']} -> {plan['key']}")


COMMAND = Command(
    name="run",
    summary="run backup jobs of the configuration",
    description="Reads every file of the jobs once, or what their commands write, and stores it on every "
    "backend of their replication sets. A file that is already stored with the same content is not sent "
    "again, and one that has not changed since it was last read (its inode, size and times) is not even read. "
    "A file that cannot be read is reported, and the others are stored. Of a command that fails "
    "nothing is stored. Where some items of a job's for_each fail, the job is degraded. With --json: one JSON "
    "object per line, of kind file, then job, then one summary.",
    examples=(
        "fsbackup run nightly",
        "fsbackup run --all                      # from cron, without a terminal: prints problems only",
        "fsbackup run nightly --dry-run          # what would be stored, and where; contacts no backend",
    ),
    add_arguments=_add_arguments,
    execute=_execute,
)
