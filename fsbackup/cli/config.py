"""`fsbackup config`: is it right, what does it come to, what may be in it."""

from __future__ import annotations

import argparse
from argparse import Namespace
from typing import TYPE_CHECKING

from fsbackup.cli import command, exits, render
from fsbackup.cli.command import Command

if TYPE_CHECKING:
    from fsbackup.config import Config


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action",
        choices=("check", "show", "schema"),
        metavar="check|show|schema",
        help="check: is it right; show: the whole of it, variables and defaults filled in, secrets masked; "
        "schema: its JSON Schema, for editors",
    )


def _execute(args: Namespace) -> int:
    if args.action == "schema":
        from fsbackup.config import config_schema

        render.print_json(config_schema())
        return exits.COMPLETE
    path, config = command.open_config(args)
    if args.action == "check":
        _check(args, path, config)
    else:
        _show(args, config)
    return exits.COMPLETE


def _check(args: Namespace, path: str, config: Config) -> None:
    parts = {"backends": list(config.backends), "replication": list(config.replication), "jobs": list(config.jobs)}
    if args.json:
        render.print_json({"file": path, "ok": True, **parts})
    elif not args.quiet:
        counts = [
            render.count(len(parts["backends"]), "backend"),
            render.count(len(parts["replication"]), "replication set"),
            render.count(len(parts["jobs"]), "job"),
        ]
        render.print_line(f"{path}: ok: {', '.join(counts)}")


def _show(args: Namespace, config: Config) -> None:
    if args.json:
        render.print_json(config.show())
        return
    from fsbackup.config.writing import write_config

    render.print_line(write_config(config).rstrip("\n"))


COMMAND = Command(
    name="config",
    summary="check, show or describe the configuration",
    description="check says everything that is wrong with the configuration, one mistake per line with file, "
    "line and field, and exits with 2. It contacts no backend.",
    examples=(
        "fsbackup config check -c configs/production.yaml",
        "fsbackup config show",
        "fsbackup config schema > fsbackup.schema.json",
    ),
    arguments=_arguments,
    execute=_execute,
)
