"""Delete: a tombstone first, then the data, then the tombstone where every replica confirmed.

The tombstone is the one atomic step: after it the object counts as deleted, also when a crash comes before the
data is gone or a replica is down. Without it, repair would take a deleted object for a lost one.
"""

from __future__ import annotations

import asyncio
import logging

from fsbackup import events
from fsbackup.engine import records, versions
from fsbackup.engine.records import ReplicaState
from fsbackup.engine.replicas import ReplicaSet
from fsbackup.engine.results import ReplicaResult, Report
from fsbackup.errors import ConflictError, FsbackupError
from fsbackup.keys import encode_key, intent_name, manifest_name
from fsbackup.record import Record, Tombstone
from fsbackup.stores.base import ObjectStore

log = logging.getLogger("fsbackup.storage")


async def delete(targets: ReplicaSet, key: str, *, generation: int | None = None) -> Report:
    """Delete `key` from every store. A key that is nowhere is success, and deletes are idempotent.

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
    findings = await records.survey(targets.stores, key)
    top = versions.newest(finding.record for finding in findings)
    if generation is not None and top is not None and top.generation > generation:
        raise ConflictError(
            "a newer version was stored meanwhile, and stays",
            operation="delete",
            key=key,
            hint="delete it by its name if it is to go as well",
        )
    stone = _tombstone(key, findings)
    errors = await asyncio.gather(*(_delete_one(finding, key, stone) for finding in findings))
    if stone is not None and all(error is None for error in errors):
        await asyncio.gather(*(_forget(finding, key) for finding in findings))
    seconds = clock() - started
    replicas = {}
    for finding, error in zip(findings, errors, strict=True):
        name = finding.store.name
        replicas[name] = ReplicaResult(name, error is None, seconds, exception=error)
        events.log_outcome("delete", name, key, seconds=seconds, error=error)
    # A delete is done only when all confirmed: one copy left is an object that is still there.
    return Report("delete", key, len(targets.stores), replicas, seconds)


def _tombstone(key: str, findings: list[ReplicaState]) -> Tombstone | None:
    """Return the tombstone for what was found; an object that never had a manifest counts as generation 0."""
    top = versions.newest(finding.record for finding in findings)
    if top is None and not any(finding.stat or finding.damaged for finding in findings):
        return None
    return Tombstone(key, top.generation if top else 0, versions.utc_now())


async def _delete_one(finding: ReplicaState, key: str, stone: Tombstone | None) -> FsbackupError | None:
    if finding.error is not None:
        return finding.error
    try:
        if stone is not None:
            await records.write_record(finding.store, stone)
            # Also where nothing was seen: a repair may have put it there since; from now on it would not.
            await finding.store.remove(encode_key(key))
    except FsbackupError as error:
        return error
    return None


async def finish(finding: ReplicaState, stone: Tombstone) -> None:
    """Do on one replica the delete that it missed: the tombstone, then the data.

    Raises
    ------
    ConflictError
        When somebody is storing, or has stored, a newer version there.
    BackendError
        What the store did.
    """
    store, key = finding.store, stone.key
    await _require(store, key, stone, finding.record)
    if finding.record != stone:
        await records.write_record(store, stone)
    await _require(store, key, stone, stone)
    await store.remove(encode_key(key))


async def forget(store: ObjectStore, key: str, stone: Tombstone) -> None:
    """Remove the tombstone from one replica, now that every replica has confirmed the delete.

    Raises
    ------
    ConflictError
        When it is not a tombstone that stands there, or data came since.
    BackendError
        What the store did.
    """
    there, announced = await asyncio.gather(records.read_state(store, key), records.read_intent(store, key))
    if there.stat is not None or announced is not None:
        raise _superseded(store, key)
    if isinstance(there.record, Tombstone) and there.record.generation <= stone.generation:
        await records.remove_record(store, key)
    elif there.record is not None:
        raise _superseded(store, key)


async def _require(store: ObjectStore, key: str, stone: Tombstone, expected: Record | None) -> None:
    """Refuse to go on unless the record is the expected one, and nobody has announced a newer version."""
    (record, _), announced = await asyncio.gather(
        records.read_record(store, manifest_name(key)), records.read_intent(store, key)
    )
    if record != expected or (announced is not None and announced.generation > stone.generation):
        raise _superseded(store, key)


def _superseded(store: ObjectStore, key: str) -> ConflictError:
    return ConflictError(
        "somebody stored it again meanwhile, and that counts",
        backend=store.name,
        operation="delete",
        key=key,
        hint="repair again when the others are done",
    )


async def _forget(finding: ReplicaState, key: str) -> None:
    """Remove the tombstone, which nobody needs once every replica has confirmed the delete."""
    try:
        if finding.manifest is not None:
            await finding.store.remove(intent_name(key))
        await records.remove_record(finding.store, key)
    except FsbackupError as error:
        log.warning("a tombstone stays behind, which does no harm: %s", error)
