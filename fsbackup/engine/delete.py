"""Delete one object from every replica.

`delete` surveys all stores and then works on each replica by itself, in this order:

1. Write the tombstone over the manifest. From then on the object counts as deleted there.
2. Remove the data.
3. When *every* replica has confirmed 1 and 2: remove the tombstones, and write intents of an earlier version.

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

from fsbackup.engine import records, versions
from fsbackup.engine.fanout import replica_result
from fsbackup.engine.records import ReplicaState
from fsbackup.engine.replicas import ReplicaSet
from fsbackup.engine.results import Report
from fsbackup.errors import ConflictError, FsbackupError
from fsbackup.keys import encode_key, intent_name, manifest_name
from fsbackup.record import Record, Tombstone
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
    latest = versions.newest(replica.record for replica in replicas)
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
        await asyncio.gather(*(_remove_own_tombstone(replica, key) for replica in replicas))
    seconds = clock() - started
    results = {
        replica.store.name: replica_result("delete", replica.store.name, key, error, seconds)
        for replica, error in zip(replicas, errors, strict=True)
    }
    # Every replica must confirm, whatever `min_copies` is: while one copy is left, the object exists.
    return Report("delete", key, len(targets.stores), results, seconds)


def _tombstone(key: str, replicas: list[ReplicaState]) -> Tombstone | None:
    """Return the tombstone to write; None when no replica has anything. Unmanaged data is generation 0."""
    latest = versions.newest(replica.record for replica in replicas)
    if latest is None and not any(replica.stat or replica.damaged for replica in replicas):
        return None
    return Tombstone(key, latest.generation if latest else 0, versions.utc_now())


async def _delete_replica(replica: ReplicaState, key: str, tombstone: Tombstone | None) -> FsbackupError | None:
    if replica.error is not None:
        return replica.error
    try:
        if tombstone is not None:
            await records.write_record(replica.store, tombstone)
            # Also where the survey found no data: a repair may have written it since. After the tombstone it does
            # not.
            await replica.store.remove(encode_key(key))
            if replica.record_object is not None:
                await replica.store.remove(replica.record_object)
    except FsbackupError as error:
        return error
    return None


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
    await _require_record(store, key, tombstone, replica.record)
    if replica.record != tombstone:
        await records.write_record(store, tombstone)
    await _require_record(store, key, tombstone, tombstone)
    await store.remove(encode_key(key))


async def remove_tombstone(store: ObjectStore, key: str, tombstone: Tombstone) -> None:
    """Remove the tombstone from one replica, after every replica has confirmed the delete.

    Raises
    ------
    ConflictError
        When there is data, a write intent, a manifest or a newer tombstone by now.
    BackendError
        As the store raised it.
    """
    replica, intent = await asyncio.gather(records.read_state(store, key), records.read_intent(store, key))
    if replica.stat is not None or intent is not None:
        raise _superseded(store, key)
    if isinstance(replica.record, Tombstone) and replica.record.generation <= tombstone.generation:
        await records.remove_record(store, key)
    elif replica.record is not None:
        raise _superseded(store, key)


async def _require_record(store: ObjectStore, key: str, tombstone: Tombstone, expected: Record | None) -> None:
    """Raise `ConflictError` unless the record is `expected` and there is no intent of a newer version."""
    (record, _), intent = await asyncio.gather(
        records.read_record(store, manifest_name(key)), records.read_intent(store, key)
    )
    if record != expected or (intent is not None and intent.generation > tombstone.generation):
        raise _superseded(store, key)


def _superseded(store: ObjectStore, key: str) -> ConflictError:
    return ConflictError(
        "stored again by another writer during the delete; the newer version was kept",
        backend=store.name,
        operation="delete",
        key=key,
        hint="run repair again when the other writer has finished",
    )


async def _remove_own_tombstone(replica: ReplicaState, key: str) -> None:
    """Remove the tombstone, and an intent of the version before; a failure is only logged."""
    try:
        if replica.manifest is not None and not records.has_records_inside(replica.store):
            await replica.store.remove(intent_name(key))
        await records.remove_record(replica.store, key)
    except FsbackupError as error:
        log.warning("tombstone was not removed (harmless, repair removes it): %s", error)
