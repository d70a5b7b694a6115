"""`fsbackup stat`: one object, and what each replica has of it."""

from __future__ import annotations

import argparse
from argparse import Namespace
from datetime import datetime
from typing import TYPE_CHECKING

from fsbackup.cli import command, exits, render
from fsbackup.cli.command import Command, add_set, key

if TYPE_CHECKING:
    from fsbackup.replication.stat import ObjectInfo, ReplicaInfo


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("key", metavar="KEY", type=key, help="the object")
    add_set(parser)


def _execute(args: Namespace) -> int:
    info = command.open_set(args).stat(args.key)
    if args.json:
        render.print_json(info.as_dict())
    else:
        _print(info)
    return exits.OF_STATUS[info.status]


def _print(info: ObjectInfo) -> None:
    for name, value in _facts(info):
        render.print_line(f"{name:<12}{value}")
    render.print_line()
    rows = [["backend", "state", "size", "modified", "generation"]]
    rows += [_row(each) for each in info.replicas.values()]
    render.print_table(rows, right=(2, 4))
    for each in info.replicas.values():
        if each.error:
            render.print_line(render.one_line(each.error))


def _facts(info: ObjectInfo) -> list[tuple[str, str]]:
    facts = [("key", info.key), ("size", f"{info.size:,} bytes ({render.size(info.size)})")]
    if info.deleted_at:
        facts.append(("deleted", f"{info.deleted_at}, but not everywhere yet"))
    if info.manifest is None:
        return facts if info.deleted_at else [*facts, ("sha256", "not known: no replica has a manifest")]
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


def _row(each: ReplicaInfo) -> list[str]:
    size = "-" if each.size is None else render.size(each.size)
    generation = "-" if each.generation is None else str(each.generation)
    return [each.backend, each.state, size, render.when(each.modified), generation]


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
