"""`fsbackup get`: restore one object to a file or to standard output, or a tree into a directory."""

from __future__ import annotations

import argparse
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from fsbackup.cli import exits, render
from fsbackup.cli.command import Command, add_allow_empty, add_set, open_set, prefix, progress_display
from fsbackup.errors import ConfigError, FsbackupError, ObjectLostError, ObjectNotFoundError
from fsbackup.record import Tombstone

if TYPE_CHECKING:
    from fsbackup.engine.results import DownloadReport
    from fsbackup.replication.storage import ReplicatedStorage
    from fsbackup.replication.tree import RestoredObject, TreeReport

#: Said of what is not proven to be the newest version.
_MAY_BE_OLD = "A NEWER VERSION MAY EXIST: too few backends answered"


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("key", metavar="KEY", type=prefix, help="the object, or with --recursive a prefix of keys")
    parser.add_argument("target", metavar="TARGET", help="a file, an existing directory, or - for standard output")
    parser.add_argument(
        "-r", "--recursive", action="store_true", help="every object at or below KEY, into the directory TARGET"
    )
    parser.add_argument(
        "--owner", action="store_true", help="give files the numbers of owner and group that they had (root only)"
    )
    parser.add_argument(
        "--identity",
        action="append",
        metavar="FILE",
        help="an age identity or a private SSH key to decrypt with; by default the file that "
        "$FSBACKUP_AGE_IDENTITY names",
    )
    parser.add_argument(
        "--raw", action="store_true", help="as it is stored: do not decrypt and decompress what fsbackup encrypted"
    )
    add_allow_empty(parser)
    add_set(parser)


def _execute(args: Namespace) -> int:
    if args.target == "-" and (args.json or args.recursive):
        raise ConfigError(
            f"the target - cannot be used with {'--json' if args.json else '--recursive'}",
            hint="give a file or a directory as the target",
        )
    if args.target == "-" and args.owner:
        raise ConfigError("--owner needs a file, and the target - is none", hint="leave one of them out")
    if args.raw and args.identity:
        raise ConfigError("--raw decrypts nothing, and needs no --identity", hint="leave one of them out")
    if not args.recursive and (not args.key or args.key.endswith("/")):
        what = f"{args.key!r} is a prefix of keys" if args.key else "the key is empty"
        raise ConfigError(what, hint="give a key, or --recursive for everything at or below a prefix")
    store = open_set(args)
    if args.recursive:
        return _get_tree(args, store)
    with _with_hint(store, args.key):
        return _get_object(args, store)


@contextmanager
def _with_hint(store: ReplicatedStorage, key: str) -> Iterator[None]:
    """Name what is stored instead where there is no such key: it was put as one name, and has another now."""
    try:
        yield
    except ObjectNotFoundError as error:
        names = [] if isinstance(error, ObjectLostError) else _longer_names(store, key)
        if names:
            error.hint = f"it is stored compressed or encrypted: get {' or '.join(names)}"
        raise


def _longer_names(store: ReplicatedStorage, key: str) -> list[str]:
    """Return the names that a key has with the suffixes of stages, of objects that are stored."""
    from fsbackup.stages.plaintext import SUFFIXES

    found = []
    for suffix in (*SUFFIXES.values(), "".join(SUFFIXES.values())):
        with suppress(FsbackupError, ValueError):  # it is not there, not known, or no key: too long
            info = store.stat(f"{key}{suffix}")
            if not isinstance(info.latest, Tombstone):
                found.append(info.key)
    return found


def _get_object(args: Namespace, store: ReplicatedStorage) -> int:
    if args.target == "-":
        report = store.restore(args.key, sys.stdout.buffer, identity=args.identity, raw=args.raw)
        if not report.proven and not args.quiet:
            render.print_error(render.one_line(f"{args.key}: {_MAY_BE_OLD}"))
        return exits.COMPLETE
    with progress_display(args) as display:
        callback = display.line_callback(args.key) if display else None
        report = store.restore(
            args.key, args.target, owner=args.owner, identity=args.identity, raw=args.raw, callback=callback
        )
    if args.json:
        render.print_json(report.as_dict())
    elif not args.quiet:
        render.print_line(_object_line(report, str(report.target)))
    return exits.COMPLETE


