"""`fsbackup rm`: delete exactly these keys from every backend of a set."""

from __future__ import annotations

import argparse
from argparse import Namespace
from typing import TYPE_CHECKING

from fsbackup.cli import exits, render
from fsbackup.cli.command import Command, add_set, key, open_set
from fsbackup.errors import FsbackupError, ObjectLostError, ObjectNotFoundError, reasons

if TYPE_CHECKING:
    from fsbackup.engine.results import Report, Status
    from fsbackup.replication.storage import ReplicatedStorage


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("keys", nargs="+", metavar="KEY", type=key, help="an object; patterns are not expanded")
    add_set(parser)


def _execute(args: Namespace) -> int:
    store = open_set(args)
    results = []
    there = {each: _exists(store, each) for each in args.keys}
    for report in store.remove_many(there):
        existed = there[report.key]
        status = _status(store, report, existed)
        results.append({**report.as_dict(), "status": status, "was_there": existed})
        if not (args.json or (args.quiet and report)):
            _print_report(report, existed, status)
    if args.json:
        render.print_json({"objects": results})
    return exits.worst(exits.BY_STATUS[result["status"]] for result in results)


def _exists(store: ReplicatedStorage, object_key: str) -> bool | None:
    """Tell whether any replica has the object; None if too few backends answer to know."""
    try:
        store.stat(object_key)
    except ObjectLostError:
        return True
    except ObjectNotFoundError:
        return False
    except FsbackupError:
        return None
    return True


def _status(store: ReplicatedStorage, report: Report, existed: bool | None) -> Status:
    """Return ``"degraded"`` also where so many have confirmed that what the others have is not confirmed any more.

    Without an object that is known there is no tombstone, and what a backend that is away has would stay.
    """
    from fsbackup.engine.results import is_deleted

    deleted = is_deleted(report.confirmed, len(report.replicas), store.min_copies)
    return "degraded" if not report and existed is True and deleted else report.status


def _print_report(report: Report, existed: bool | None, status: Status) -> None:
    confirmed = ", ".join(name for name, result in report.replicas.items() if result.ok)
    if existed is False and report:
        render.print_line(f"{render.one_line(report.key)}: not found on {confirmed}")
        return
    if confirmed:
        render.print_line(f"{render.one_line(report.key)}: deleted from {confirmed}")
    for line in reasons(report.errors):
        render.print_line(f"{render.one_line(report.key)}: NOT deleted from {line}")
    if status == "degraded":
        render.print_line(
            f"{render.one_line(report.key)}: a tombstone on the others keeps it deleted; `fsbackup repair`, or "
            "the same command, finishes it when these backends answer"
        )
    elif not report:
        render.print_line(
            f"{render.one_line(report.key)}: run the same command again when these backends answer: nothing "
            "else deletes it there"
        )


COMMAND = Command(
    name="rm",
    summary="delete exactly these objects from every backend",
    description="Deletes each key from every backend of a replication set. Keys are taken literally: no "
    "patterns, no directories. If a backend does not answer, a tombstone on the others prevents that a repair "
    "restores the object, and the exit code is 3: the next `fsbackup repair` finishes it. A key that does not "
    "exist is reported, and is no error.",
    examples=("fsbackup rm backups/shop.sql.gz", "fsbackup rm a.gz b.gz --set triple"),
    add_arguments=_add_arguments,
    execute=_execute,
)
