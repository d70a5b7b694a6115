"""`fsbackup repair`: restore missing, stale and damaged replicas from proven ones."""

from __future__ import annotations

import argparse
from argparse import Namespace
from typing import TYPE_CHECKING

from fsbackup.cli import exits, render
from fsbackup.cli.command import Command, add_dask, add_prefix, add_set, open_executor, open_set
from fsbackup.cli.logs import Repeats

if TYPE_CHECKING:
    from fsbackup.replication.repair import RepairReport, Step

#: How the verdict counts the actions of each kind.
_DONE = {
    "refill": ("copy refilled", "copies refilled"),
    "write manifest": ("manifest written", "manifests written"),
    "finish": ("interrupted replacement finished", "interrupted replacements finished"),
    "clear intent": ("write intent cleared", "write intents cleared"),
    "delete": ("deleted copy removed", "deleted copies removed"),
    "forget delete": ("tombstone removed", "tombstones removed"),
    "adopt": ("copy adopted", "copies adopted"),
    "refill key": ("copy of an identity key refilled", "copies of identity keys refilled"),
    "clear leftover": ("orphan removed", "orphans removed"),
}


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_prefix(parser)
    parser.add_argument("--dry-run", action="store_true", help="print what would be done, and change nothing")
    parser.add_argument("--deep", action="store_true", help="read every byte of every replica first")
    parser.add_argument(
        "--adopt", action="store_true", help="write a manifest for data without one, if all copies are the same"
    )
    parser.add_argument(
        "--yes",
        action="store_true",
        help="delete or replace proven copies also of more than 10 objects that are more than 5 %% of all",
    )
    parser.add_argument(
        "--accept-empty",
        action="append",
        default=[],
        metavar="NAME",
        help="fill this backend, which is empty and therefore refused: a new one, or a disk or bucket that lost "
        "everything (can be repeated)",
    )
    add_set(parser)
    add_dask(parser)


def _execute(args: Namespace) -> int:
    store = open_set(args)
    repeats = Repeats()
    with open_executor(args) as executor:
        report = store.repair(
            args.prefix,
            dry_run=args.dry_run,
            deep=args.deep,
            adopt=args.adopt,
            allow_many=args.yes,
            accept_empty=args.accept_empty,
            on_step=lambda step: _print_step(args, step, repeats),
            executor=executor,
        )
    if args.json:
        fields = {name: value for name, value in report.as_dict().items() if name != "steps"}
        render.print_json_line({"kind": "summary", **fields})
    elif not (args.quiet and report.status == "complete"):
        render.print_report(problems=render.reasons(report.unreachable), verdict=_verdict(report))
    return exits.BY_STATUS[report.status]


def _print_step(args: Namespace, step: Step, repeats: Repeats) -> None:
    if args.json:
        render.print_json_line({"kind": "step", **step.as_dict()})
    elif not args.quiet or step.outcome in ("failed", "unresolved"):
        is_repeated = step.action.problem == "unreachable" and args.verbose <= 0  # the same for every object
        line = _step_line(step)
        shown = repeats.shown(step.action.backend, line) if is_repeated else line
        if shown is not None:
            render.print_line(render.one_line(shown))


def _step_line(step: Step) -> str:
    action = step.action
    backend = f"{action.backend}: " if action.backend else ""
    what = f"{action.key}: {backend}{action.problem or action.kind}: {action.reason}"
    error = f": {step.error}" if step.error else ""
    return f"{step.outcome:<12}{what}{error}"


def _verdict(report: RepairReport) -> str:
    objects = render.count(report.objects, "object")
    done = ", ".join(render.count(number, *_DONE[kind]) for kind, number in sorted(report.done.items()))
    remaining = [
        render.remaining(report.unresolved, "with a bad or missing replica", "object"),
        render.remaining(report.under_replicated, "with fewer proven copies than min_copies", "object"),
        render.remaining(report.unrecoverable, "unrecoverable", "object"),
    ]
    if report.dry_run:
        to_do = f"to do: {done or 'nothing'}"
        return render.verdict("dry run", f"{objects} examined", "nothing was changed", to_do, *remaining)
    sent = f" ({render.size(report.bytes_sent)} sent)" if report.bytes_sent else ""
    if report.status == "complete":
        return render.verdict("complete", f"{objects}, every replica good", f"{done or 'nothing to repair'}{sent}")
    return render.verdict(
        report.status, f"{objects} examined", f"{done or 'nothing was repaired'}{sent}", *remaining
    )


COMMAND = Command(
    name="repair",
    summary="restore missing, stale and damaged replicas from proven ones",
    description="Examines every object as verify does and corrects every replica: refills what is missing, "
    "truncated, damaged or stale from replicas that prove every block, finishes replacements and deletes that a "
    "replica missed, and deletes what fsbackup's own unfinished writes left (older than a day; not with a PREFIX "
    "of several segments). A bad copy stays until proven bytes replace it; data without any manifest is reported "
    "and not changed. Where proven copies of more than 10 objects and more than 5 % of all would be deleted or "
    "replaced, these are reported and left, unless --yes is given. Each action is printed when it is done. The "
    "exit code is 3 if something remains, 1 if an object has fewer proven copies than min_copies or is lost. "
    "When an unreachable backend answers again, run repair again. A backend that is empty while others of its "
    "set are not is refused like one that is unreachable, because it may be an unmounted disk or another bucket: "
    "--accept-empty NAME fills it.",
    examples=(
        "fsbackup repair",
        "fsbackup repair backups/full --dry-run",
        "fsbackup repair --deep --set triple",
        "fsbackup repair --accept-empty disk2",
    ),
    add_arguments=_add_arguments,
    execute=_execute,
)
