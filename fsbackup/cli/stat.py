"""`fsbackup stat`: one object, and what each replica has of it."""

from __future__ import annotations

import argparse
from argparse import Namespace
from datetime import datetime
from typing import TYPE_CHECKING

from fsbackup.cli import context, exits, output, text
from fsbackup.cli.command import Command, add_set, key
from fsbackup.record import Tombstone

if TYPE_CHECKING:
    from fsbackup.engine.records import ReplicaState
    from fsbackup.replication.classify import ObjectStatus


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("key", metavar="KEY", type=key, help="the object")
    add_set(parser)


def _execute(args: Namespace) -> int:
    info = context.open_set(args).stat(args.key)
    if args.json:
        output.print_json(info.as_dict())
    else:
        _print(info)
    return exits.OF_STATUS[info.status]


def _print(info: ObjectStatus) -> None:
    for name, value in _facts(info):
        output.print_line(f"{name:<12}{value}")
    output.print_line()
    rows = [["backend", "state", "size", "modified", "generation"]]
    rows += [_row(each) for each in info.replicas.values()]
    output.print_table(rows, right=(2, 4))
    for each in info.replicas.values():
        if each.error:
            output.print_line(text.one_line(str(each.error)))


def _facts(info: ObjectStatus) -> list[tuple[str, str]]:
    facts = [("key", info.key), ("size", f"{info.size:,} bytes ({text.size(info.size)})")]
    if isinstance(info.latest, Tombstone):
        return [*facts, ("deleted", f"{info.latest.deleted_at}, but not everywhere yet")]
    if info.manifest is None:
        return [*facts, ("sha256", "not known: no replica has a manifest")]
    known = info.manifest
    changed = "" if known.source.mtime is None else f", last changed {_utc(known.source.mtime)}"
    return [
        *facts,
        ("sha256", known.sha256),
        ("generation", str(known.generation)),
        ("created", known.created_at),
        ("source", f"{known.source.host}{changed}"),
        ("status", info.status),
    ]


def _utc(epoch: float) -> str:
    return datetime.fromtimestamp(epoch).astimezone().isoformat(timespec="seconds")


def _row(each: ReplicaState) -> list[str]:
    size, modified = (text.size(each.stat.size), each.stat.modified) if each.stat else ("-", None)
    generation = "-" if each.record is None else str(each.record.generation)
    return [each.backend, each.state, size, text.when(modified), generation]


COMMAND = Command(
    name="stat",
    summary="show one object: size, hash, and what each replica has of it",
    description="Shows what an object's manifest says, and what each replica has: present, missing, expired (its "
    "retention let it go), stale (an older version), conflict (two contents under one generation), size differs, "
    "damaged, no manifest, deleted elsewhere (its data is still to be removed) or unknown (it did not answer). "
    "Reads no data; the exit code is 3 when one lacks it that should have it.",
    examples=("fsbackup stat backups/shop.sql.gz", "fsbackup stat backups/shop.sql.gz --json | jq -r .sha256"),
    arguments=_arguments,
    execute=_execute,
)
