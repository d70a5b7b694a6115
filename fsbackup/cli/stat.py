"""`fsbackup stat`: print one object, and the state of each replica."""

from __future__ import annotations

import argparse
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from fsbackup import clock
from fsbackup.cli import exits, render
from fsbackup.cli.command import Command, add_set, key, open_set
from fsbackup.record import Manifest, Tombstone

if TYPE_CHECKING:
    from fsbackup.engine.records import ReplicaState
    from fsbackup.replication.classify import ObjectStatus


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("key", metavar="KEY", type=key, help="the object")
    add_set(parser)


def _execute(args: Namespace) -> int:
    info = open_set(args).stat(args.key)
    if args.json:
        render.print_json({**info.as_dict(), **_stages_dict(info.manifest)})
    else:
        _print_info(info)
    return exits.BY_STATUS[info.status]


def _print_info(info: ObjectStatus) -> None:
    for name, value in _fields(info).items():
        render.print_line(f"{name:<12}{value}")
    render.print_line()
    render.print_table([_row(replica) for replica in info.replicas.values()])
    for replica in info.replicas.values():
        if replica.error:
            render.print_line(render.one_line(str(replica.error)))


def _fields(info: ObjectStatus) -> dict[str, str]:
    fields = {"key": info.key, "size": f"{info.size:,} bytes ({render.size(info.size)})"}
    if isinstance(info.latest, Tombstone):
        return {**fields, "deleted": f"{info.latest.deleted_at}; some replicas still have its data"}
    manifest = info.manifest
    if manifest is None:
        return {**fields, "sha256": "unknown: no replica has a manifest"}
    mtime_ns = manifest.source.mtime_ns
    modified = "" if mtime_ns is None else f", last modified {_local_time(mtime_ns / 1e9)}"
    return {
        **fields,
        "sha256": manifest.sha256,
        "generation": str(manifest.generation),
        "created": manifest.created_at,
        "source": f"{manifest.source.host}{modified}",
        **({"series": manifest.series} if manifest.series else {}),
        **_stages(manifest),
        "status": info.status,
    }


def _stages_dict(manifest: Manifest | None) -> dict[str, Any]:
    """Return what was done to the bytes before they were stored, and their number, named as by `put --json`."""
    from fsbackup.stages.plaintext import Recorded

    recorded = Recorded.of(manifest)
    if recorded is None:
        return {"stages": [], "plain_size": None}
    return {"stages": list(recorded.names), "plain_size": recorded.size}


def _stages(manifest: Manifest) -> dict[str, str]:
    from fsbackup.stages.plaintext import Recorded

    recorded = Recorded.of(manifest)
    if recorded is None:
        return {}
    before = "" if recorded.size is None else f"; {recorded.size:,} bytes before"
    return {"stages": f"{', '.join(recorded.names)}{before}"}


def _local_time(epoch: float) -> str:
    return clock.local(epoch).isoformat(timespec="seconds")


def _row(replica: ReplicaState) -> render.Row:
    size, modified = (render.size(replica.stat.size), replica.stat.modified) if replica.stat else ("-", None)
    return {
        "backend": replica.backend,
        "state": replica.state,
        "size": size,
        "modified": render.time(modified),
        "generation": "-" if replica.record is None else str(replica.record.generation),
    }


COMMAND = Command(
    name="stat",
    summary="print one object: size, hash, and the state of each replica",
    description="Prints an object's manifest and the state of each replica: present, missing, expired "
    "(deleted by the backend's retention), stale (an older version), conflict (two contents under one "
    "generation), size differs, damaged, no manifest, deleted elsewhere (its data is still to be deleted "
    "here), newer (stored by a newer fsbackup: upgrade this one) or unknown (the backend did not answer). No "
    "data is read. The exit code is 3 if a replica is not as it should be, 1 if there are fewer copies than "
    "min_copies or it is not known whether there is one, 4 if all answer that there is none.",
    examples=("fsbackup stat backups/shop.sql.gz", "fsbackup stat backups/shop.sql.gz --json | jq -r .sha256"),
    add_arguments=_add_arguments,
    execute=_execute,
)
