"""Delete one object from every replica.

`delete` surveys all stores and then works on each replica by itself, in this order:

1. Write the tombstone: over a manifest that lies beside the data, or beside data with its manifest inside.
2. Remove the data: only the version that was deleted, or an older one. From then on the object counts as deleted
   there.
3. When *every* replica has confirmed 1 and 2: remove the tombstones, and write intents of an earlier version.

Each step looks again before it, under the key's lock (`locks.py`), and gives way to a version that another writer
stored, or is storing, since the survey: that version is newer than the tombstone and stays.

What a crash or an unreachable replica leaves:

- before 1 on a replica: its manifest and data. The tombstones of the others have a higher rank, so readers see a
  deleted object, and `repair` completes the delete with `complete`. Without a tombstone it would take the object
  for a lost one, and copy it back.
- between 1 and 2: a tombstone and data, which no reader takes for an object; `complete` removes the data.
- before 3: tombstones only; when all replicas have one, `repair` removes them with `remove_tombstone`.

`complete` and `remove_tombstone` read the records again right before each change, and give way to a newer upload.
"""

from __future__ import annotations

import asyncio
import logging

from fsbackup.engine import locks, records, versions
from fsbackup.engine.fanout import replica_result
from fsbackup.engine.records import ReplicaState
from fsbackup.engine.replicas import ReplicaSet
from fsbackup.engine.results import Report
from fsbackup.errors import ConflictError, FsbackupError
from fsbackup.keys import intent_name, manifest_name
from fsbackup.record import Tombstone, version_order
from fsbackup.stores.base import ObjectStore

log = logging.getLogger("fsbackup.storage")


async def delete(targets: ReplicaSet, key: str, *, generation: int | None = None) -> Report:
    """Delete `key` from every store. Deleting an absent key is success; deletes are idempotent.

    Parameters
    ----------
    generation
        Delete no newer version than this one; by default whatever is there.

    Raises
    ------
    ConflictError
        When a newer version than `generation` is there: nothing was deleted.
    """
    clock = asyncio.get_running_loop().time
    started = clock()
    replicas = await records.survey(targets.stores, key)
    latest = versions.highest(replicas)
    if generation is not None and latest is not None and latest.generation > generation:
        raise ConflictError(
            "a newer version was stored meanwhile and is kept",
            operation="delete",
            key=key,
            hint="delete the key itself if the newer version is to go as well",
        )
    tombstone = _tombstone(key, replicas)
    errors = await asyncio.gather(*(_delete_replica(replica, key, tombstone) for replica in replicas))
    if tombstone is not None and all(error is None for error in errors):
        await asyncio.gather(*(_remove_own_tombstone(replica.store, tombstone) for replica in replicas))
    seconds = clock() - started
    results = {
        replica.store.name: replica_result("delete", replica.store.name, key, error, seconds)
        for replica, error in zip(replicas, errors, strict=True)
    }
    # Every replica must confirm, whatever `min_copies` is: while one copy is left, the object exists.
    return Report("delete", key, len(targets.stores), results, seconds)


def _tombstone(key: str, replicas: list[ReplicaState]) -> Tombstone | None:
    """Return the tombstone to write; None when no replica has anything. Unmanaged data is generation 0."""
    latest = versions.highest(replicas)
    if latest is None and not any(replica.stat or replica.damaged for replica in replicas):
        return None
    return Tombstone(key, latest.generation if latest else 0, versions.utc_now())


async def _delete_replica(replica: ReplicaState, key: str, tombstone: Tombstone | None) -> FsbackupError | None:
    if replica.error is not None:
        return replica.error
    try:
        if tombstone is not None:
            async with locks.exclusive(replica.store, key):
                if not records.has_records_inside(replica.store):  # there a tombstone replaces no manifest
                    await _require_not_newer(replica.store, key, tombstone)
                await records.write_record(replica.store, tombstone)
                await _remove_data(replica.store, key, tombstone)
    except FsbackupError as error:
        return error
    return None


async def _remove_data(store: ObjectStore, key: str, tombstone: Tombstone) -> None:
    """Remove the data of the deleted version, and the record that was an object of its own.

    Also where the survey found no data: a repair may have written it since. After the tombstone it does not.
    """
    replica = await _require_not_newer(store, key, tombstone)
    if replica.stat is not None:
        await store.remove_version(replica.stat)
    if replica.record_object is not None:
        await store.remove(replica.record_object)


async def _require_not_newer(store: ObjectStore, key: str, tombstone: Tombstone) -> ReplicaState:
    """Return what the replica has now.

    Raises
    ------
    ConflictError
        When it has a newer version than the tombstone deletes, or one is being stored.
    """
    replica, intent = await asyncio.gather(records.read_state(store, key), records.read_intent(store, key))
    latest = replica.record
    if latest is not None and version_order(latest) > version_order(tombstone):
        raise _superseded(store, key)
    if intent is not None and intent.generation > tombstone.generation:
        raise _superseded(store, key)
    return replica


async def complete(replica: ReplicaState, tombstone: Tombstone) -> None:
    """Complete on one replica a delete that it missed: write the tombstone, then remove the data.

    Raises
    ------
    ConflictError
        When another writer has stored a newer version there, or has begun to.
    BackendError
        As the store raised it.
    """
    store, key = replica.store, tombstone.key
    async with locks.exclusive(store, key):
        now = await _require_not_newer(store, key, tombstone)
        if now.record != tombstone and now.tombstone != tombstone:
            await records.write_record(store, tombstone)
        await _remove_data(store, key, tombstone)


async def remove_tombstone(store: ObjectStore, key: str, tombstone: Tombstone) -> None:
    """Remove the tombstone from one replica, after every replica has confirmed the delete.

    Raises
    ------
    ConflictError
        When there is data, a write intent, a manifest or a newer tombstone by now.
    BackendError
        As the store raised it.
    """
    async with locks.exclusive(store, key):
        replica, intent = await asyncio.gather(records.read_state(store, key), records.read_intent(store, key))
        if replica.stat is not None or intent is not None:
            raise _superseded(store, key)
        if isinstance(replica.record, Tombstone) and replica.record.generation <= tombstone.generation:
            await records.remove_record(store, key)
        elif replica.record is not None:
            raise _superseded(store, key)


def _superseded(store: ObjectStore, key: str) -> ConflictError:
    return ConflictError(
        "stored again by another writer during the delete; the newer version was kept",
        backend=store.name,
        operation="delete",
        key=key,
        hint="run repair again when the other writer has finished",
    )


async def _remove_own_tombstone(store: ObjectStore, tombstone: Tombstone) -> None:
    """Remove the tombstone, and an intent of the deleted version; a failure is only logged."""
    key = tombstone.key
    try:
        async with locks.exclusive(store, key):
            (record, _), (intent, has_intent) = await asyncio.gather(
                records.read_record(store, manifest_name(key)), records.find_intent(store, key)
            )
            if has_intent and (intent is None or intent.generation <= tombstone.generation):
                await store.remove(intent_name(key))
            if record == tombstone:
                await records.remove_record(store, key)
    except FsbackupError as error:
        log.warning("tombstone was not removed (harmless, repair removes it): %s", error)
