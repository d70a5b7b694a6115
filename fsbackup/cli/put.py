"""`fsbackup put`: store one file, standard input, or the output of a command under a key."""

from __future__ import annotations

import argparse
import os
from argparse import Namespace
from typing import TYPE_CHECKING, BinaryIO, cast

from fsbackup.cli import exits, render
from fsbackup.cli.command import Command, add_set, key, open_config, progress_display, seconds, set_of
from fsbackup.errors import ConfigError, reasons

if TYPE_CHECKING:
    from fsbackup.config import Config
    from fsbackup.engine.open_source import SourceLike
    from fsbackup.engine.results import ReplicaResult, Report
    from fsbackup.stages import Stages


class StandardInput:
    """Standard input without the lock of a buffered reader: a read that blocks must not keep the process alive."""

    name = "<stdin>"

    def read(self, length: int = -1) -> bytes:
        """Return up to `length` (at most 1 MiB) of the next bytes, b"" at the end."""
        return os.read(0, min(length, 1 << 20) if length >= 0 else 1 << 20)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = """fsbackup put [options] SOURCE KEY
       fsbackup put KEY --command [options] -- PROGRAM [ARGUMENT ...]"""
    parser.add_argument("source", metavar="SOURCE", help="a file; - is standard input")
    parser.add_argument(
        "key",
        metavar="KEY",
        type=key,
        help="the key to store it under, for example db/2025-10-21.sql.gz; {now:%%Y-%%m-%%d} in it, or any other "
        "strftime format, stands for the local time",
    )
    add_set(parser)
    parser.add_argument(
        "--compress",
        type=_level,
        metavar="zstd[:LEVEL]",
        help="compress it, for example zstd or zstd:9; .zst is added to the key",
    )
    parser.add_argument(
        "--encrypt",
        action="append",
        metavar="RECIPIENT",
        help="encrypt it with age to this public key (age1..., 'ssh-ed25519 ...', or file:PATH with some); may be "
        "given several times; .age is added to the key",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace other content under this key; what is no file is stored again also if it is the same",
    )
    parser.add_argument(
        "--allow-empty", action="store_true", help="store a stream that ends without a byte, instead of failing"
    )
    parser.add_argument(
        "--command", action="store_true", help="run the program after -- and store its output, if it exits with 0"
    )
    parser.add_argument(
        "--min-size", type=_size, metavar="SIZE", help="with --command: fail if the output is smaller (1MiB)"
    )
    parser.add_argument(
        "--timeout", type=seconds, metavar="TIME", help="with --command: end it, and fail, after this time (10m)"
    )


def _size(value: str) -> int:
    from fsbackup.config import parse_size

    try:
        return parse_size(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a size like 64KiB or 1MiB, got {value!r}") from None


def _level(value: str) -> dict[str, int]:
    kind, _, level = value.partition(":")
    if kind != "zstd" or not (level or "3").isdecimal():
        raise argparse.ArgumentTypeError(f"expected zstd, or with a level zstd:9, got {value!r}")
    return {kind: int(level or 3)}


def _stages(args: Namespace, config: Config) -> Stages | None:
    if args.compress is None and args.encrypt is None:
        return None
    from fsbackup.factory import identity_key_file
    from fsbackup.stages import Stages

    return Stages(
        compress=args.compress,
        encrypt={"age": args.encrypt} if args.encrypt else None,
        identity_key_file=identity_key_file(config),
    )


def _execute(args: Namespace) -> int:
    source = _command(args) if args.command else _source(args)
    name, series = _key(args.key)
    path, config = open_config(args)
    stages = _stages(args, config)
    store = set_of(args, path, config)
    with progress_display(args) as display:
        callback = display.upload_callback() if display else None
        report = store.replicate(
            source,
            name,
            overwrite=args.overwrite,
            allow_empty=args.allow_empty,
            series=series and series + (stages.suffix if stages else ""),
            stages=stages,
            callback=callback,
        )
    if args.json:
        render.print_json(report.as_dict())
    elif not args.quiet:
        _print_report(report)
    return exits.BY_STATUS[report.status]


def _key(text: str) -> tuple[str, str | None]:
    """Return the key with the time in it, and the series that it makes: None without a ``{now}``."""
    from fsbackup.jobs.template import fill_now, local_now

    name = fill_now(text, local_now())
    return name, text if name != text else None


def _command(args: Namespace) -> SourceLike:
    from fsbackup.engine.command import Command as SourceCommand

    try:
        return SourceCommand(args.program, min_bytes=args.min_size or 1, timeout=args.timeout)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _source(args: Namespace) -> SourceLike:
    if args.min_size is not None or args.timeout is not None:
        raise ConfigError("--min-size and --timeout go with --command only")
    if args.source == "-":
        return cast(BinaryIO, StandardInput())
    if os.path.isdir(args.source):
        hint = "make it a job: `fsbackup run` stores trees"
        raise ConfigError(f"{args.source} is a directory, not a file", hint=hint)
    return str(args.source)


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
    size = f" ({_size_of(report)})" if report.size is not None else ""
    confirmed = sum(result.ok for result in report.replicas.values())
    next_step = "fix the cause and run the same command again; stored replicas are not sent again"
    verdict = render.verdict(
        report.status,
        f"{report.key}{size}",
        f"confirmed by {confirmed} of {render.count(len(report.replicas), 'backend')}",
        next_step="" if report.status == "complete" else next_step,
    )
    render.print_report(rows, problems=reasons(report.errors), verdict=verdict)


def _size_of(report: Report) -> str:
    stored = render.size(report.size or 0)
    return stored if report.plain_size is None else f"{render.size(report.plain_size)}, stored as {stored}"


def _status(result: ReplicaResult) -> str:
    if not result.ok:
        return "failed"
    return "already stored" if result.already else "stored"


COMMAND = Command(
    name="put",
    summary="store one file, or what a command writes, under a key",
    description="Reads one file once and stores it on every backend of a replication set. If the same content "
    "is already stored under the key, nothing is sent and the command succeeds; other content under the key "
    "is an error unless --overwrite is given. With --command, the program after -- is run, without a shell "
    "and with empty standard input, and what it writes is stored while it runs; but only if it exits with 0 "
    "and has written something. Otherwise nothing is stored on any backend, and the error has the last lines "
    "of its standard error. Standard input (-) cannot tell a program that failed half-way from one that is "
    "done: only an empty one is refused. An empty file is stored. With {now:FORMAT} in the key each run "
    "stores a version of its own; which of them retention lets go is decided by the configuration (series: in "
    "a retention). With --compress and --encrypt it is stored as `zstd | age` makes it, and get undoes that; only "
    "public keys are needed here.",
    examples=(
        "fsbackup put dump.sql.gz backups/2025/10/dump.sql.gz",
        "fsbackup put 'db/{now:%Y-%m-%d}.dump' --command --min-size 1MiB -- pg_dump -Fc shop",
        "fsbackup put --compress zstd --encrypt file:recipients.txt dump.sql db/dump.sql",
        "fsbackup put db/shop.sql.gz --command -- bash -c 'set -o pipefail; pg_dump shop | gzip'",
    ),
    add_arguments=_add_arguments,
    execute=_execute,
)
