"""`fsbackup put`: one file, or standard input, under a key."""

from __future__ import annotations

import argparse
import os
from argparse import Namespace
from typing import TYPE_CHECKING, BinaryIO, cast

from fsbackup.cli import command, exits, render
from fsbackup.cli.command import Command, add_set, key
from fsbackup.errors import ConfigError

if TYPE_CHECKING:
    from fsbackup.engine.results import ReplicaResult, Report
    from fsbackup.replication.batch import SourceLike


class StandardInput:
    """Standard input, read without a buffer's lock: a read that never ends must not keep the process."""

    name = "<stdin>"

    def read(self, length: int = -1) -> bytes:
        """Return some of the next `length` bytes, b"" at the end."""
        return os.read(0, min(length, 1 << 20) if length >= 0 else 1 << 20)


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help="a file; - is standard input")
    parser.add_argument(
        "key", metavar="KEY", type=key, help="what to store it as, for example db/2025-10-21.sql.gz"
    )
    add_set(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace other content under this key")


def _execute(args: Namespace) -> int:
    source = _source(args.source)
    store = command.open_set(args)
    with command.shown(args) as display:
        callback = display.file() if display else None
        report = store.replicate(source, args.key, overwrite=args.overwrite, callback=callback)
    if args.json:
        render.print_json(report.as_dict())
    elif not args.quiet:
        _print(report)
    return exits.OF_STATUS[report.status]


def _source(name: str) -> SourceLike:
    if name == "-":
        return cast(BinaryIO, StandardInput())
    if os.path.isdir(name):
        raise ConfigError(f"{name} is a directory where a file is meant", hint="make it a job: run backs up trees")
    return name


def _print(report: Report) -> None:
    rows = [["backend", "sent", "seconds", "status"]]
    rows += [
        [name, render.size(result.bytes_sent), f"{result.seconds:.1f}", _status(result)]
        for name, result in report.replicas.items()
    ]
    render.print_table(rows, right=(1, 2))
    good = sum(result.ok for result in report.replicas.values())
    what = f"{report.key}" + (f" ({render.size(report.size)})" if report.size is not None else "")
    places = f"{good} of {render.count(len(report.replicas), 'place')}"
    again = (
        ""
        if report.status == "complete"
        else ". Mend that and run the same again: what is stored is not sent again"
    )
    render.print_line(f"{report.status}: {what}, confirmed in {places}{again}")


def _status(result: ReplicaResult) -> str:
    return (
        f"failed: {exits.reason(result.exception)}"
        if not result.ok
        else "already there"
        if result.already
        else "stored"
    )


COMMAND = Command(
    name="put",
    summary="store one file, or standard input, under a key",
    description="Stores one file in every backend of a replication set, read once. The same content again is "
    "success, with nothing sent; other content under the same key is refused unless --overwrite is given.",
    examples=(
        "fsbackup put dump.sql.gz backups/2025/10/dump.sql.gz",
        "pg_dump shop | gzip | fsbackup put - backups/shop.sql.gz --set triple",
    ),
    arguments=_arguments,
    execute=_execute,
)
