"""`fsbackup prune`: delete from each backend what its retention no longer keeps."""

from __future__ import annotations

import argparse
import sys
from argparse import Namespace
from collections.abc import Container
from typing import TYPE_CHECKING

from fsbackup.cli import exits, render, series
from fsbackup.cli.command import Command, add_prefix, add_set, key, open_set
from fsbackup.errors import ConfigError, ObjectNotFoundError

if TYPE_CHECKING:
    from fsbackup.replication.prune import PruneReport, PruneStep, SeriesReport
    from fsbackup.replication.storage import ReplicatedStorage

#: Columns of the table, shown where they are not empty.
_OUTCOMES = ("deleted", "planned", "cleared", "kept", "blocked", "locked", "failed")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_prefix(parser)
    parser.add_argument("--dry-run", action="store_true", help="print what would be deleted, and delete nothing")
    parser.add_argument("--yes", action="store_true", help="delete even on a terminal")
    parser.add_argument(
        "--explain",
        metavar="KEY",
        type=key,
        help="print what prune would do with one key, and why; delete nothing",
    )
    parser.add_argument(
        "--series",
        action="store_true",
        help="print which objects are versions of one thing, and which rule keeps how many; delete nothing",
    )
    add_set(parser)


def _execute(args: Namespace) -> int:
    if args.explain and (args.prefix or args.yes):
        raise ConfigError("--explain takes one KEY and deletes nothing", hint="leave out PREFIX and --yes")
    if args.series and (args.prefix or args.yes or args.explain):
        raise ConfigError("--series prints all series and deletes nothing", hint="leave out what else there is")
    store = open_set(args)
    if args.explain:
        return _explain(args, store)
    if args.series:
        return _print_series(args, store.series())
    concerned: set[tuple[str, str | None]] = set()

    def on_step(step: PruneStep) -> None:
        if step.outcome != "kept":
            concerned.add((step.backend, step.series))
        _print_step(args, step)

    report = store.prune(args.prefix, dry_run=_is_dry_run(args), on_step=on_step)
    if args.json:
        _print_documents(report, concerned)
    elif not (args.quiet and report.status == "complete"):
        _print_report(args, store, report, concerned)
    return exits.BY_STATUS[report.status]


def _print_documents(report: PruneReport, concerned: Container[tuple[str, str | None]]) -> None:
    for each in series.documents(report.series, _those_in(concerned)) if report.series else ():
        render.print_json_line(each)
    fields = {name: value for name, value in report.as_dict().items() if name not in ("steps", "series")}
    render.print_json_line({"kind": "summary", **fields})


def _those_in(concerned: Container[tuple[str, str | None]]) -> series.Wanted:
    return lambda backend, name: (backend, name) in concerned


def _print_series(args: Namespace, report: SeriesReport) -> int:
    count = sum(len(each.series) for each in report.backends.values())
    if args.json:
        for each in series.documents(report):
            render.print_json_line(each)
        render.print_json_line({"kind": "summary", "status": report.status, "stopped": dict(report.stopped)})
    else:
        problems = [f"{name}: not all of its series are known: {why}" for name, why in report.stopped.items()]
        tables = [rows] if (rows := series.rows(report)) else []
        verdict = render.verdict(report.status, f"{render.count(count, 'series', 'series')}, backend by backend")
        render.print_report(*tables, problems=[*series.without(report), *problems], verdict=verdict)
    return exits.BY_STATUS[report.status]


def _is_dry_run(args: Namespace) -> bool:
    """On a terminal nothing is deleted without ``--yes``: the person there sees first what would be."""
    is_terminal = any(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr) if stream is not None)
    return bool(args.dry_run or (is_terminal and not args.yes))


def _print_step(args: Namespace, step: PruneStep) -> None:
    if step.outcome == "kept" and not args.verbose:
        return
    if args.json:
        render.print_json_line({"kind": "step", **step.as_dict()})
    elif not args.quiet or step.outcome in ("blocked", "failed"):
        render.print_line(_step_line(step))


def _step_line(step: PruneStep) -> str:
    return render.one_line(f"{step.outcome:<9}{step.key}: {step.backend}: {step.reason}")


