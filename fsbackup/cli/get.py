"""`fsbackup get`: one object into a file or to standard output."""

from __future__ import annotations

import argparse
import os
import sys
from argparse import Namespace
from typing import TYPE_CHECKING

from fsbackup.cli import context, exits, output, progress, text
from fsbackup.cli.command import Command, add_set, key
from fsbackup.errors import ConfigError

if TYPE_CHECKING:
    from fsbackup.transfer.results import DownloadReport


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("key", metavar="KEY", type=key, help="the object")
    parser.add_argument(
        "target", metavar="TARGET", help="a file, a directory to put it in, or - for standard output"
    )
    add_set(parser)


def _execute(args: Namespace) -> int:
    to_stdout = args.target == "-"
    if to_stdout and args.json:
        raise ConfigError("--json and the target - both want standard output", hint="give a file as the target")
    store = context.open_set(args)
    if to_stdout:
        store.restore(args.key, sys.stdout.buffer)
        return exits.COMPLETE
    target = os.path.join(args.target, args.key.rpartition("/")[2]) if os.path.isdir(args.target) else args.target
    with progress.shown(args) as display:
        report = store.restore(args.key, target, callback=display.line(args.key) if display else None)
    if args.json:
        output.document({**report.as_dict(), "target": target})
    elif not args.quiet:
        output.say(_line(report, target))
    return exits.COMPLETE


def _line(report: DownloadReport, target: str) -> str:
    taken = ", ".join(name for name, amount in report.replicas.items() if amount)
    proof = "every byte proven by its manifest" if report.verified else "NOT proven: it has no manifest"
    passed_over = "; ".join(report.failed.values())
    line = f"{report.key} -> {target}: {text.size(report.size)}{f' from {taken}' if taken else ''}, {proof}"
    return f"{line} (passed over: {passed_over})" if passed_over else line


COMMAND = Command(
    name="get",
    summary="read an object back, into a file or to standard output",
    description="Reads an object from whichever replica is alive; every block is checked against the manifest "
    "before it is written, and a replica that fails or lies is passed over. A file appears whole or stays as it "
    "was. The exit code is 0 when the bytes are right, however many replicas were passed over.",
    examples=(
        "fsbackup get backups/shop.sql.gz /tmp/shop.sql.gz",
        "fsbackup get backups/shop.sql.gz - | gunzip | psql shop",
    ),
    arguments=_arguments,
    execute=_execute,
)
