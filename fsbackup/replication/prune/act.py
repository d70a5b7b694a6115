"""Removing one copy, and only the one that was decided upon. For the order see the package."""

from __future__ import annotations

import asyncio

from fsbackup.errors import ConflictError
from fsbackup.keys import encode_key, pending_name
from fsbackup.objects import ObjectStat, ObjectStore
from fsbackup.transfer import records
from fsbackup.transfer.records import Finding


async def let_go(finding: Finding, key: str) -> None:
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
    if await _unchanged(finding, key) is not None:
        await store.remove(encode_key(key))
    # A writer that came in between has announced itself or written its manifest, and needs them both.
    await _unchanged(Finding(store, finding.record), key)
    if (await records.announcement(store, key))[1]:
        await store.remove(pending_name(key))
    await records.remove_record(store, key)


async def _unchanged(finding: Finding, key: str) -> ObjectStat | None:
    """Return the data that is there, None when there is none (any more); refuse anything that is new."""
    store = finding.store
    now, (announced, there) = await asyncio.gather(records.look(store, key), records.announcement(store, key))
    newer = there and (
        announced is None or finding.manifest is None or _generation(finding) < announced.generation
    )
    replaced = now.record is not None and now.record != finding.record
    moved = now.stat is not None and _mark(now.stat) != _mark(finding.stat)
    if newer or replaced or moved or now.damaged:
        raise _overtaken(store, key)
    return now.stat


def _generation(finding: Finding) -> int:
    return finding.manifest.generation if finding.manifest else 0


def _mark(stat: ObjectStat | None) -> tuple[object, ...]:
    return () if stat is None else (stat.size, stat.modified, stat.etag, stat.version_id)


def _overtaken(store: ObjectStore, key: str) -> ConflictError:
    return ConflictError(
        "somebody is storing, or has stored, another version",
        backend=store.name,
        operation="prune",
        key=key,
        hint="what is being stored counts; prune again later",
    )