def _get_tree(args: Namespace, store: ReplicatedStorage) -> int:
    from fsbackup.replication.tree import TreeReport

    def print_object(restored: RestoredObject) -> None:
        if restored.error is not None:
            render.print_line(render.one_line(f"{restored.key}: failed: {exits.error_message(restored.error)}"))
        elif args.verbose and restored.report:
            render.print_line(_object_line(restored.report, str(restored.target)))

    try:
        report = store.restore_tree(
            args.key,
            args.target,
            owner=args.owner,
            identity=args.identity,
            raw=args.raw,
            on_object=None if args.json else print_object,
        )
    except ObjectNotFoundError:
        if not args.allow_empty:
            raise
        report = TreeReport(args.key, Path(args.target))
    if args.json:
        render.print_json(report.as_dict())
    elif not args.quiet or not report:
        for line in _tree_lines(report):
            render.print_line(line)
    if not report:
        return exits.FAILED
    return exits.DEGRADED if report.unlisted else exits.COMPLETE


def _tree_lines(report: TreeReport) -> list[str]:
    proof = f"{report.unverified:,} of them NOT VERIFIED: no manifest" if report.unverified else "verified"
    present = f", {report.already:,} already present" if report.already else ""
    objects = render.count(report.objects, "object")
    lines = [f"{report.directory}: {objects}, {render.size(report.bytes)}, {proof}{present}"]
    lines += render.reasons(report.unlisted, "unreachable: objects stored only there are not restored")
    if report.unproven:
        lines.append(f"{render.count(report.unproven, 'object')}: {_MAY_BE_OLD}")
    if report.failures:
        lines.append(f"{render.count(report.failures, 'object')} failed; run the same command again to retry them")
    return lines


def _object_line(report: DownloadReport, target: str) -> str:
    replicas = ", ".join(name for name, amount in report.replicas.items() if amount)
    proof = "verified against its manifest" if report.verified else "NOT VERIFIED: it has no manifest"
    failed = "; ".join(report.failed.values())
    size = render.size(report.restored_bytes)
    line = f"{report.key} -> {target}: {size}{f' from {replicas}' if replicas else ''}, {proof}"
    line = line if report.proven else f"{line}; {_MAY_BE_OLD}"
    return f"{line} (failed replicas: {failed})" if failed else line


COMMAND = Command(
    name="get",
    summary="restore an object, or with --recursive every object below a prefix",
    description="Restores an object from all reachable replicas at once. Every block is checked against the "
    "manifest before it is written; a block that a replica does not return, or returns damaged, is read from "
    "another one. The target is replaced only when the file is complete. The exit code is 0 if the bytes are "
    "right, even if replicas failed, 4 if it is proven that there is no such object, 1 if that is "
    "not known. No link below a directory TARGET is followed, and directories are never more open than those "
    "that were backed up. Files are whose who restores them; with --owner, as root, they get the numbers of "
    "owner and group that they had when they were backed up, which a command's output has not. With "
    "--recursive, files that are present with the right bytes are not read again: the same command "
    "resumes an interrupted restore. What was stored with compress and encrypt is decrypted and decompressed, and "
    "the names of files in a directory TARGET lose the suffixes of that (.zst.age); --raw restores it as it is.",
    examples=(
        "fsbackup get backups/shop.sql.gz /tmp/shop.sql.gz",
        "fsbackup get backups/shop.sql.gz - | gunzip | psql shop",
        "fsbackup get --recursive backups/2025/10 /tmp/restored",
        "fsbackup get --identity key.txt db/shop.sql.zst.age /tmp",
    ),
    add_arguments=_add_arguments,
    execute=_execute,
)
