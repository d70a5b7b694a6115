"""Deletes copies, and only the versions that were decided about; the package docstring explains the order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from fsbackup.engine import intents, locks, records
from fsbackup.engine.records import ReplicaState
from fsbackup.errors import ConflictError, FsbackupError
from fsbackup.record import Record, version_order
from fsbackup.stores.base import ObjectStat, ObjectStore


async def delete_copy(replica: ReplicaState, key: str) -> None:
    """Delete the data, then the records, of the version in `replica`; what is already gone is no error.

    Raises
    ------
    ConflictError
        When another version is stored or announced; the rest of the copy stays.
    LockedError
        When a lock keeps it.
    BackendError
        For any other error of the store.
    """
    async with locks.exclusive(replica.store, key):
        await _delete_copy(replica, key)


async def _delete_copy(replica: ReplicaState, key: str) -> None:
    """Delete a copy, announced where others are not locked out: its record is removed, see `engine.intents`."""
    if replica.manifest is None:
        await _delete_unchanged(replica, key, "")
        return
    async with intents.announced(replica.store, replica.manifest) as own:
        await _delete_unchanged(replica, key, own)


async def _delete_unchanged(replica: ReplicaState, key: str, own: str) -> None:
    store = replica.store
    if (stat := (await _require_unchanged(replica, key, own)).stat) is not None:
        await store.remove_version(stat)
    # A writer on another machine that came in between has written its intent or manifest, and needs both. If its
    # data was stored before the DELETE, which then removed it, its manifest shows the copy as missing, and repair
    # refills it.
    remaining = await _require_unchanged(replace(replica, stat=None), key, own)
    for name in remaining.intents:
        await store.remove(name)
    if remaining.record is not None or replica.record_object is not None:
        await records.remove_manifest(replica, key)


def can_delete_together(replica: ReplicaState) -> bool:
    """Return whether `delete_copies` can delete a copy: data with its manifest inside."""
    store = replica.store
    return replica.stat is not None and store.capabilities.removes_many and records.has_records_inside(store)


async def delete_copies(copies: Mapping[str, ReplicaState]) -> dict[str, FsbackupError | None]:
    """Delete copies by key, all in one store: their data, then their manifests that are objects of their own.

    The store compares each object with the one decided about before it removes it, and manifest and data are one
    object: no further look is needed.

    Returns by key None, or why the copy is still there or may be, as `delete_copy` raises it.
    """
    store = next(iter(copies.values())).store
    async with locks.exclusive_all(store, copies):
        errors = dict(zip(copies, await store.remove_many([_stat(each) for each in copies.values()]), strict=True))
        manifests = {key: each.record_object for key, each in copies.items() if errors[key] is None}
        names = {key: name for key, name in manifests.items() if name is not None}
        return errors | dict(zip(names, await store.remove_many(list(names.values())), strict=True))


def _stat(copy: ReplicaState) -> ObjectStat:
    assert copy.stat is not None
    return copy.stat


@dataclass(frozen=True, slots=True)
class _Remaining:
    """What is still there of the version, and the names of intents that are of no use without it."""

    stat: ObjectStat | None
    record: Record | None
    intents: Sequence[str] = ()


async def _require_unchanged(replica: ReplicaState, key: str, own: str) -> _Remaining:
    """Return what is still there of the version; raise ConflictError for anything new. `own` is our intent."""
    store, manifest = replica.store, replica.manifest
    others = await intents.find(store, key, own)  # first: see there
    now = await records.read_state(store, key)
    newer = any(
        each.manifest is None or manifest is None or version_order(each.manifest) > version_order(manifest)
        for each in intents.known(others)
    ) or (bool(own) and any(each.may_go_on() for each in others))
    replaced = now.damaged or (now.record != replica.record and (now.record, now.stat) != (None, None))
    data_changed = now.stat is not None and _fingerprint(now.stat) != _fingerprint(replica.stat)
    if newer or replaced or data_changed:
        raise _superseded(store, key)
    generation = -1 if manifest is None else manifest.generation
    useless = [each.name for each in others if intents.is_of_deleted(store, each, generation)]
    return _Remaining(now.stat, now.record, useless)


def _fingerprint(stat: ObjectStat | None) -> tuple[object, ...]:
    return () if stat is None else (stat.size, stat.modified, stat.etag, stat.version_id)


def _superseded(store: ObjectStore, key: str) -> ConflictError:
    return ConflictError(
        "another process is storing, or has stored, another version",
        backend=store.name,
        operation="prune",
        key=key,
        hint="run `fsbackup verify`, and prune again later",
    )
