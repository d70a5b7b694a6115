"""`fsbackup prune`: delete from each backend what its retention no longer keeps."""

from __future__ import annotations

import argparse
import sys
from argparse import Namespace
from typing import TYPE_CHECKING

from fsbackup.cli import context, exits, output, text
from fsbackup.cli.command import Command, add_set, key, prefix
from fsbackup.errors import ConfigError, ObjectNotFoundError

if TYPE_CHECKING:
    from fsbackup.replication.prune import PruneCounts, PruneReport, PruneStep
    from fsbackup.replication.storage import ReplicatedStorage

#: The columns of the table, those that are not empty.
_OUTCOMES = ("deleted", "planned", "cleared", "kept", "blocked", "locked", "failed")


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "prefix", nargs="?", default="", metavar="PREFIX", type=prefix, help="a key, or the first segments of keys"
    )
    parser.add_argument("--dry-run", action="store_true", help="show what would be deleted, and delete nothing")
    parser.add_argument("--yes", action="store_true", help="delete, also on a terminal")
    parser.add_argument(
        "--explain", metavar="KEY", type=key, help="show what prune does with this key, and why; delete nothing"
    )
    add_set(parser)


def _execute(args: Namespace) -> int:
    if args.explain and (args.prefix or args.yes):
        raise ConfigError("--explain shows one KEY and deletes nothing: leave out PREFIX and --yes")
    store = context.open_set(args)
    if args.explain:
        return _explain(args, store)
    report = store.prune(args.prefix, dry_run=_is_dry(args), hear=lambda step: _on_step(args, step))
    if args.json:
        fields = {name: value for name, value in report.as_dict().items() if name != "steps"}
        output.print_json_line({"kind": "summary", **fields})
    elif not (args.quiet and report.status == "complete"):
        _print(args, store, report)
    return exits.OF_STATUS[report.status]


def _is_dry(args: Namespace) -> bool:
    """On a terminal, nothing is deleted without --yes."""
    watched = any(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr) if stream is not None)
    return bool(args.dry_run or (watched and not args.yes))


def _on_step(args: Namespace, step: PruneStep) -> None:
    if step.outcome == "kept" and not args.verbose:
        return
    if args.json:
        output.print_json_line({"kind": "step", **step.as_dict()})
    elif not args.quiet or step.outcome in ("blocked", "failed"):
        _print_step(step)


def _print_step(step: PruneStep) -> None:
    output.print_line(text.one_line(f"{step.outcome:<9}{step.key}: {step.backend}: {step.reason}"))


def _explain(args: Namespace, store: ReplicatedStorage) -> int:
    found: dict[str, PruneStep] = {}

    def on_step(step: PruneStep) -> None:
        if step.key == args.explain:
            found[step.backend] = step

    report = store.prune(args.explain, hear=on_step)
    stopped = {name: each.stopped for name, each in report.backends.items() if each.stopped}
    if not found and not stopped:
        raise ObjectNotFoundError("no such key on any backend", operation="prune", key=args.explain)
    if args.json:
        steps = {name: found[name].as_dict() if name in found else None for name in store.backends}
        output.print_json({"key": args.explain, "backends": steps, "stopped": stopped})
    else:
        for name in store.backends:
            if name in found:
                _print_step(found[name])
            else:
                output.print_line(f"-        {args.explain}: {name}: {stopped.get(name, 'it is not there')}")
    return exits.OF_STATUS[report.status]


def _print(args: Namespace, store: ReplicatedStorage, report: PruneReport) -> None:
    columns = [each for each in _OUTCOMES if report.count(each)]
    rows = [["backend", *columns, "freed", "location"]]
    rows += [
        [name, *_counts(each, columns), text.size(each.bytes_freed), store.backends[name].location]
        for name, each in report.backends.items()
    ]
    if report.steps:
        output.print_line()
    output.print_table(rows, right=tuple(range(1, len(columns) + 2)))
    output.print_line()
    for name, each in report.backends.items():
        if each.stopped:
            output.print_line(f"nothing is deleted on {name}: {text.one_line(each.stopped)}")
    output.print_line(_summary(args, store, report))


def _counts(each: PruneCounts, columns: list[str]) -> list[str]:
    return [f"{each.outcomes.get(outcome, 0):,}" for outcome in columns]


def _summary(args: Namespace, store: ReplicatedStorage, report: PruneReport) -> str:
    if report.dry_run:
        planned = report.count("planned")
        freed = text.size(sum(each.bytes_freed for each in report.backends.values()))
        summary = (
            f"dry run: {text.count(planned, 'copy', 'copies')} would be deleted ({freed}), nothing was deleted"
        )
        where = f" {args.prefix}" if args.prefix else ""
        return f"{summary}{_remaining(report)}" + (
            f". To delete: `fsbackup prune{where} --set {store.name} --yes`" if planned else ""
        )
    return f"{report.status}: {done(report)}"


def done(report: PruneReport) -> str:
    """Return how much was deleted, and what remains."""
    freed = text.size(sum(each.bytes_freed for each in report.backends.values()))
    return f"{text.count(report.count('deleted'), 'copy', 'copies')} deleted ({freed}){_remaining(report)}"


def _remaining(report: PruneReport) -> str:
    parts = [
        (report.count("blocked"), "blocked until something is repaired"),
        (report.count("locked"), "locked until later"),
        (report.count("failed"), "not deleted"),
    ]
    return "".join(f"; {text.count(number, 'copy', 'copies')} {what}" for number, what in parts if number)


COMMAND = Command(
    name="prune",
    summary="delete from each backend what its retention no longer keeps",
    description="Deletes from each backend the copies that its own `retention` no longer keeps, and only there: "
    "the others keep theirs. On a terminal it only shows what would be deleted, until --yes; from cron it acts. "
    "Only older versions of a series are deleted: keys that differ only in what the {now} of a job's destination "
    "made, or that `series` in the retention names. Every other key stays. The "
    "newest keep_last of each series stay, and so does a copy that another backend should have and does "
    "not prove. Nothing is deleted on a backend that cannot be listed to its end, or while the clock is "
    "behind the newest object. Each line gives the reason; -v also shows what is kept. A copy that the service's "
    "own lock keeps is no error: a later prune deletes it. The exit code is 3 when something must be repaired "
    "first, 1 when a copy could not be deleted.",
    examples=(
        "fsbackup prune",
        "fsbackup prune backups/full --yes",
        "fsbackup prune --explain backups/2025/10/db.gz",
    ),
    arguments=_arguments,
    execute=_execute,
)
