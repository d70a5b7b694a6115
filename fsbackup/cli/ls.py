"""`fsbackup ls`: the objects of a set."""

from __future__ import annotations

import argparse
from argparse import Namespace
from typing import TYPE_CHECKING

from fsbackup.cli import command, exits, render
from fsbackup.cli.command import Command, add_prefix, add_set

if TYPE_CHECKING:
    from fsbackup.replication.ls import ObjectEntry
    from fsbackup.replication.storage import ReplicatedStorage


def _arguments(parser: argparse.ArgumentParser) -> None:
    add_prefix(parser)
    parser.add_argument("-l", "--long", action="store_true", help="size, date and a column for each replica too")
    add_set(parser)


def _execute(args: Namespace) -> int:
    store = command.open_set(args)
    names = list(store.backends)
    complete, found = True, False
    if args.long and not args.json:
        render.print_line(_columns("size", "modified", names, names, "key"))
    for entry in store.ls(args.prefix):
        found = True
        complete = complete and entry.complete
        _print(args, entry, names)
    if not found:
        complete = _all_answer(store, args.prefix)
        render.print_note(f"nothing is stored{f' at or below {args.prefix}' if args.prefix else ''}")
    return exits.COMPLETE if complete else exits.DEGRADED


def _all_answer(store: ReplicatedStorage, wanted: str) -> bool:
    """Tell whether every replica says that there is nothing: no answer is not that answer."""
    return not any(each.error for each in store.status(wanted).backends.values())


def _print(args: Namespace, entry: ObjectEntry, names: list[str]) -> None:
    if args.json:
        render.print_json_line(entry.as_dict())
    elif args.long:
        states: list[str] = [entry.replicas[name] for name in names]
        render.print_line(_columns(render.size(entry.size), render.when(entry.modified), names, states, entry.key))
    elif not entry.deleted:
        render.print_line(entry.key)


def _columns(size: str, when: str, names: list[str], states: list[str], key: str) -> str:
    """Return one line of the long form; widths are fixed, since a listing may have a million lines."""
    cells = [state.ljust(max(len(name), len("size differs"))) for name, state in zip(names, states, strict=True)]
    return "  ".join([size.rjust(10), when.ljust(16), *cells, key])


COMMAND = Command(
    name="ls",
    summary="list objects, and which replicas have them",
    description="Lists the objects at or below a prefix, from the replicas' own listings, in order. With -l: "
    "size, date, and for each replica present, missing, expired (its retention let it go), size differs or "
    "unknown (it could not be listed); also what was deleted while a replica was away that still has it (deleted "
    "elsewhere). With --json: one JSON object per line. The exit code is 3 when something listed is not "
    "everywhere it should be.",
    examples=("fsbackup ls", "fsbackup ls -l backups/2025/10", "fsbackup ls --json | jq -r .key"),
    arguments=_arguments,
    execute=_execute,
)
