"""`fsbackup verify`: examine every replica of every object, and change nothing."""

from __future__ import annotations

import argparse
from argparse import Namespace
from collections import Counter
from typing import TYPE_CHECKING

from fsbackup.cli import exits, render
from fsbackup.cli.command import (
    Command,
    add_allow_empty,
    add_dask,
    add_prefix,
    add_set,
    open_executor,
    open_set,
)

if TYPE_CHECKING:
    from fsbackup.replication.storage import ReplicatedStorage
    from fsbackup.replication.verify import CopyCounts, CopyProblem, VerifyReport

#: Columns of the table, shown where they are not empty.
_STATES = (
    "present",
    "expired",
    "missing",
    "stale",
    "conflict",
    "unconfirmed",
    "size differs",
    "damaged",
    "no manifest",
    "deleted elsewhere",
    "newer",
    "unknown",
)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_prefix(parser)
    parser.add_argument("--deep", action="store_true", help="read every byte of every replica")
    parser.add_argument(
        "--sample", metavar="1/N", type=_sample, help="only today's share of the objects; all of them in N days"
    )
    add_allow_empty(parser)
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
    store = open_set(args)
    on_problem = _print_problem_json if args.json else _print_problem
    with open_executor(args) as executor:
        report = store.verify(
            args.prefix, deep=args.deep, sample=args.sample, on_problem=on_problem, executor=executor
        )
    if not args.allow_empty and _is_empty(store, report):
        return _print_empty(args, report)
    if args.json:
        render.print_json_line({"kind": "summary", **report.as_dict(), "problems": report.found})
    elif not (args.quiet and report.status == "complete"):
        _print_report(args, store, report)
    return exits.BY_STATUS[report.status]


def _is_empty(store: ReplicatedStorage, report: VerifyReport) -> bool:
    """Tell whether no object is stored at or below the prefix; a sample may have none all the same."""
    if report.objects or report.found:
        return False
    return report.sample is None or all(entry.is_deleted for entry in store.ls(report.prefix))


def _print_empty(args: Namespace, report: VerifyReport) -> int:
    code, verdict = exits.nothing_stored(
        args.prefix, [name for name, each in report.backends.items() if each.error]
    )
    if args.json:
        summary = {**report.as_dict(), "status": "failed", "problems": 0, "error": verdict}
        render.print_json_line({"kind": "summary", **summary})
    else:
        render.print_line(verdict)
    return code


def _print_problem(problem: CopyProblem) -> None:
    detail = f": {problem.detail}" if problem.detail else ""
    render.print_line(render.one_line(f"{problem.key}: {problem.backend}: {problem.state}{detail}"))


def _print_problem_json(problem: CopyProblem) -> None:
    render.print_json_line({"kind": "problem", **problem.as_dict()})


def _print_report(args: Namespace, store: ReplicatedStorage, report: VerifyReport) -> None:
    states = render.used_columns(_STATES, [each.states for each in report.backends.values()])
    rows: list[render.Row] = [
        {
            "backend": name,
            **{state: each.states.get(state, 0) for state in states},
            "status": _status(each),
            "location": store.backends[name].location,
        }
        for name, each in report.backends.items()
    ]
    advice = Counter(problem.advice for problem in report.problems)
    problems = render.reasons({name: each.error for name, each in report.backends.items()})
    problems += [f"{render.count(number, 'problem')}: {text}" for text, number in advice.items()]
    for name, each in report.backends.items():
        problems += render.passed_over(name, each.passed_over.count, each.passed_over.names)
    if report.found:
        render.print_line()
    render.print_report(rows, problems=problems, verdict=_verdict(args, store, report))


def _status(each: CopyCounts) -> str:
    if each.error:
        return "unreachable"
    return "ok" if set(each.states) <= {"present", "expired"} else "problems"


def _verdict(args: Namespace, store: ReplicatedStorage, report: VerifyReport) -> str:
    sample = f" (sample {report.sample})" if report.sample else ""
    objects = f"{render.count(report.objects, 'object')}{sample}"
    if report.status == "complete":
        read = f"every byte of every replica read and verified ({render.size(report.bytes_read)})"
        return render.verdict(
            "complete", objects, read if report.deep else "every replica matches its manifest, size and ETag"
        )
    can_repair = any(each.state not in ("newer", "unknown") for each in report.problems)
    return render.verdict(
        report.status,
        f"{objects} examined",
        render.count(report.found, "problem"),
        render.remaining(report.under_replicated, "with fewer proven copies than min_copies"),
        render.unreachable([name for name, each in report.backends.items() if each.error]),
        next_step=render.repair(args.prefix, store.name) if can_repair else "",
    )


COMMAND = Command(
    name="verify",
    summary="examine every replica of every object; change nothing",
    description="Examines every object on every backend: manifests, sizes, ETags and generations; with --deep "
    "also every byte of every replica, against the manifest's hashes. Each problem is printed when it is "
    "found: missing, stale (an older version), conflict, size differs, damaged, no manifest, deleted "
    "elsewhere, newer (stored by a newer fsbackup), lost (a manifest without data on any backend) or unknown "
    "(the backend did not answer). The "
    "exit code is 3 if there is a problem, 1 if an object has fewer proven copies than min_copies, 4 if "
    "nothing at all is stored there. With --deep --sample 1/30, run daily from cron, every byte is read once "
    "in thirty days.",
    examples=("fsbackup verify", "fsbackup verify backups/full --deep", "fsbackup verify --deep --sample 1/30 -q"),
    add_arguments=_add_arguments,
    execute=_execute,
)
