"""`fsbackup config`: validate the configuration, print it with its defaults, or print its JSON Schema."""

from __future__ import annotations

import argparse
from argparse import Namespace
from typing import TYPE_CHECKING

from fsbackup.cli import exits, render
from fsbackup.cli.command import Command, open_config

if TYPE_CHECKING:
    from fsbackup.config import Config


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action",
        choices=("check", "show", "schema"),
        metavar="check|show|schema",
        help="check: validate it; show: print it with variables and defaults filled in and secrets masked; "
        "schema: print its JSON Schema, for editors",
    )


def _execute(args: Namespace) -> int:
    if args.action == "schema":
        from fsbackup.config import config_schema

        render.print_json(config_schema())
        return exits.COMPLETE
    path, config = open_config(args)
    if args.action == "check":
        _check(args, path, config)
    else:
        _show(args, config)
    return exits.COMPLETE


def _check(args: Namespace, path: str, config: Config) -> None:
    names = {name: list(getattr(config, name)) for name in ("backends", "replication", "jobs", "postgres")}
    from fsbackup.config.advice import notes

    if args.json:
        render.print_json({"file": path, "ok": True, **names, "notes": list(notes(config))})
    elif not args.quiet:
        counts = [
            render.count(len(config.backends), "backend"),
            render.count(len(config.replication), "replication set"),
            render.count(len(config.jobs), "job"),
        ]
        if config.postgres:
            counts.append(render.count(len(config.postgres), "PostgreSQL cluster"))
        render.print_line(f"{path}: ok: {', '.join(counts)}")
        for note in notes(config):
            render.print_line(f"{path}: note: {note}")


def _show(args: Namespace, config: Config) -> None:
    if args.json:
        render.print_json(config.show())
        return
    from fsbackup.config.schema import write_config

    render.print_line(write_config(config).rstrip("\n"))


COMMAND = Command(
    name="config",
    summary="validate, print or describe the configuration",
    description="`check` prints every problem of the configuration, one per line with file, line and field, and "
    "exits with 2 if there is one; a note says what a valid one gives up. No backend is contacted.",
    examples=(
        "fsbackup config check -c configs/production.yaml",
        "fsbackup config show",
        "fsbackup config schema > fsbackup.schema.json",
    ),
    add_arguments=_add_arguments,
    execute=_execute,
)
