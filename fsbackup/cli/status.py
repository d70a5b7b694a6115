"""`fsbackup status`: how much each backend holds, and what is not everywhere."""

from __future__ import annotations

import argparse
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from fsbackup.cli import context, exits, failures, output, text
from fsbackup.cli.command import Command, add_set, prefix
from fsbackup.errors import ConfigError, NoHealthyReplicaError

if TYPE_CHECKING:
    from fsbackup.replication.listing import ObjectEntry
    from fsbackup.replication.status import BackendStatus, SetStatus
    from fsbackup.replication.storage import ReplicatedStorage

#: Incomplete objects named; `ls -l` names them all.
_NAMED = 10


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "prefix", nargs="?", default="", metavar="PREFIX", type=prefix, help="a key, or the first segments of keys"
    )
    add_set(parser, otherwise="all of the configuration, one after the other")


def _execute(args: Namespace) -> int:
    from fsbackup import factory

    path, config = context.open_config(args)
    names = [args.set] if args.set else list(config.replication)
    if not names:
        raise ConfigError(f"{path} has no replication set")
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        found[name] = _one(args, name, factory.open_set(config, name))
    if args.json:
        output.document({"sets": found})
    return exits.worst(exits.OF_STATUS[each["status"]] for each in found.values())


def _one(args: Namespace, name: str, store: ReplicatedStorage) -> dict[str, Any]:
    try:
        status = store.status(args.prefix)
    except NoHealthyReplicaError as error:
        if not args.json:
            output.say(f"{name}: failed: {failures.message(error)}")
        return {"status": "failed", "error": failures.as_dict(error)}
    if not args.json:
        _print(name, store, status)
    return status.as_dict()


def _print(name: str, store: ReplicatedStorage, status: SetStatus) -> None:
    where = f" at or below {status.prefix}" if status.prefix else ""
    output.say(f"{name}: {text.count(status.objects, 'object')}{where}, min_copies {store.min_copies}")
    rows = [["backend", "objects", "size", "missing", "size differs", "status", "location"]]
    rows += [
        [backend, *_cells(each), store.backends[backend].location] for backend, each in status.backends.items()
    ]
    output.table(rows, right=(1, 2, 3, 4))
    lacking = [entry for entry in status.incomplete if _lacking(entry)]
    for entry in lacking[:_NAMED]:
        output.say(f"not everywhere: {entry.key} ({_lacking(entry)})")
    if status.newest:
        output.say(f"newest: {status.newest.key}, {text.when(status.newest.modified)}")
    output.say(_verdict(status))


def _cells(each: BackendStatus) -> list[str]:
    if each.error:
        return ["?", "?", "?", "?", f"not listed: {each.error}"]
    state = "ok" if not each.missing + each.differing else "incomplete"
    return [f"{each.objects:,}", text.size(each.bytes), f"{each.missing:,}", f"{each.differing:,}", state]


def _lacking(entry: ObjectEntry) -> str:
    """Return the replicas that said that they lack it; one that could not be asked said nothing."""
    known = {name: state for name, state in entry.replicas.items() if state not in ("present", "unknown")}
    return ", ".join(f"{name}: {state}" for name, state in known.items())


def _verdict(status: SetStatus) -> str:
    if status.status == "complete":
        return f"complete: all {text.count(status.objects, 'object')} in every place"
    unlisted = [name for name, each in status.backends.items() if each.error]
    if unlisted:
        return f"{status.status}: what {' and '.join(unlisted)} should hold is not known{_short(status)}"
    incomplete = text.count(status.objects - status.complete, "object")
    again = "`fsbackup ls -l` names them; run their job again to send what is missing"
    return f"{status.status}: {incomplete} not in every place{_short(status)}. {again}"


def _short(status: SetStatus) -> str:
    return f", {text.count(status.short, 'object')} with too few copies" if status.short else ""


COMMAND = Command(
    name="status",
    summary="compare what the replicas hold, from their listings",
    description="Counts objects and bytes of every backend and names objects that are not everywhere, from "
    "listings alone: one request per 1,000 objects and backend. It sees missing and short copies, not rotten "
    "ones. The exit code is 3 when something is not everywhere or a backend cannot be listed, 1 when an object "
    "has too few copies.",
    examples=("fsbackup status", "fsbackup status backups/2025/10 --set triple --json"),
    arguments=_arguments,
    execute=_execute,
)
