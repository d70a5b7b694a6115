"""`fsbackup verify`: find what is wrong with any copy of any object, and change nothing."""

from __future__ import annotations

import argparse
from argparse import Namespace
from typing import TYPE_CHECKING

from fsbackup.cli import context, exits, output, text
from fsbackup.cli.command import Command, add_dask, add_set, prefix

if TYPE_CHECKING:
    from fsbackup.replication.problems import CopyProblem
    from fsbackup.replication.storage import ReplicatedStorage
    from fsbackup.replication.verify import CopyCounts, VerifyReport

#: The columns of the table, those that are not empty.
_STATES = (
    "present",
    "expired",
    "missing",
    "stale",
    "conflict",
    "size differs",
    "damaged",
    "no manifest",
    "deleted elsewhere",
    "unknown",
)


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "prefix", nargs="?", default="", metavar="PREFIX", type=prefix, help="a key, or the first segments of keys"
    )
    parser.add_argument("--deep", action="store_true", help="read every byte of every copy")
    parser.add_argument(
        "--sample", metavar="1/N", type=_sample, help="only today's share of the objects, all of them in N days"
    )
    add_set(parser)
    add_dask(parser)


def _sample(value: str) -> str:
    from fsbackup.replication.sample import parse_sample

    try:
        parse_sample(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return value


def _execute(args: Namespace) -> int:
    store = context.open_set(args)
    hear = _tell_json if args.json else _tell
    with context.open_executor(args) as executor:
        report = store.verify(args.prefix, deep=args.deep, sample=args.sample, hear=hear, executor=executor)
    if args.json:
        output.print_json_line({"kind": "summary", **report.as_dict(), "problems": report.found})
    elif not (args.quiet and report.status == "complete"):
        _print(args, store, report)
    return exits.OF_STATUS[report.status]


def _tell(problem: CopyProblem) -> None:
    detail = f": {problem.detail}" if problem.detail else ""
    output.print_line(text.one_line(f"{problem.key}: {problem.backend}: {problem.state}{detail}"))


def _tell_json(problem: CopyProblem) -> None:
    output.print_json_line({"kind": "problem", **problem.as_dict()})


def _print(args: Namespace, store: ReplicatedStorage, report: VerifyReport) -> None:
    if report.found:
        output.print_line()
    columns = [state for state in _STATES if any(each.states.get(state) for each in report.backends.values())]
    rows = [["backend", *columns, "status", "location"]]
    rows += [
        [name, *_counts(each, columns), _state(each), store.backends[name].location]
        for name, each in report.backends.items()
    ]
    output.print_table(rows, right=tuple(range(1, len(columns) + 1)))
    output.print_line()
    for advice, number in _advice(report).items():
        output.print_line(f"{text.count(number, 'problem')}: {advice}")
    output.print_line(_verdict(args, store, report))


def _counts(each: CopyCounts, columns: list[str]) -> list[str]:
    return [f"{each.states.get(state, 0):,}" for state in columns]


def _state(each: CopyCounts) -> str:
    if each.error:
        return f"not listed: {each.error}"
    return "ok" if set(each.states) <= {"present", "expired"} else "problems"


def _advice(report: VerifyReport) -> dict[str, int]:
    """Return what to do, and about how many of the problems that are named."""
    found: dict[str, int] = {}
    for problem in report.problems:
        found[problem.advice] = found.get(problem.advice, 0) + 1
    return found


def _verdict(args: Namespace, store: ReplicatedStorage, report: VerifyReport) -> str:
    looked = f"{text.count(report.objects, 'object')}{f' ({report.sample} of all)' if report.sample else ''}"
    if report.status == "complete":
        proof = f"every byte of every copy read ({text.size(report.bytes_read)}) and right"
        return f"complete: {looked}, {proof if report.deep else 'every copy right by its manifest, size and ETag'}"
    reasons = [f"{text.count(report.found, 'problem')} in {looked}"]
    if report.short:
        reasons.append(f"{text.count(report.short, 'object')} with too few proven copies")
    unlisted = [name for name, each in report.backends.items() if each.error]
    if unlisted:
        reasons.append(f"what {' and '.join(unlisted)} should hold is not known")
    return f"{report.status}: {', '.join(reasons)}.{_next(args, store, report)}"


def _next(args: Namespace, store: ReplicatedStorage, report: VerifyReport) -> str:
    if not report.found:
        return ""
    where = f" {args.prefix}" if args.prefix else ""
    return f" Next: `fsbackup repair{where} --set {store.name}`"


COMMAND = Command(
    name="verify",
    summary="prove every copy of every object; change nothing",
    description="Examines every object on every replica: manifests, sizes, ETags and generations; with --deep "
    "every byte of every copy, against the manifest's hashes. Each problem is a line as it is found: missing, "
    "stale (an older version), conflict, size differs, damaged, no manifest, deleted elsewhere, lost (a manifest "
    "whose data is nowhere) or unknown (it did not answer). The exit code is 3 when there is a problem, 1 when an "
    "object has fewer proven copies than min_copies. With --deep --sample 1/30, every day from cron, each byte is "
    "read once in thirty days.",
    examples=("fsbackup verify", "fsbackup verify backups/full --deep", "fsbackup verify --deep --sample 1/30 -q"),
    arguments=_arguments,
    execute=_execute,
)
