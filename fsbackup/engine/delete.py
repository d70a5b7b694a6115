"""Delete one object from every replica.

`delete` asks the stores (`survey.survey_for_change`) and then works on each replica by itself, as soon as that has
answered, in this order:

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

A delete is degraded when `min_copies` replicas have confirmed it. Readers find the object deleted also when the
others are fewer than `min_copies` (`is_deleted`). Where not even so many can be reached, nothing is deleted.

`complete` and `remove_tombstone` read the records again right before each change, and give way to a newer upload.

Where a newer version of fsbackup wrote the record of one replica, nothing is deleted from any.

`delete_many` does all of this for many keys. Where a store removes many objects by few requests, it looks at all
of them, then removes their data together, then the manifests that are objects of their own, last the tombstones.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Collection, Sequence

from fsbackup.aio import cancel_and_wait, map_some
from fsbackup.engine import breaker, intents, locks, records, versions
from fsbackup.engine.fanout import replica_result
from fsbackup.engine.records import ReplicaState
from fsbackup.engine.replicas import ReplicaSet
from fsbackup.engine.results import Report, is_deleted
from fsbackup.engine.survey import Answers, insist, survey, survey_for_change
from fsbackup.errors import ConflictError, FsbackupError, TooFewCopiesError
from fsbackup.keys import manifest_name
from fsbackup.record import Tombstone, version_order
from fsbackup.stores.base import ObjectStore

log = logging.getLogger("fsbackup.storage")

#: Keys that `delete_many` deletes together, and those it works on at once.
_TOGETHER, _AT_ONCE = 1000, 16

#: To be deleted on one replica: its state by the survey, and the tombstone; None where nothing is anywhere.
_Deletion = tuple[ReplicaState, Tombstone | None]


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
    answers = await survey_for_change(targets, key)
    try:
        return await _delete(targets, key, generation, answers, started)
    finally:
        await cancel_and_wait(list(answers.late.values()))


async def _delete(
    targets: ReplicaSet, key: str, generation: int | None, answers: Answers, started: float
) -> Report:
    clock = asyncio.get_running_loop().time
    if _tombstone(key, answers.replicas) is None:  # what is deleted may be on a slower one only
        await asyncio.gather(*answers.late.values())
    replicas = [
        answers.late[each.backend].result() if _is_done(answers, each) else each for each in answers.replicas
    ]
    latest = versions.highest(replicas)
    if generation is not None and latest is not None and latest.generation > generation:
        raise ConflictError(
            "a newer version was stored meanwhile and is kept",
            operation="delete",
            key=key,
            hint="delete the key itself if the newer version is to go as well",
        )
    tombstone = _tombstone(key, replicas)
    if newer := records.refusal(replicas, "delete"):
        return _report(targets, key, replicas, [newer] * len(replicas), clock() - started, tombstone)
    if refusal := _too_few(targets, key, tombstone, replicas, answers.late):
        return _report(
            targets, key, replicas, [each.error or refusal for each in replicas], clock() - started, tombstone
        )

    async def delete_on(replica: ReplicaState) -> FsbackupError | None:
        late = answers.late.get(replica.backend)
        return await _delete_replica(replica if late is None else await late, key, tombstone)

    errors = await asyncio.gather(*map(delete_on, replicas))
    if tombstone is not None and all(error is None for error in errors):
        await asyncio.gather(*(_remove_own_tombstone(replica.store, tombstone) for replica in replicas))
    return _report(targets, key, replicas, errors, clock() - started, tombstone)


def _is_done(answers: Answers, replica: ReplicaState) -> bool:
    late = answers.late.get(replica.backend)
    return late is not None and late.done()


def _too_few(
    targets: ReplicaSet,
    key: str,
    tombstone: Tombstone | None,
    replicas: Sequence[ReplicaState],
    late: Collection[str] = (),
) -> TooFewCopiesError | None:
    """Return the error for a delete that so few replicas could confirm that the others still have the object."""
    away = [each.backend for each in replicas if each.error is not None and each.backend not in late]
    if tombstone is None or is_deleted(len(replicas) - len(away), len(replicas), targets.min_copies):
        return None
    return TooFewCopiesError(
        f"nothing was deleted, because {', '.join(away)} cannot be reached", operation="delete", key=key
    )


async def delete_many(targets: ReplicaSet, keys: Collection[str]) -> AsyncGenerator[Report, None]:
    """Delete keys as `delete` does, and yield a report on each, in their order."""
    todo = list(dict.fromkeys(keys))
    for start in range(0, len(todo), _TOGETHER):
        for report in await _delete_together(targets, todo[start : start + _TOGETHER]):
            yield report


async def _delete_together(targets: ReplicaSet, keys: Sequence[str]) -> list[Report]:
    clock = asyncio.get_running_loop().time
    started = clock()

    async def look(key: str) -> Sequence[ReplicaState]:
        replicas = await survey(targets.stores, key)
        too_few = _too_few(targets, key, _tombstone(key, replicas), replicas)
        return replicas if too_few is None else await insist(replicas, key)

    surveyed = dict(zip(keys, await map_some(look, keys, _AT_ONCE), strict=True))
    refused: dict[str, FsbackupError] = {}
    for key in keys:
        replicas = surveyed[key]
        error = records.refusal(replicas, "delete") or _too_few(targets, key, _tombstone(key, replicas), replicas)
        if error is not None:
            refused[key] = error
    tombstones = {key: _tombstone(key, replicas) for key, replicas in surveyed.items() if key not in refused}

    async def delete_on(number: int) -> dict[str, FsbackupError | None]:
        todo = {key: (surveyed[key][number], tombstone) for key, tombstone in tombstones.items()}
        own = {key: surveyed[key][number].error or error for key, error in refused.items()}
        return {**own, **await _delete_on(targets.stores[number], todo)}

    by_store = await asyncio.gather(*map(delete_on, range(len(targets.stores))))
    errors = {key: [found[key] for found in by_store] for key in keys}
    confirmed = [
        tombstone
        for key, tombstone in tombstones.items()
        if tombstone is not None and all(error is None for error in errors[key])
    ]
    await asyncio.gather(*(_remove_own_tombstones(store, confirmed) for store in targets.stores))
    seconds = clock() - started
    return [_report(targets, key, surveyed[key], errors[key], seconds, tombstones.get(key)) for key in keys]


def _report(
    targets: ReplicaSet,
    key: str,
    replicas: Sequence[ReplicaState],
    errors: Sequence[FsbackupError | None],
    seconds: float,
    tombstone: Tombstone | None,
) -> Report:
    results = {
        replica.store.name: replica_result("delete", replica.store.name, key, error, seconds)
        for replica, error in zip(replicas, errors, strict=True)
    }
    generation = tombstone.generation if tombstone else None
    return Report("delete", key, targets.min_copies, results, seconds, generation=generation)


def _tombstone(key: str, replicas: Sequence[ReplicaState]) -> Tombstone | None:
    """Return the tombstone to write; None when no replica has anything. Unmanaged data is generation 0."""
    latest = versions.highest(replicas)
    if latest is None and not any(replica.stat or replica.damaged for replica in replicas):
        return None
    return Tombstone(key, latest.generation if latest else 0, versions.utc_now())


async def _delete_replica(replica: ReplicaState, key: str, tombstone: Tombstone | None) -> FsbackupError | None:
    if replica.error is not None:
        return replica.error
    clock = asyncio.get_running_loop().time
    started = clock()
    try:
        if tombstone is not None:
            async with locks.exclusive(replica.store, key), intents.announced(replica.store, tombstone):
                await _remove(replica.store, await _announce(replica.store, tombstone))
                breaker.record(replica.store, None, writing=True)
    except FsbackupError as error:
        breaker.record(replica.store, error, clock() - started, writing=True)
        return error
    return None


async def _delete_on(store: ObjectStore, todo: dict[str, _Deletion]) -> dict[str, FsbackupError | None]:
    """Do what `_delete_replica` does for many keys of one store."""
    if not store.capabilities.removes_many:

        async def delete_one(key: str) -> FsbackupError | None:
            replica, tombstone = todo[key]
            return await _delete_replica(replica, key, tombstone)

        return dict(zip(todo, await map_some(delete_one, todo, _AT_ONCE), strict=True))
    async with locks.exclusive_all(store, todo):
        return await _delete_data_together(store, todo)


async def _delete_data_together(store: ObjectStore, todo: dict[str, _Deletion]) -> dict[str, FsbackupError | None]:
    errors: dict[str, FsbackupError | None] = {key: replica.error for key, (replica, _) in todo.items()}
    found: dict[str, ReplicaState] = {}

    async def announce(tombstone: Tombstone) -> None:
        try:
            found[tombstone.key] = await _announce(store, tombstone)
        except FsbackupError as error:
            errors[tombstone.key] = error

    await map_some(
        announce, [each for key, (_, each) in todo.items() if each is not None and not errors[key]], _AT_ONCE
    )
    stats = {key: replica.stat for key, replica in found.items() if replica.stat is not None}
    errors |= dict(zip(stats, await store.remove_many(list(stats.values())), strict=True))
    names = {
        key: replica.record_object
        for key, replica in found.items()
        if replica.record_object is not None and not errors[key]
    }
    return errors | dict(zip(names, await store.remove_many(list(names.values())), strict=True))


async def _announce(store: ObjectStore, tombstone: Tombstone) -> ReplicaState:
    """Write the tombstone, and return what is to be removed after it: what the replica has now."""
    if not records.has_records_inside(store):  # there a tombstone replaces no manifest
        await _require_not_newer(store, tombstone.key, tombstone)
    await records.write_record(store, tombstone)
    return await _require_not_newer(store, tombstone.key, tombstone)


async def _remove(store: ObjectStore, replica: ReplicaState) -> None:
    """Remove the data of the deleted version, and the record that was an object of its own.

    Also where the survey found no data: a repair may have written it since. After the tombstone it does not.
    """
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
    replica, found = await asyncio.gather(records.read_state(store, key), intents.find(store, key))
    latest = replica.record
    if latest is not None and version_order(latest) > version_order(tombstone):
        raise _superseded(store, key)
    if intents.outranks(intents.known(found), tombstone.generation):
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
    async with locks.exclusive(store, key), intents.announced(store, tombstone):
        now = await _require_not_newer(store, key, tombstone)
        if now.record != tombstone and now.tombstone != tombstone:
            await records.write_record(store, tombstone)
        await _remove(store, await _require_not_newer(store, key, tombstone))


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
        replica, found = await asyncio.gather(records.read_state(store, key), intents.find(store, key))
        if replica.stat is not None or found:
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


async def _remove_own_tombstones(store: ObjectStore, tombstones: Sequence[Tombstone]) -> None:
    """Remove the tombstones, and intents of the deleted versions; failures are only logged."""
    if not store.capabilities.removes_many:
        await map_some(lambda each: _remove_own_tombstone(store, each), tombstones, _AT_ONCE)
        return

    async def look(tombstone: Tombstone) -> list[str]:
        try:
            return await _own_leftovers(store, tombstone)
        except FsbackupError as error:
            _log_leftover(error)
            return []

    async with locks.exclusive_all(store, [each.key for each in tombstones]):
        leftovers = await map_some(look, tombstones, _AT_ONCE)
        for error in await store.remove_many([name for names in leftovers for name in names]):
            if error is not None:
                _log_leftover(error)


async def _remove_own_tombstone(store: ObjectStore, tombstone: Tombstone) -> None:
    try:
        async with locks.exclusive(store, tombstone.key):
            for name in await _own_leftovers(store, tombstone):
                await store.remove(name)
    except FsbackupError as error:
        _log_leftover(error)


async def _own_leftovers(store: ObjectStore, tombstone: Tombstone) -> list[str]:
    """Return the names of the tombstone and of an intent of the deleted version, where they are still there."""
    key = tombstone.key
    (record, _), found = await asyncio.gather(records.read_record(store, key), intents.find(store, key))
    deleted = [each.name for each in found if intents.is_of_deleted(store, each, tombstone.generation)]
    return [*deleted, *([manifest_name(key)] if record == tombstone else [])]


def _log_leftover(error: FsbackupError) -> None:
    log.warning("tombstone was not removed (harmless, repair removes it): %s", error)
