"""`fsbackup get`: one object into a file or to standard output, or a whole tree into a directory."""

from __future__ import annotations

import argparse
import os
import sys
from argparse import Namespace
from typing import TYPE_CHECKING

from fsbackup.cli import command, exits, render
from fsbackup.cli.command import Command, add_set, prefix
from fsbackup.errors import ConfigError

if TYPE_CHECKING:
    from fsbackup.engine.results import DownloadReport
    from fsbackup.replication.storage import ReplicatedStorage
    from fsbackup.replication.tree import RestoredObject, TreeReport


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("key", metavar="KEY", type=prefix, help="the object, or with --recursive a prefix of keys")
    parser.add_argument(
        "target", metavar="TARGET", help="a file, a directory to put it in, or - for standard output"
    )
    parser.add_argument(
        "-r", "--recursive", action="store_true", help="every object at or below KEY, into the directory TARGET"
    )
    add_set(parser)


def _execute(args: Namespace) -> int:
    if args.target == "-" and (args.json or args.recursive):
        raise ConfigError(
            f"the target - does not go with {'--json' if args.json else '--recursive'}",
            hint="give a file or a directory as the target",
        )
    if not args.recursive and (not args.key or args.key.endswith("/")):
        what = f"{args.key!r} is a prefix of keys" if args.key else "which object is not said"
        raise ConfigError(what, hint="give a key, or --recursive for everything at or below a prefix")
    store = command.open_set(args)
    return _tree(args, store) if args.recursive else _object(args, store)


def _object(args: Namespace, store: ReplicatedStorage) -> int:
    if args.target == "-":
        store.restore(args.key, sys.stdout.buffer)
        return exits.COMPLETE
    target = os.path.join(args.target, args.key.rpartition("/")[2]) if os.path.isdir(args.target) else args.target
    with command.shown(args) as display:
        report = store.restore(args.key, target, callback=display.line(args.key) if display else None)
    if args.json:
        render.print_json({**report.as_dict(), "target": target})
    elif not args.quiet:
        render.print_line(_line(report, target))
    return exits.COMPLETE


def _tree(args: Namespace, store: ReplicatedStorage) -> int:
    def hear(fetched: RestoredObject) -> None:
        if fetched.error is not None:
            render.print_line(f"{fetched.key}: failed: {exits.message(fetched.error)}")
        elif args.verbose and fetched.report:
            render.print_line(_line(fetched.report, str(fetched.target)))

    report = store.restore_tree(args.key, args.target, hear=None if args.json else hear)
    if args.json:
        render.print_json(report.as_dict())
    elif not args.quiet or not report:
        for line in _summary(report):
            render.print_line(line)
    if not report:
        return exits.FAILED
    return exits.DEGRADED if report.unlisted else exits.COMPLETE


def _summary(report: TreeReport) -> list[str]:
    there = f", {render.count(report.already, 'was', 'were')} there already" if report.already else ""
    proof = f", {report.unverified:,} of them NOT proven: no manifest" if report.unverified else ", proven"
    lines = [
        f"{report.directory}: {render.count(report.objects, 'object')}, {render.size(report.bytes)}{proof}{there}",
        *(
            f"{name} could not be listed: what only it has is not here: {why}"
            for name, why in report.unlisted.items()
        ),
    ]
    if report.failures:
        lines.append(f"{render.count(report.failures, 'object')} failed; run the same again to get only those")
    return lines


def _line(report: DownloadReport, target: str) -> str:
    taken = ", ".join(name for name, amount in report.replicas.items() if amount)
    proof = "every byte proven by its manifest" if report.verified else "NOT proven: it has no manifest"
    passed_over = "; ".join(report.failed.values())
    line = f"{report.key} -> {target}: {render.size(report.size)}{f' from {taken}' if taken else ''}, {proof}"
    return f"{line} (passed over: {passed_over})" if passed_over else line


COMMAND = Command(
    name="get",
    summary="read an object back, or with --recursive everything below a prefix",
    description="Reads an object from whichever replica is alive; every block is checked against the manifest "
    "before it is written, and a replica that fails or lies is passed over. A file appears whole or stays as it "
    "was. The exit code is 0 when the bytes are right, however many replicas were passed over. With --recursive, "
    "files that are there with the right bytes are not read again, so the same command goes on where it stopped.",
    examples=(
        "fsbackup get backups/shop.sql.gz /tmp/shop.sql.gz",
        "fsbackup get backups/shop.sql.gz - | gunzip | psql shop",
        "fsbackup get --recursive backups/2025/10 /tmp/restored",
    ),
    arguments=_arguments,
    execute=_execute,
)