def _explain(args: Namespace, store: ReplicatedStorage) -> int:
    steps: dict[str, PruneStep] = {}

    def on_step(step: PruneStep) -> None:
        if step.key == args.explain:
            steps[step.backend] = step

    report = store.prune(args.explain, on_step=on_step)
    stopped = {name: each.stopped for name, each in report.backends.items() if each.stopped}
    if not steps and not stopped:
        raise ObjectNotFoundError("no such key on any backend", operation="prune", key=args.explain)
    own = _those_in({(name, step.series) for name, step in steps.items()})
    assert report.series is not None
    if args.json:
        found = {name: steps[name].as_dict() if name in steps else None for name in store.backends}
        named = [each for each in series.documents(report.series, own) if each.pop("kind") == "series"]
        render.print_json({"key": args.explain, "backends": found, "stopped": stopped, "series": named})
        return exits.BY_STATUS[report.status]
    for name in store.backends:
        if name in steps:
            render.print_line(_step_line(steps[name]))
        else:
            render.print_line(f"-        {args.explain}: {name}: {stopped.get(name, 'no copy on this backend')}")
    for line in series.lines(report.series, own):
        render.print_line(render.one_line(line))
    return exits.BY_STATUS[report.status]


def _print_report(
    args: Namespace,
    store: ReplicatedStorage,
    report: PruneReport,
    concerned: Container[tuple[str, str | None]],
) -> None:
    outcomes = render.used_columns(_OUTCOMES, [each.outcomes for each in report.backends.values()])
    rows: list[render.Row] = [
        {
            "backend": name,
            **{outcome: each.outcomes.get(outcome, 0) for outcome in outcomes},
            "freed": render.size(each.bytes_freed),
            "location": store.backends[name].location,
        }
        for name, each in report.backends.items()
    ]
    problems = [
        f"{name}: nothing is deleted there: {each.stopped}"
        for name, each in report.backends.items()
        if each.stopped
    ]
    if report.steps:
        render.print_line()
    tables = [rows]
    if report.series is not None:
        tables = [named, rows] if (named := series.rows(report.series, _those_in(concerned))) else [rows]
        problems = series.without(report.series) + problems
    render.print_report(*tables, problems=problems, verdict=_verdict(args, store, report))


def _verdict(args: Namespace, store: ReplicatedStorage, report: PruneReport) -> str:
    if not report.dry_run:
        return render.verdict(report.status, *deletions(report))
    planned = render.count(report.count("planned"), "copy", "copies")
    prefix = f" {args.prefix}" if args.prefix else ""
    command = f"`fsbackup prune{prefix} --set {store.name} --yes` deletes them"
    return render.verdict(
        "dry run",
        f"{planned} would be deleted ({_freed(report)})",
        "nothing was deleted",
        *_remaining(report),
        next_step=command if report.count("planned") else "",
    )


def deletions(report: PruneReport) -> list[str]:
    """Return the parts of a verdict: how many copies were deleted, and how many remain for which reason."""
    deleted = render.count(report.count("deleted"), "copy", "copies")
    return [f"{deleted} deleted ({_freed(report)})", *_remaining(report)]


def _freed(report: PruneReport) -> str:
    return render.size(sum(each.bytes_freed for each in report.backends.values()))


def _remaining(report: PruneReport) -> list[str]:
    return [
        render.remaining(report.count("blocked"), "blocked until the cause is fixed", "copy", "copies"),
        render.remaining(report.count("locked"), "locked by the backend", "copy", "copies"),
        render.remaining(report.count("failed"), "failed to delete", "copy", "copies"),
    ]


COMMAND = Command(
    name="prune",
    summary="delete from each backend what its retention no longer keeps",
    description="Deletes from each backend the copies that its own `retention` no longer keeps; the other "
    "backends keep theirs. On a terminal nothing is deleted without --yes; from cron it is. Only older versions "
    "of a series are deleted: of keys that differ only in what the {now} of a job's destination made, "
    "or that `series` in the retention names. Every other key is kept. The newest keep_last of each "
    "series are kept, and so is a copy that another backend should have but cannot prove. Nothing is "
    "deleted from a backend that cannot be listed completely, or while the clock is behind the newest "
    "object. Each line gives the reason; -v also prints what is kept. A dry run names the series concerned, "
    "--series all of them: members, newest, and how many each rule keeps. A copy that the service's own "
    "lock protects is no error: it is deleted after the lock expires. The exit code is 3 if something "
    "must be fixed first, 1 if a copy could not be deleted.",
    examples=(
        "fsbackup prune",
        "fsbackup prune backups/full --yes",
        "fsbackup prune --explain backups/2025/10/db.gz",
        "fsbackup prune --series",
    ),
    add_arguments=_add_arguments,
    execute=_execute,
)
