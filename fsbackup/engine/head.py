"""Whether an object exists, and its size: True, False or an error, never a guess."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from fsbackup.engine import records, tombstones, versions
from fsbackup.engine.records import ReplicaState
from fsbackup.engine.replicas import ReplicaSet
from fsbackup.engine.survey import decide, look_twice, settled, survey
from fsbackup.errors import ObjectNotFoundError
from fsbackup.keys import encode_key
from fsbackup.record import Tombstone
from fsbackup.stores.base import ObjectStore


async def exists(targets: ReplicaSet, key: str) -> bool:
    """Return True when a replica proves `key`, False when a quorum answers that it is absent or deleted.

    Raises
    ------
    NoHealthyReplicaError
        When no replica proves it and too few answered; a set of one raises what its store raised.
    NewerFormatError
        When a newer version of fsbackup wrote the record of a replica.
    """
    return await size(targets, key) is not None


async def size(targets: ReplicaSet, key: str) -> int | None:
    """Return the size of `key` in bytes, None when a quorum answers that it is absent or deleted.

    Costs one HEAD per replica, where a set does not find it two; where manifests lie beside the data, a read of
    each that may count.

    Raises
    ------
    NoHealthyReplicaError
        As `exists`.
    NewerFormatError
        When a newer version of fsbackup wrote the record of a replica.
    """
    look = partial(_look, targets, key)
    try:
        return await look_twice(targets, look(), look)
    except ObjectNotFoundError:
        return None


async def _look(targets: ReplicaSet, key: str) -> int:
    replicas = await survey(targets.stores, key, _query)
    return await decide(replicas, key, partial(_size, targets, key), _query)


async def _size(targets: ReplicaSet, key: str, replicas: Sequence[ReplicaState]) -> int:
    if newer := records.refusal(replicas, "exists"):
        raise newer
    present = [replica.stat for replica in replicas if replica.stat is not None]
    if present:
        known = await settled(await _with_records(replicas, key), key)
        latest = versions.newest(known, targets.min_copies)
        if not isinstance(latest, Tombstone):
            return latest.size if latest else present[0].size
    replicas = await records.with_doubts(replicas, key)
    errors = records.errors_of(replicas)
    if not errors or await _is_proven_absent(targets, replicas, key):
        raise ObjectNotFoundError("no such key, or it was deleted", operation="exists", key=key)
    if len(replicas) == 1:
        raise next(iter(errors.values()))
    raise records.unproven_absence(replicas, "exists", key)


async def _is_proven_absent(targets: ReplicaSet, replicas: Sequence[ReplicaState], key: str) -> bool:
    """Return whether a quorum answers that there is neither data nor a manifest, whose data may be elsewhere."""
    if not targets.is_quorum([each.backend for each in replicas if each.error is None]):
        return False
    known = await _with_records(replicas, key)
    return versions.is_proven_absent(targets, known, versions.newest(known, targets.min_copies))


async def _query(store: ObjectStore, key: str, *, insist: bool = False) -> ReplicaState:
    read = partial(_read_state, store, key)
    return await records.state_or_error(store, key, read, operation="exists", insist=insist)


async def _read_state(store: ObjectStore, key: str) -> ReplicaState:
    """As `records.read_state`; but where there is no data, its records are not read."""
    stat = await store.stat(encode_key(key))
    if stat is None:
        return ReplicaState(store)
    if not records.has_records_inside(store):
        return await _read_records(ReplicaState(store, stat=stat), key)
    replica = await records.read_inside_record(store, key, stat)
    return await records.add_tombstone(replica, key, tombstones.recently())


async def _read_records(replica: ReplicaState, key: str) -> ReplicaState:
    """Return the state with its records that are objects of their own."""
    store = replica.store
    if not records.has_records_inside(store):
        replica = ReplicaState(store, *await records.read_record(store, key), replica.stat)
    return await records.add_tombstone(replica, key, tombstones.recently())


async def _with_records(replicas: Sequence[ReplicaState], key: str) -> list[ReplicaState]:
    """Return the states, also with the records of the replicas without data.

    A tombstone there may outrank the data of a replica that was unreachable during the delete.
    """

    async def look(replica: ReplicaState) -> ReplicaState:
        if replica.stat is not None or replica.error is not None:
            return replica
        return await records.state_or_error(replica.store, key, partial(_read_records, replica, key))

    return list(await asyncio.gather(*map(look, replicas)))
