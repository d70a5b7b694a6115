"""Removing one copy, and only the one that was decided upon. For the order see the package."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

from fsbackup.engine import records
from fsbackup.engine.records import ReplicaState
from fsbackup.errors import ConflictError
from fsbackup.keys import encode_key, intent_name
from fsbackup.record import Record, version_order
from fsbackup.stores.base import ObjectStat, ObjectStore


async def delete_copy(finding: ReplicaState, key: str) -> None:
    """Remove the data, and then the records, of the version that was found. What is gone already is no error.

    Raises
    ------
    ConflictError
        When somebody stored, or is storing, another version; what is left of it stays.
    LockedError
        When a lock keeps it.
    BackendError
        What else the store did.
    """
    store = finding.store
    if (await _unchanged(finding, key)).stat is not None:
        await store.remove(encode_key(key))
    # A writer that came in between has announced itself or written its manifest, and needs them both. If it was
    # so quick that its data went instead, its manifest says so, and a copy that is missing is brought back.
    there = await _unchanged(replace(finding, stat=None), key)
    if there.announced:
        await store.remove(intent_name(key))
    if there.record is not None:
        await records.remove_record(store, key)


@dataclass(frozen=True, slots=True)
class _Remaining:
    """What is there of the version that was found."""

    stat: ObjectStat | None
    record: Record | None
    announced: bool


async def _unchanged(finding: ReplicaState, key: str) -> _Remaining:
    """Return what is still there of what was found; refuse anything that is new."""
    store = finding.store
    now, (coming, announced) = await asyncio.gather(
        records.read_state(store, key), records.find_intent(store, key)
    )
    newer = announced and (
        coming is None or finding.manifest is None or version_order(coming) > version_order(finding.manifest)
    )
    replaced = now.damaged or (now.record != finding.record and (now.record, now.stat) != (None, None))
    moved = now.stat is not None and _fingerprint(now.stat) != _fingerprint(finding.stat)
    if newer or replaced or moved:
        raise _superseded(store, key)
    return _Remaining(now.stat, now.record, announced)


def _fingerprint(stat: ObjectStat | None) -> tuple[object, ...]:
    return () if stat is None else (stat.size, stat.modified, stat.etag, stat.version_id)


def _superseded(store: ObjectStore, key: str) -> ConflictError:
    return ConflictError(
        "somebody is storing, or has stored, another version",
        backend=store.name,
        operation="prune",
        key=key,
        hint="that counts: `fsbackup verify` tells whether it is whole; prune again later",
    )
