"""`fsbackup status`: what each backend holds, which objects are incomplete, and how old the newest backups are."""

from __future__ import annotations

import argparse
from argparse import Namespace
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from fsbackup.cli import exits, render
from fsbackup.cli.command import Command, add_allow_empty, add_prefix, add_set, open_config
from fsbackup.errors import ConfigError, NoHealthyReplicaError

if TYPE_CHECKING:
    from fsbackup.config import Config
    from fsbackup.replication.classify import ObjectStatus
    from fsbackup.replication.status import BackendStatus, Group, SetStatus
    from fsbackup.replication.storage import ReplicatedStorage

#: How many incomplete objects are printed; `ls -l` prints all.
_MAX_LISTED = 10


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_prefix(parser)
    parser.add_argument(
        "--depth",
        type=_depth,
        default=1,
        metavar="N",
        help="group objects by this many segments below PREFIX (default: 1)",
    )
    parser.add_argument(
        "--max-age",
        type=_duration,
        metavar="AGE",
        help="fail if the newest object of a group is older (26h, 8d), or there is none",
    )
    parser.add_argument(
        "--drill-age",
        type=_duration,
        metavar="AGE",
        help="fail if the last successful drill of a PostgreSQL cluster in the set, or of a job that was drilled "
        "before, is older (35d), or there was none",
    )
    add_allow_empty(parser)
    add_set(parser, default="all of the configuration, one after the other")


def _depth(value: str) -> int:
    if not value.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number, got {value!r}")
    return int(value)


