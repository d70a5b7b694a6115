"""`fsbackup ls`: list the objects of a set."""

from __future__ import annotations

import argparse
from argparse import Namespace
from typing import TYPE_CHECKING

from fsbackup.cli import exits, render
from fsbackup.cli.command import Command, add_prefix, add_set, open_set

if TYPE_CHECKING:
    from fsbackup.replication.classify import ObjectStatus
    from fsbackup.replication.storage import ReplicatedStorage


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_prefix(parser)
    parser.add_argument(
        "-l", "--long", action="store_true", help="print also size, date and the state of each replica"
    )
    add_set(parser)


def _execute(args: Namespace) -> int:
    store = open_set(args)
    backends = list(store.backends)
    complete, empty = True, True
    if args.long and not args.json:
        if len(store.read_order) > 1:
            render.print_line(f"read order: {', then '.join(map(' and '.join, store.read_order))}")
        render.print_line(_long_line("size", "modified", backends, backends, "key"))
    for entry in store.ls(args.prefix):
        empty = False
        complete = complete and entry.is_complete
        _print_entry(args, entry, store)
    if empty:
        complete = _all_answer(store, args.prefix)
        render.print_error(f"no objects found{f' at or below {args.prefix}' if args.prefix else ''}")
    return exits.COMPLETE if complete else exits.DEGRADED


def _all_answer(store: ReplicatedStorage, prefix: str) -> bool:
    """Tell whether every backend can be listed: an empty listing proves nothing about one that did not answer."""
    return not any(each.error for each in store.status(prefix).backends.values())


def _print_entry(args: Namespace, entry: ObjectStatus, store: ReplicatedStorage) -> None:
    if args.json:
        order = {"read_order": store.read_order} if len(store.read_order) > 1 else {}
        render.print_json_line({**entry.summary(), **order})
    elif args.long:
        backends = list(store.backends)
        states: list[str] = [entry.states[name] for name in backends]
        size, modified = render.size(entry.size), render.time(entry.modified)
        render.print_key(_long_line(size, modified, backends, states, entry.key))
    elif not entry.is_deleted:
        render.print_key(entry.key)


def _long_line(size: str, modified: str, backends: list[str], states: list[str], key: str) -> str:
    """Return one line of the long form. Widths are fixed, because lines are printed while the listing runs."""
    cells = [
        state.ljust(max(len(name), len("size differs"))) for name, state in zip(backends, states, strict=True)
    ]
    return "  ".join([size.rjust(10), modified.ljust(16), *cells, key])


COMMAND = Command(
    name="ls",
    summary="list objects, with -l the state of each replica",
    description="Lists the objects at or below a prefix, in order, from the listings of all backends. With -l "
    "also size, date, and the state of each replica: present, missing, expired (deleted by the backend's "
    "retention), size differs, newer (stored by a newer fsbackup; seen only where listings differ), unknown (the "
    "backend could not be listed), or deleted elsewhere (the object was deleted while this backend did not "
    "answer); and first in which order backends are read, where the set has an order. With --json: one JSON "
    "object per line, with that order as `read_order`. The exit code is 3 if a replica is not as it should be.",
    examples=("fsbackup ls", "fsbackup ls -l backups/2025/10", "fsbackup ls --json | jq -r .key"),
    add_arguments=_add_arguments,
    execute=_execute,
)
