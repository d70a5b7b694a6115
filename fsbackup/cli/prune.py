"""`fsbackup prune`: let go what each backend's retention no longer keeps."""

from __future__ import annotations

import argparse
import sys
from argparse import Namespace
from typing import TYPE_CHECKING

from fsbackup.cli import command, exits, render
from fsbackup.cli.command import Command, add_prefix, add_set, key
from fsbackup.errors import ConfigError, ObjectNotFoundError

if TYPE_CHECKING:
    from fsbackup.replication.prune import PruneCounts, PruneReport, PruneStep
    from fsbackup.replication.storage import ReplicatedStorage

#: The columns of the table, those that are not empty.
_OUTCOMES = ("let go", "planned", "cleared", "kept", "held", "not yet", "failed")


def _arguments(parser: argparse.ArgumentParser) -> None:
    add_prefix(parser)
    parser.add_argument("--dry-run", action="store_true", help="say what would go, and remove nothing")
    parser.add_argument("--yes", action="store_true", help="remove it, also on a terminal")
    parser.add_argument("--explain", metavar="KEY", type=key, help="say what becomes of one key, and why; no more")
    add_set(parser)


def _execute(args: Namespace) -> int:
    if args.explain and (args.prefix or args.yes):
        raise ConfigError("--explain only looks at its one KEY: leave out PREFIX and --yes")
    store = command.open_set(args)
    if args.explain:
        return _explain(args, store)
    report = store.prune(args.prefix, dry_run=_is_dry(args), hear=lambda step: _tell(args, step))
    if args.json:
        fields = {name: value for name, value in report.as_dict().items() if name != "steps"}
        render.print_json_line({"kind": "summary", **fields})
    elif not (args.quiet and report.status == "complete"):
        _print(args, store, report)
    return exits.OF_STATUS[report.status]


def _is_dry(args: Namespace) -> bool:
    """Where somebody sits at a terminal, nothing goes before they have seen it."""
    watched = any(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr) if stream is not None)
    return bool(args.dry_run or (watched and not args.yes))


def _tell(args: Namespace, step: PruneStep) -> None:
    if step.outcome == "kept" and not args.verbose:
        return
    if args.json:
        render.print_json_line({"kind": "step", **step.as_dict()})
    elif not args.quiet or step.outcome in ("held", "failed"):
        _line(step)


def _line(step: PruneStep) -> None:
    render.print_line(render.one_line(f"{step.outcome:<8}{step.key}: {step.backend}: {step.reason}"))


def _explain(args: Namespace, store: ReplicatedStorage) -> int:
    found: dict[str, PruneStep] = {}

    def hear(step: PruneStep) -> None:
        if step.key == args.explain:
            found[step.backend] = step

    report = store.prune(args.explain, hear=hear)
    stopped = {name: each.stopped for name, each in report.backends.items() if each.stopped}
    if not found and not stopped:
        raise ObjectNotFoundError("no such key on any backend", operation="prune", key=args.explain)
    if args.json:
        steps = {name: found[name].as_dict() if name in found else None for name in store.backends}
        render.print_json({"key": args.explain, "backends": steps, "stopped": stopped})
    else:
        for name in store.backends:
            if name in found:
                _line(found[name])
            else:
                render.print_line(f"-       {args.explain}: {name}: {stopped.get(name, 'it is not there')}")
    return exits.OF_STATUS[report.status]


def _print(args: Namespace, store: ReplicatedStorage, report: PruneReport) -> None:
    columns = [each for each in _OUTCOMES if report.count(each)]
    rows = [["backend", *columns, "freed", "location"]]
    rows += [
        [name, *_counts(each, columns), render.size(each.bytes_freed), store.backends[name].location]
        for name, each in report.backends.items()
    ]
    if report.steps:
        render.print_line()
    render.print_table(rows, right=tuple(range(1, len(columns) + 2)))
    render.print_line()
    for name, each in report.backends.items():
        if each.stopped:
            render.print_line(f"nothing is let go on {name}: {render.one_line(each.stopped)}")
    render.print_line(_verdict(args, store, report))


def _counts(each: PruneCounts, columns: list[str]) -> list[str]:
    return [f"{each.outcomes.get(outcome, 0):,}" for outcome in columns]


def _verdict(args: Namespace, store: ReplicatedStorage, report: PruneReport) -> str:
    if report.dry_run:
        planned = report.count("planned")
        freed = render.size(sum(each.bytes_freed for each in report.backends.values()))
        said = f"dry run: {render.count(planned, 'copy', 'copies')} would go ({freed}), nothing was removed"
        where = f" {args.prefix}" if args.prefix else ""
        return f"{said}{_remaining(report)}" + (
            f". To remove: `fsbackup prune{where} --set {store.name} --yes`" if planned else ""
        )
    return f"{report.status}: {done(report)}"


def done(report: PruneReport) -> str:
    """Return how much went, and what remains."""
    freed = render.size(sum(each.bytes_freed for each in report.backends.values()))
    return f"{render.count(report.count('let go'), 'copy', 'copies')} let go ({freed}){_remaining(report)}"


def _remaining(report: PruneReport) -> str:
    parts = [
        (report.count("held"), "held until something is mended"),
        (report.count("not yet"), "locked until later"),
        (report.count("failed"), "not removed"),
    ]
    return "".join(f"; {render.count(number, 'copy', 'copies')} {what}" for number, what in parts if number)


COMMAND = Command(
    name="prune",
    summary="remove from each backend what its retention lets go",
    description="Removes from each backend the copies that its own `retention` no longer keeps, and only there: "
    "the others keep theirs. On a terminal it only says what would go, until --yes; from cron it acts. The "
    "newest keep_last of each series stay, and so does a copy that another backend should have and does "
    "not prove. Nothing goes from a backend that cannot be listed to its end, or while the clock is "
    "behind the newest object. Each line says why; -v also names what is kept. What the service's own "
    "lock keeps is no error: it goes when it may. The exit code is 3 when something must be mended first, "
    "1 when a copy could not be removed.",
    examples=(
        "fsbackup prune",
        "fsbackup prune backups/full --yes",
        "fsbackup prune --explain backups/2025/10/db.gz",
    ),
    arguments=_arguments,
    execute=_execute,
)
