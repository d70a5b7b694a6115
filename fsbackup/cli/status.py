"""`fsbackup status`: how much each backend holds, what is not everywhere, and whether backups still come."""

from __future__ import annotations

import argparse
from argparse import Namespace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from fsbackup.cli import command, exits, render
from fsbackup.cli.command import Command, add_prefix, add_set
from fsbackup.errors import ConfigError, NoHealthyReplicaError

if TYPE_CHECKING:
    from fsbackup.replication.ls import ObjectEntry
    from fsbackup.replication.status import BackendStatus, Group, SetStatus
    from fsbackup.replication.storage import ReplicatedStorage

#: Incomplete objects named; `ls -l` names them all.
_NAMED = 10


def _arguments(parser: argparse.ArgumentParser) -> None:
    add_prefix(parser)
    parser.add_argument(
        "--depth",
        type=_depth,
        default=1,
        metavar="N",
        help="segments below PREFIX to group objects by (default: 1)",
    )
    parser.add_argument(
        "--max-age",
        type=_duration,
        metavar="AGE",
        help="fail when the newest object of a group is older (26h, 8d), or there is none",
    )
    add_set(parser, otherwise="all of the configuration, one after the other")


def _depth(value: str) -> int:
    if not value.isdecimal():
        raise argparse.ArgumentTypeError(f"a whole number is meant, not {value!r}")
    return int(value)


def _duration(value: str) -> timedelta:
    from fsbackup.config import parse_duration

    try:
        return parse_duration(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"an age like 26h or 8d is meant, not {value!r}") from None


def _execute(args: Namespace) -> int:
    from fsbackup import factory

    path, config = command.open_config(args)
    names = [args.set] if args.set else list(config.replication)
    if not names:
        raise ConfigError(f"{path} has no replication set")
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        found[name] = _one(args, name, factory.open_set(config, name))
    if args.json:
        render.print_json({"sets": found})
    return exits.worst(exits.OF_STATUS[each["status"]] for each in found.values())


def _one(args: Namespace, name: str, store: ReplicatedStorage) -> dict[str, Any]:
    try:
        status = store.status(args.prefix, depth=args.depth, max_age=args.max_age)
    except NoHealthyReplicaError as error:
        if not args.json:
            render.print_line(f"{name}: failed: {exits.message(error)}")
        return {"status": "failed", "error": exits.as_dict(error)}
    if not args.json and not (args.quiet and status.status == "complete"):
        _print(name, store, status)
    return status.as_dict()


def _print(name: str, store: ReplicatedStorage, status: SetStatus) -> None:
    where = f" at or below {status.prefix}" if status.prefix else ""
    render.print_line(f"{name}: {render.count(status.objects, 'object')}{where}, min_copies {store.min_copies}")
    rows = [["backend", "objects", "size", "status", "location"]]
    rows += [
        [backend, *_cells(each), store.backends[backend].location] for backend, each in status.backends.items()
    ]
    render.print_table(rows, right=(1, 2))
    if status.groups:
        render.print_line()
        rows = [["prefix", "objects", "size", "newest", "age", "key"], *map(_group, status.groups)]
        render.print_table(rows, right=(1, 2, 4))
    render.print_line()
    lacking = [entry for entry in status.incomplete if _lacking(entry)]
    for entry in lacking[:_NAMED]:
        render.print_line(f"not everywhere: {render.one_line(entry.key)} ({_lacking(entry)})")
    render.print_line(_verdict(status))


def _cells(each: BackendStatus) -> list[str]:
    if each.error:
        return ["?", "?", f"not listed: {each.error}"]
    wrong = [f"{number:,} {state}" for state, number in each.states.items() if state not in ("present", "expired")]
    return [f"{each.objects:,}", render.size(each.bytes), ", ".join(wrong) or "ok"]


def _group(group: Group) -> list[str]:
    newest = group.newest
    when, age, key = (render.when(newest.modified), _age(newest.age), newest.key) if newest else ("-", "-", "-")
    return [group.prefix or "(top)", f"{group.objects:,}", render.size(group.bytes), when, age, key]


def _age(seconds: float) -> str:
    """Return an age as people say it: ``40m``, ``26h``, ``12d``."""
    minutes = max(0, int(seconds // 60))
    if minutes < 120:
        return f"{minutes}m"
    return f"{minutes // 60}h" if minutes < 72 * 60 else f"{minutes // 1440}d"


def _lacking(entry: ObjectEntry) -> str:
    """Return the replicas that said that it is not there as it should be; one that was not asked said nothing."""
    fine = ("present", "expired", "unknown", *(["missing"] if entry.deleted else []))
    return ", ".join(f"{name}: {state}" for name, state in entry.replicas.items() if state not in fine)


def _verdict(status: SetStatus) -> str:
    if status.status == "complete":
        return f"complete: all {render.count(status.objects, 'object')} in every place"
    reasons = [
        *(f"nothing new for {_long(group)} in {group.prefix or 'the set'}" for group in status.too_old),
        *([f"{render.count(status.short, 'object')} with too few copies"] if status.short else []),
    ]
    unlisted = [name for name, each in status.backends.items() if each.error]
    incomplete = status.objects - status.complete
    if unlisted:
        reasons.append(f"what {' and '.join(unlisted)} should hold is not known")
    elif incomplete:
        reasons.append(f"{render.count(incomplete, 'object')} not in every place")
    if status.deleted:
        reasons.append(f"{render.count(status.deleted, 'deleted object')} still in some place")
    return f"{status.status}: {', '.join(reasons)}.{_next(status, bool(unlisted))}"


def _long(group: Group) -> str:
    return _age(group.newest.age) if group.newest else "ever"


def _next(status: SetStatus, unlisted: bool) -> str:
    """Return what to do next."""
    if unlisted or (status.complete == status.objects and not status.deleted):
        return ""
    return " `fsbackup ls -l` names them, `fsbackup repair` mends them"


COMMAND = Command(
    name="status",
    summary="compare what the replicas hold, from their listings",
    description="Counts objects and bytes of every backend and of every group of keys, with the newest object of "
    "each, and names objects that are not everywhere. It reads listings alone, two requests per 1,000 objects and "
    "backend, and asks only about objects whose listings look wrong; in what copies of one size differ, verify "
    "finds. The exit code is 3 when something is not everywhere or a backend cannot be listed, 1 when an object "
    "has too few copies or, with --max-age, a group got nothing new: a backup that stopped is the commonest loss.",
    examples=("fsbackup status", "fsbackup status backups --max-age 26h -q", "fsbackup status --depth 2 --json"),
    arguments=_arguments,
    execute=_execute,
)
