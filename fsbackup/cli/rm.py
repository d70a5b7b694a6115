"""`fsbackup rm`: exactly these keys, from every replica."""

from __future__ import annotations

import argparse
from argparse import Namespace
from typing import TYPE_CHECKING

from fsbackup.cli import command, exits, render
from fsbackup.cli.command import Command, add_set, key
from fsbackup.errors import FsbackupError, ObjectNotFoundError

if TYPE_CHECKING:
    from fsbackup.engine.results import Report
    from fsbackup.replication.storage import ReplicatedStorage


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("keys", nargs="+", metavar="KEY", type=key, help="an object; patterns are not expanded")
    add_set(parser)


def _execute(args: Namespace) -> int:
    store = command.open_set(args)
    results = []
    for each in dict.fromkeys(args.keys):
        there = _is_there(store, each)
        report = store.remove(each)
        results.append({**report.as_dict(), "was_there": there})
        if not (args.json or (args.quiet and report)):
            _print(report, there)
    if args.json:
        render.print_json({"objects": results})
    return exits.worst(exits.OF_STATUS[result["status"]] for result in results)


def _is_there(store: ReplicatedStorage, wanted: str) -> bool | None:
    """Tell whether any replica has it; None when that cannot be found out."""
    try:
        store.stat(wanted)
    except ObjectNotFoundError:
        return False
    except FsbackupError:
        return None
    return True


def _print(report: Report, there: bool | None) -> None:
    gone = ", ".join(name for name, result in report.replicas.items() if result.ok)
    if there is False and report:
        render.print_line(f"{report.key}: was not there (asked {gone})")
        return
    if gone:
        render.print_line(f"{report.key}: deleted from {gone}")
    for name, result in report.replicas.items():
        if not result.ok:
            render.print_line(f"{report.key}: NOT deleted from {name}: {exits.reason(result.exception)}")
    if not report:
        render.print_line(
            f"{report.key}: run the same again when that is mended; until then the others remember the delete"
        )


COMMAND = Command(
    name="rm",
    summary="delete exactly these objects from every replica",
    description="Deletes each key from every backend of a replication set. Keys are taken as they are: no "
    "patterns, no directories. While a backend is away the others remember the delete, so that no repair brings "
    "the object back. A key that is not there is success, and said.",
    examples=("fsbackup rm backups/shop.sql.gz", "fsbackup rm a.gz b.gz --set triple"),
    arguments=_arguments,
    execute=_execute,
)
