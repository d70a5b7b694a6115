"""`fsbackup put`: store one file, or standard input, under a key."""

from __future__ import annotations

import argparse
import os
from argparse import Namespace
from typing import TYPE_CHECKING, BinaryIO, cast

from fsbackup.cli import exits, render
from fsbackup.cli.command import Command, add_set, key, open_set, progress_display
from fsbackup.errors import ConfigError

if TYPE_CHECKING:
    from fsbackup.engine.results import ReplicaResult, Report
    from fsbackup.replication.batch import SourceLike


class StandardInput:
    """Standard input without the lock of a buffered reader: a read that blocks must not keep the process alive."""

    name = "<stdin>"

    def read(self, length: int = -1) -> bytes:
        """Return up to `length` (at most 1 MiB) of the next bytes, b"" at the end."""
        return os.read(0, min(length, 1 << 20) if length >= 0 else 1 << 20)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help="a file; - is standard input")
    parser.add_argument(
        "key", metavar="KEY", type=key, help="the key to store it under, for example db/2025-10-21.sql.gz"
    )
    add_set(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace other content under this key")
    parser.add_argument(
        "--allow-empty", action="store_true", help="store a stream that ends without a byte, instead of failing"
    )


def _execute(args: Namespace) -> int:
    source = _source(args.source)
    store = open_set(args)
    with progress_display(args) as display:
        callback = display.upload_callback() if display else None
        report = store.replicate(
            source, args.key, overwrite=args.overwrite, allow_empty=args.allow_empty, callback=callback
        )
    if args.json:
        render.print_json(report.as_dict())
    elif not args.quiet:
        _print_report(report)
    return exits.BY_STATUS[report.status]


def _source(name: str) -> SourceLike:
    if name == "-":
        return cast(BinaryIO, StandardInput())
    if os.path.isdir(name):
        raise ConfigError(f"{name} is a directory, not a file", hint="make it a job: `fsbackup run` stores trees")
    return name


def _print_report(report: Report) -> None:
    rows: list[render.Row] = [
        {
            "backend": name,
            "sent": render.size(result.bytes_sent),
            "seconds": f"{result.seconds:.1f}",
            "status": _status(result),
        }
        for name, result in report.replicas.items()
    ]
    size = f" ({render.size(report.size)})" if report.size is not None else ""
    confirmed = sum(result.ok for result in report.replicas.values())
    next_step = "fix the cause and run the same command again; stored replicas are not sent again"
    verdict = render.verdict(
        report.status,
        f"{report.key}{size}",
        f"confirmed by {confirmed} of {render.count(len(report.replicas), 'backend')}",
        next_step="" if report.status == "complete" else next_step,
    )
    render.print_report(rows, verdict=verdict)


def _status(result: ReplicaResult) -> str:
    if not result.ok:
        return f"failed: {exits.error_reason(result.exception)}"
    return "already stored" if result.already else "stored"


COMMAND = Command(
    name="put",
    summary="store one file, or standard input, under a key",
    description="Reads one file once and stores it on every backend of a replication set. If the same content is "
    "already stored under the key, nothing is sent and the command succeeds; other content under the key is an "
    "error unless --overwrite is given. Standard input (or a pipe) that ends without a single byte is an error "
    "too: the command that writes it has most likely failed. An empty file is stored.",
    examples=(
        "fsbackup put dump.sql.gz backups/2025/10/dump.sql.gz",
        "pg_dump shop | gzip | fsbackup put - backups/shop.sql.gz --set triple",
    ),
    add_arguments=_add_arguments,
    execute=_execute,
)