def _duration(value: str) -> timedelta:
    from fsbackup.config import parse_duration

    try:
        return parse_duration(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected an age like 26h or 8d, got {value!r}") from None


def _execute(args: Namespace) -> int:
    from fsbackup.replication.storage import ReplicatedStorage

    path, config = open_config(args)
    names = [args.set] if args.set else list(config.replication)
    if not names:
        raise ConfigError(f"{path} has no replication set")
    found = {name: _set_status(args, name, ReplicatedStorage.from_config(config, name)) for name in names}
    drills = _drills(args, config, names) if args.drill_age else {}
    if args.json:
        sets = {name: status for name, (_, status) in found.items()}
        render.print_json({"sets": sets, **({"drills": drills} if args.drill_age else {})})
    codes = [exits.FAILED for each in drills.values() if each["status"] == "failed"]
    return exits.worst([*codes, *(code for code, _ in found.values())])


def _drills(args: Namespace, config: Config, sets: list[str]) -> dict[str, dict[str, Any]]:
    """Print how long ago the last drill of each cluster, and of each job that had one, succeeded; return that."""
    from fsbackup import clock

    drills: dict[str, dict[str, Any]] = {}
    for name, when in _last_drills(config, sets):
        is_old = when is None or clock.now() - when > args.drill_age.total_seconds()
        ago = "never" if when is None else f"{render.age(clock.now() - when)} ago"
        drills[name] = {"status": "failed" if is_old else "complete", "succeeded_at": when}
        if not args.json and (is_old or not args.quiet):
            line = render.verdict("failed" if is_old else "complete", f"last drilled with success: {ago}")
            render.print_line(f"{name}: {line}")
    return drills


def _last_drills(config: Config, sets: list[str]) -> Iterator[tuple[str, float | None]]:
    """Yield each cluster, and each job that was ever drilled, with the time of its last successful drill."""
    from fsbackup.jobs.drilling import drill_name
    from fsbackup.loop import run
    from fsbackup.postgres.archive import Archive
    from fsbackup.replication.drills import last_drill
    from fsbackup.replication.storage import ReplicatedStorage

    for name in (each for each, settings in config.postgres.items() if settings.replication in sets):
        yield name, run(last_drill(Archive.from_config(config, name, reading=True).targets, name))
    for name, job in config.jobs.items():
        if job.replication in sets:
            targets = ReplicatedStorage.from_config(config, job.replication).replica_set
            if run(last_drill(targets, drill_name(name), ok=False)) is not None:
                yield f"job {name}", run(last_drill(targets, drill_name(name)))


def _set_status(args: Namespace, name: str, store: ReplicatedStorage) -> tuple[int, dict[str, Any]]:
    """Print one set's status; return the exit code, and the status as plain JSON types."""
    try:
        status = store.status(args.prefix, depth=args.depth, max_age=args.max_age)
    except NoHealthyReplicaError as error:
        if not args.json:
            render.print_line(f"{name}: failed: {exits.error_message(error)}")
        return exits.FAILED, {"status": "failed", "error": exits.error_as_dict(error)}
    if not args.allow_empty and not status.objects and not status.deleted:
        return _set_empty(args, name, status)
    if not args.json and not (args.quiet and status.status == "complete"):
        _print_status(name, store, status)
    return exits.BY_STATUS[status.status], status.as_dict()


def _set_empty(args: Namespace, name: str, status: SetStatus) -> tuple[int, dict[str, Any]]:
    unreachable = [backend for backend, each in status.backends.items() if each.error]
    code, verdict = exits.nothing_stored(status.prefix, unreachable)
    if not args.json:
        render.print_line(f"{name}: {verdict}")
    return code, {**status.as_dict(), "status": "failed", "error": {"message": verdict}}


def _print_status(name: str, store: ReplicatedStorage, status: SetStatus) -> None:
    below = f" at or below {status.prefix}" if status.prefix else ""
    render.print_line(f"{name}: {render.count(status.objects, 'object')}{below}, min_copies {store.min_copies}")
    backends: list[render.Row] = [
        {"backend": backend, **_cells(each), "location": store.backends[backend].location}
        for backend, each in status.backends.items()
    ]
    groups = [_group_row(group) for group in status.groups]
    bad = {entry.key: states for entry in status.incomplete if (states := _bad_states(entry))}
    problems = render.reasons({backend: each.error for backend, each in status.backends.items()})
    problems += [f"incomplete: {key} ({states})" for key, states in list(bad.items())[:_MAX_LISTED]]
    for backend, each in status.backends.items():
        problems += render.passed_over(backend, each.passed_over.count, each.passed_over.names)
    tables = [backends, groups] if groups else [backends]
    render.print_report(*tables, problems=problems, verdict=_verdict(name, status))


def _cells(each: BackendStatus) -> dict[str, str | int]:
    if each.error:
        return {"objects": "?", "size": "?", "status": "unreachable"}
    bad = [f"{number:,} {state}" for state, number in each.states.items() if state not in ("present", "expired")]
    return {"objects": f"{each.objects:,}", "size": render.size(each.bytes), "status": ", ".join(bad) or "ok"}


def _group_row(group: Group) -> render.Row:
    newest = group.newest
    return {
        "prefix": group.prefix or "(root)",
        "objects": f"{group.objects:,}",
        "size": render.size(group.bytes),
        "newest": render.time(newest.modified) if newest else "-",
        "age": render.age(newest.age) if newest else "-",
        "key": newest.key if newest else "-",
    }


def _bad_states(entry: ObjectStatus) -> str:
    """Return the replicas that are not as they should be; those of unreachable backends are unknown, not bad."""
    good = ("present", "expired", "unknown", *(["missing"] if entry.is_deleted else []))
    return ", ".join(f"{name}: {state}" for name, state in entry.states.items() if state not in good)


def _verdict(name: str, status: SetStatus) -> str:
    objects = render.count(status.objects, "object")
    if status.status == "complete":
        return render.verdict("complete", f"{objects}, no replica missing")
    unreachable = [name for name, each in status.backends.items() if each.error]
    incomplete = status.objects - status.complete
    can_repair = not unreachable and (incomplete or status.deleted)
    return render.verdict(
        status.status,
        *map(_too_old, status.too_old),
        render.remaining(status.under_replicated, "with fewer copies than min_copies"),
        render.unreachable(unreachable) or render.remaining(incomplete, "with a bad or missing replica"),
        render.remaining(status.deleted, "still stored on a backend", "deleted object"),
        next_step=f"`fsbackup ls -l` lists them, {render.repair(status.prefix, name)} repairs them"
        if can_repair
        else "",
    )


def _too_old(group: Group) -> str:
    where = group.prefix or "the set"
    return (
        f"newest object in {where} is {render.age(group.newest.age)} old"
        if group.newest
        else f"no object in {where}"
    )


COMMAND = Command(
    name="status",
    summary="compare what the replicas hold, from their listings",
    description="Counts objects and bytes of every backend and of every group of keys, with the newest object of "
    "each group, and prints incomplete objects. It reads listings only, two requests per 1,000 objects and "
    "backend, and looks up single objects only where listings differ; what no listing shows is found by verify: "
    "copies of equal size with different content, and records of a newer fsbackup. The exit code is 3 if a "
    "replica is not as it should be or a backend is unreachable, 1 if an object has fewer copies than min_copies "
    "or, with --max-age, the newest object of a group is too old, or with --drill-age the last drill: that finds "
    "backups that have silently stopped. It is 4 if nothing is stored there at all.",
    examples=("fsbackup status", "fsbackup status backups --max-age 26h -q", "fsbackup status --depth 2 --json"),
    add_arguments=_add_arguments,
    execute=_execute,
)
