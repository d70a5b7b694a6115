"""`fsbackup doctor`: test what each backend supports and permits, and print how to fix what does not work."""

from __future__ import annotations

import argparse
from argparse import Namespace
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from fsbackup.cli import exits, render
from fsbackup.cli.command import Command, open_config
from fsbackup.errors import ConfigError

if TYPE_CHECKING:
    from fsbackup.backends.base import SingleBackend
    from fsbackup.config import Config
    from fsbackup.replication.doctor import Check, Diagnosis

#: The exit code of each health, from best to worst.
_CODES = {"ok": exits.COMPLETE, "limited": exits.DEGRADED, "failed": exits.FAILED}
_PROBLEMS = ("failed", "not allowed", "warning")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "backends",
        nargs="*",
        metavar="NAME",
        help="names of backends and PostgreSQL clusters (default: all of the configuration)",
    )


def _execute(args: Namespace) -> int:
    from fsbackup.replication.doctor import diagnose

    path, config = open_config(args)
    names = list(dict.fromkeys(args.backends)) or [*config.backends, *config.postgres]
    if not names:
        raise ConfigError(f"{path} has no backend")
    backends = [name for name in names if name in config.backends or name not in config.postgres]
    clusters = [name for name in names if name not in backends]
    diagnoses = diagnose(_open(config, backends))
    servers = [_diagnose_cluster(path, config, name) for name in clusters]
    health = max((each.health for each in [*diagnoses, *servers]), key=list(_CODES).index)
    if args.json:
        found = {"backends": diagnoses, "clusters": servers}
        documents = {kind: {each.backend: each.as_dict() for each in of_kind} for kind, of_kind in found.items()}
        render.print_json({"health": health, **documents})
        return _CODES[health]
    diagnoses += servers
    if not (args.quiet and health == "ok"):
        tables = [] if args.quiet else [_rows(diagnoses)]
        render.print_report(
            *tables, problems=_problems(diagnoses), verdict=_verdict(health, diagnoses, len(clusters))
        )
    return _CODES[health]


def _diagnose_cluster(path: str, config: Config, name: str) -> Diagnosis:
    from fsbackup.factory import stages_of
    from fsbackup.postgres.archive import Archive
    from fsbackup.postgres.doctor import diagnose_cluster

    settings = config.postgres[name]
    spool = None if settings.spool is None else f"{settings.spool}/{name}"
    archive = Archive.from_config(config, name, origin=path, reading=True)
    prepare = partial(stages_of, config, settings.compress, settings.encrypt, needs_key=False)
    return diagnose_cluster(archive, conninfo=settings.conninfo, spool=spool, prepare=prepare)


def _open(config: Config, names: Sequence[str]) -> list[SingleBackend]:
    """Open backends, together with the others of their set: only these tell an unmounted disk from a new one."""
    from fsbackup import factory
    from fsbackup.replication.storage import ReplicatedStorage

    opened: dict[str, SingleBackend] = {}
    for name, settings in config.replication.items():
        if not opened.keys().isdisjoint(settings.backends) or not set(settings.backends) & set(names):
            continue
        with suppress(ConfigError):  # of a backend without credentials, which is said below if it is asked for
            opened.update(ReplicatedStorage.from_config(config, name).backends)
    return [opened.get(name) or factory.open_backend(config, name) for name in names]


def _rows(diagnoses: list[Diagnosis]) -> list[render.Row]:
    return [
        {
            "backend": each.backend if check is each.checks[0] else "",
            "check": check.name,
            "outcome": check.outcome,
            "found": check.detail,
        }
        for each in diagnoses
        for check in each.checks
    ]


def _problems(diagnoses: list[Diagnosis]) -> list[str]:
    return [
        f"{each.backend}: {check.name}: {_problem(check)}"
        for each in diagnoses
        for check in each.checks
        if check.outcome in _PROBLEMS
    ]


def _problem(check: Check) -> str:
    problem = f"{check.outcome}: {check.detail}"
    return f"{problem} - {check.advice}" if check.advice else problem


def _verdict(health: str, diagnoses: list[Diagnosis], clusters: int) -> str:
    places = render.count(len(diagnoses) - clusters, "backend")
    checked = (
        f"{places} and {render.count(clusters, 'PostgreSQL cluster')} checked" if clusters else f"{places} checked"
    )
    if health == "ok":
        return render.verdict(health, checked, "all checks passed")
    names = {bad: [each.backend for each in diagnoses if each.health == bad] for bad in ("failed", "limited")}
    return render.verdict(
        health, checked, *(f"{bad}: {', '.join(found)}" for bad, found in names.items() if found)
    )


COMMAND = Command(
    name="doctor",
    summary="test the backends, and print how to fix what does not work",
    description="Tests all backends at once with a small object that is deleted again: connect, list, write, "
    "read back, create only once, delete. Reports clock, versions, unfinished uploads, lifecycle rules and free "
    "space, and prints what to do about each problem. Of a PostgreSQL cluster it asks the server how it archives, "
    "looks for the programs and the spool, and makes a test push below its prefix. The exit code is "
    "1 if a check failed, 3 if something is not allowed or needs attention.",
    examples=("fsbackup doctor", "fsbackup doctor r2 b2 --json", "fsbackup doctor -q || echo check the backends"),
    add_arguments=_add_arguments,
    execute=_execute,
)
