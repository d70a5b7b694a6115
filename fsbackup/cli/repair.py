"""`fsbackup repair`: make right what verify finds, from copies that are proven."""

from __future__ import annotations

import argparse
from argparse import Namespace
from typing import TYPE_CHECKING

from fsbackup.cli import context, exits, output, text
from fsbackup.cli.command import Command, add_dask, add_set, prefix

if TYPE_CHECKING:
    from fsbackup.replication.repair import RepairReport, Step

#: How each kind of action is counted in the last line.
_DONE = {
    "refill": ("copy refilled", "copies refilled"),
    "write manifest": ("manifest written", "manifests written"),
    "finish": ("replacement finished", "replacements finished"),
    "clear intent": ("write intent cleared", "write intents cleared"),
    "delete": ("copy deleted as asked before", "copies deleted as asked before"),
    "forget delete": ("delete completed", "deletes completed"),
    "adopt": ("copy adopted", "copies adopted"),
    "clear leftover": ("leftover cleared", "leftovers cleared"),
}


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "prefix", nargs="?", default="", metavar="PREFIX", type=prefix, help="a key, or the first segments of keys"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    parser.add_argument("--deep", action="store_true", help="read every byte of every copy first")
    parser.add_argument(
        "--adopt", action="store_true", help="give data without a manifest one, where all copies are the same"
    )
    add_set(parser)
    add_dask(parser)


def _execute(args: Namespace) -> int:
    store = context.open_set(args)
    with context.open_executor(args) as executor:
        report = store.repair(
            args.prefix,
            dry_run=args.dry_run,
            deep=args.deep,
            adopt=args.adopt,
            hear=_tell_json if args.json else _tell if not args.quiet else _tell_bad,
            executor=executor,
        )
    if args.json:
        fields = {name: value for name, value in report.as_dict().items() if name != "steps"}
        output.print_json_line({"kind": "summary", **fields})
    elif not (args.quiet and report.status == "complete"):
        for name, why in report.unreachable.items():
            output.print_line(text.one_line(f"{name} did not answer: {why}"))
        output.print_line(_verdict(report))
    return exits.OF_STATUS[report.status]


def _tell(step: Step) -> None:
    action = step.action
    what = action.problem or action.kind
    where = f"{action.backend}: " if action.backend else ""
    outcome = f": {step.error}" if step.error else ""
    output.print_line(text.one_line(f"{step.outcome:<12}{action.key}: {where}{what}: {action.reason}{outcome}"))


def _tell_bad(step: Step) -> None:
    if step.outcome in ("failed", "unresolved"):
        _tell(step)


def _tell_json(step: Step) -> None:
    output.print_json_line({"kind": "step", **step.as_dict()})


def _verdict(report: RepairReport) -> str:
    """Return the last line: is everything right now, and if not, what remains."""
    looked = text.count(report.objects, "object")
    done = ", ".join(text.count(number, *_DONE[kind]) for kind, number in sorted(report.done.items()))
    if report.dry_run:
        return f"dry run: {looked} examined, nothing was changed; to do: {done or 'nothing'}{_remaining(report)}"
    sent = f" ({text.size(report.bytes_sent)} sent)" if report.bytes_sent else ""
    if report.status == "complete":
        return f"complete: {looked} right in every place; {done or 'nothing was to do'}{sent}"
    return f"{report.status}: {looked} examined; {done or 'nothing was done'}{sent}{_remaining(report)}"


def _remaining(report: RepairReport) -> str:
    parts = [
        (report.unresolved, "not right on every replica"),
        (report.under_replicated, "with too few proven copies"),
        (report.unrecoverable, "unrecoverable"),
    ]
    return "".join(f"; {text.count(number, 'object')} {what}" for number, what in parts if number)


COMMAND = Command(
    name="repair",
    summary="repair missing, stale and damaged copies from proven ones",
    description="Examines every object as verify does and makes it right on every replica: refills what is "
    "missing, short, rotten or stale from copies that prove every block, finishes replacements and deletes that a "
    "replica missed, and clears what our own unfinished writes left (older than a day). A bad copy stays until "
    "proven bytes take its place; two contents under one generation, and data that nothing proves, are left alone "
    "and named. Each action is a line as it is done. The exit code is 3 when something remains, 1 when an object "
    "has fewer proven copies than min_copies or is unrecoverable. Run it again when a replica is back.",
    examples=("fsbackup repair", "fsbackup repair backups/full --dry-run", "fsbackup repair --deep --set triple"),
    arguments=_arguments,
    execute=_execute,
)
