"""Delete one object from every replica.

`delete` asks the stores (`survey.survey_for_change`) and then works on each replica separately, as soon as that
one has answered, in this order:

1. Write the tombstone; it has a name of its own, and overwrites nothing.
2. Remove the data: only the version that was deleted, or an older one. From then on the object counts as deleted
   there.
3. Remove its manifest, where that is an object of its own.
4. When *every* replica has confirmed 1 to 3: remove the tombstones, and write intents of an earlier version;
   unless a repair is running, which may be about to write what it copied before 1 (`repairs.py`).

Before each step the records are read again, under the key's lock (`locks.py`); a version that another writer has
stored since the survey, or is storing, is newer than the tombstone and stays. A bucket with versions needs no such
check: the request names the version to remove. One with conditional deletes refuses to remove an object that was
stored after the check; R2 has neither (FORMAT.md). On a disk, whose lock excludes running writers, an intent
counts only where its data may be stored already: a writer that was killed before that blocks no delete.

What a crash or an unreachable replica leaves:

- before 1 on a replica: its manifest and data. The tombstones of the others have a higher rank, so readers see a
  deleted object, and `repair` completes the delete with `complete`. Without a tombstone, `repair` would treat the
  object as lost, and copy it back.
- between 1 and 2: a tombstone, and the object, which readers ignore; `complete` removes it.
- between 2 and 3: a tombstone, and a manifest without data, which is ignored, too. `complete` or
  `remove_tombstone` removes it. The data is removed first: while the manifest is there, data that another writer
  stores in between is seen not to match it.
- before 4: tombstones only; when all replicas have one, `repair` removes them with `remove_tombstone`.

Why the tombstone comes first, and not only when a replica has failed: once the first data is removed, some quorum
says that there is no such object. If the process is killed then, or its user gives up waiting for a replica that
hangs, that replica's copy would come back, though readers were told that it is gone. A single replica that has
manifest and data in one object (`_needs_tombstone`) has the version or nothing at every instant, and needs none.

A delete is degraded when `min_copies` replicas have confirmed it. Readers find the object deleted also when the
others are fewer than `min_copies` (`is_deleted`). Where not even that many can be reached, nothing is deleted.

`complete` and `remove_tombstone` read the records again right before each change; a newer upload stays.

Where a newer version of fsbackup wrote the record of one replica, nothing is deleted from any.

`delete_many` does all of this for many keys. Where a store removes many objects by few requests, it surveys all of
them, then removes their data together, then the manifests that are objects of their own, last the tombstones.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from itertools import zip_longest

from fsbackup import clock
from fsbackup.aio import cancel_and_wait, map_some
from fsbackup.engine import breaker, intents, locks, records, repairs, tombstones, versions
from fsbackup.engine.fanout import replica_result
from fsbackup.engine.records import ReplicaState
from fsbackup.engine.replicas import ReplicaSet
from fsbackup.engine.results import Report, is_deleted
from fsbackup.engine.survey import Answers, insist, settled, survey, survey_for_change
from fsbackup.errors import ConflictError, FsbackupError, TooFewCopiesError
from fsbackup.keys import manifest_name
from fsbackup.record import Tombstone, version_order
from fsbackup.stores.base import ObjectStat, ObjectStore

log = logging.getLogger("fsbackup.storage")

#: Keys that `delete_many` deletes together, and those that it works on concurrently.
_TOGETHER, _AT_ONCE = 1000, 16

#: A delete on one replica: its state by the survey, and the tombstone; None where no replica has anything.
_Deletion = tuple[ReplicaState, Tombstone | None]
#: The tombstones that were stored, by the names of their stores and then by key.
_Stored = Mapping[str, dict[str, ObjectStat]]


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
    started = asyncio.get_running_loop().time()
    answers = await survey_for_change(targets, key)
    try:
        return await _delete(targets, key, generation, answers, started)
    finally:
        await cancel_and_wait(list(answers.late.values()))


async def _delete(
    targets: ReplicaSet, key: str, generation: int | None, answers: Answers, started: float
) -> Report:
    if _tombstone(targets, key, answers.replicas) is None:  # only a slower replica may have the object
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
    tombstone = _tombstone(targets, key, replicas, generation)
    if newer := records.refusal(replicas, "delete"):
        return _report(targets, key, replicas, [newer] * len(replicas), _seconds_since(started), tombstone)
    if refusal := _too_few(targets, key, tombstone, replicas, answers.late):
        return _report(
            targets,
            key,
            replicas,
            [each.error or refusal for each in replicas],
            _seconds_since(started),
            tombstone,
        )

    stored = _nothing_stored(targets)

    async def delete_on(replica: ReplicaState) -> FsbackupError | None:
        late = answers.late.get(replica.backend)
        now = replica if late is None else await late
        return await _delete_replica(now, key, tombstone, stored if _needs_tombstone(targets) else None)

    errors = await asyncio.gather(*map(delete_on, replicas))
    if tombstone is not None and all(error is None for error in errors):
        await _remove_own_tombstones(targets, [tombstone], stored)
    return _report(targets, key, replicas, errors, _seconds_since(started), tombstone)


def _seconds_since(started: float) -> float:
    return asyncio.get_running_loop().time() - started


def _needs_tombstone(targets: ReplicaSet) -> bool:
    """Return whether an interrupted delete could leave a part of the object."""
    return len(targets.stores) > 1 or not records.has_records_inside(targets.stores[0])


def _nothing_stored(targets: ReplicaSet) -> _Stored:
    return {store.name: {} for store in targets.stores}


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
    """Return the error for a delete that too few replicas can confirm, so that the object would still exist."""
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
    started = asyncio.get_running_loop().time()

    async def look(key: str) -> Sequence[ReplicaState]:
        replicas: Sequence[ReplicaState] = await settled(await survey(targets.stores, key), key, changes=True)
        too_few = _too_few(targets, key, _tombstone(targets, key, replicas), replicas)
        return replicas if too_few is None else await insist(replicas, key)

    surveyed = dict(zip(keys, await map_some(look, keys, _AT_ONCE), strict=True))
    refused: dict[str, FsbackupError] = {}
    deleted: dict[str, Tombstone | None] = {}
    for key, replicas in surveyed.items():
        tombstone = _tombstone(targets, key, replicas)
        error = records.refusal(replicas, "delete") or _too_few(targets, key, tombstone, replicas)
        if error is not None:
            refused[key] = error
        else:
            deleted[key] = tombstone

    stored = _nothing_stored(targets)

    async def delete_on(number: int) -> dict[str, FsbackupError | None]:
        todo = {key: (surveyed[key][number], tombstone) for key, tombstone in deleted.items()}
        own = {key: surveyed[key][number].error or error for key, error in refused.items()}
        announced = stored if _needs_tombstone(targets) else None
        return {**own, **await _delete_on(targets.stores[number], todo, announced)}

    by_store = await asyncio.gather(*map(delete_on, range(len(targets.stores))))
    errors = {key: [found[key] for found in by_store] for key in keys}
    confirmed = [
        tombstone
        for key, tombstone in deleted.items()
        if tombstone is not None and all(error is None for error in errors[key])
    ]
    await _remove_own_tombstones(targets, confirmed, stored)
    seconds = _seconds_since(started)
    return [_report(targets, key, surveyed[key], errors[key], seconds, deleted.get(key)) for key in keys]


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


def _tombstone(
    targets: ReplicaSet, key: str, replicas: Sequence[ReplicaState], generation: int | None = None
) -> Tombstone | None:
    """Return the tombstone to write; None when no replica has anything. Unmanaged data is generation 0.

    Without a quorum, a replica that does not answer may have a higher version: the tombstone must outrank all
    versions stored up to now, unless the caller knows the `generation` to delete.
    """
    latest = versions.highest(replicas)
    if latest is None and not any(replica.stat or replica.damaged for replica in replicas):
        return None
    known = latest.generation if latest else 0
    if generation is None and not targets.is_quorum(records.clear_answers(replicas)):
        known = max(known, int(clock.now() * 1000))
    return Tombstone(key, known, versions.utc_now())


async def _delete_replica(
    replica: ReplicaState, key: str, tombstone: Tombstone | None, stored: _Stored | None
) -> FsbackupError | None:
    """Delete from one replica; with `stored` write a tombstone first, and add it to `stored`."""
    if replica.error is not None:
        return replica.error
    started = asyncio.get_running_loop().time()
    try:
        if tombstone is not None:
            async with locks.exclusive(replica.store, key), intents.announced(replica.store, tombstone):
                await _remove(await _announce(replica, tombstone, stored), tombstone)
                breaker.record(replica.store, None, writing=True)
    except FsbackupError as error:
        breaker.record(replica.store, error, _seconds_since(started), writing=True)
        return error
    return None


async def _delete_on(
    store: ObjectStore, todo: dict[str, _Deletion], stored: _Stored | None
) -> dict[str, FsbackupError | None]:
    """Do what `_delete_replica` does for many keys of one store."""
    if not store.capabilities.removes_many:

        async def delete_one(key: str) -> FsbackupError | None:
            replica, tombstone = todo[key]
            return await _delete_replica(replica, key, tombstone, stored)

        return dict(zip(todo, await map_some(delete_one, todo, _AT_ONCE), strict=True))
    async with locks.exclusive_all(store, todo):
        return await _delete_data_together(store, todo, stored)


async def _delete_data_together(
    store: ObjectStore, todo: dict[str, _Deletion], stored: _Stored | None
) -> dict[str, FsbackupError | None]:
    errors: dict[str, FsbackupError | None] = {key: replica.error for key, (replica, _) in todo.items()}
    found: dict[str, ReplicaState] = {}
    names: dict[str, str] = {}

    async def announce(tombstone: Tombstone) -> None:
        try:
            found[tombstone.key] = await _announce(todo[tombstone.key][0], tombstone, stored)
        except FsbackupError as error:
            errors[tombstone.key] = error

    async def find_manifest(tombstone: Tombstone) -> None:
        try:
            if (name := await _manifest_left(found[tombstone.key], tombstone)) is not None:
                names[tombstone.key] = name
        except FsbackupError as error:
            errors[tombstone.key] = error

    given = [each for _, each in todo.values() if each is not None]
    await map_some(announce, [each for each in given if not errors[each.key]], _AT_ONCE)
    stats = {key: replica.stat for key, replica in found.items() if replica.stat is not None}
    errors |= dict(zip(stats, await store.remove_many(list(stats.values())), strict=True))
    await map_some(find_manifest, [each for each in given if not errors[each.key]], _AT_ONCE)
    return errors | dict(zip(names, await store.remove_many(list(names.values())), strict=True))


async def _announce(replica: ReplicaState, tombstone: Tombstone, stored: _Stored | None) -> ReplicaState:
    """Write the tombstone, and return what the replica has now, which is to be removed."""
    store, key = replica.store, tombstone.key
    if stored is None:
        return replica
    if not records.has_records_inside(store):
        await _require_not_newer(store, key, tombstone)
    stored[store.name][key] = await tombstones.write(store, tombstone)
    if store.capabilities.removes_versions and replica.stat is not None:
        return replica
    now = await _require_not_newer(store, key, tombstone, announced=True)
    if now.stat != replica.stat and now.record is None and not records.has_records_inside(store):
        # Data stored since the survey; its record may have been stored since that was read.
        now = await _require_not_newer(store, key, tombstone, announced=True)
    return now


async def _remove(replica: ReplicaState, tombstone: Tombstone) -> None:
    """Remove the data of the deleted version, and the manifest that was an object of its own.

    Also where the survey found no data: a repair may have written it since, until it sees the tombstone.
    """
    if replica.stat is not None:
        await replica.store.remove_version(replica.stat)
    if (name := await _manifest_left(replica, tombstone)) is not None:
        await replica.store.remove(name)


async def _manifest_left(replica: ReplicaState, tombstone: Tombstone) -> str | None:
    """Return the name of the manifest that is left once the data of `replica` is removed, or None.

    Raises
    ------
    ConflictError
        When it is, or is about to be, the manifest of a newer version.
    """
    if records.has_records_inside(replica.store):
        return replica.record_object
    now = await _require_not_newer(replica.store, tombstone.key, tombstone, announced=True)
    return manifest_name(tombstone.key) if now.record is not None or now.damaged else None


async def _require_not_newer(
    store: ObjectStore, key: str, tombstone: Tombstone, *, announced: bool = False
) -> ReplicaState:
    """Return what the replica has now, without the tombstone if that is `announced`; under the lock of the key.

    Raises
    ------
    ConflictError
        When it has a newer version than the tombstone deletes, or one is being stored.
    """
    read = records.read_version if announced else records.read_state
    found = await intents.find(store, key)  # before the records: see there
    replica = await read(store, key)
    latest = replica.record
    if latest is not None and version_order(latest) > version_order(tombstone):
        raise _superseded(store, key)
    if intents.outranks(intents.counting(intents.known(found), replica), tombstone.generation):
        raise _superseded(store, key)
    return replica


async def complete(replica: ReplicaState, tombstone: Tombstone) -> None:
    """Complete on one replica a delete that it missed: write the tombstone, then remove the data.

    Raises
    ------
    ConflictError
        When another writer has stored a newer version there, or is storing one.
    BackendError
        As the store raised it.
    """
    store, key = replica.store, tombstone.key
    async with locks.exclusive(store, key), intents.announced(store, tombstone):
        now = await _require_not_newer(store, key, tombstone)
        if now.tombstone != tombstone:
            await tombstones.write(store, tombstone)
        await _remove(await _require_not_newer(store, key, tombstone, announced=True), tombstone)


async def remove_tombstone(store: ObjectStore, key: str, tombstone: Tombstone) -> None:
    """Remove the tombstone from one replica, after every replica has confirmed the delete.

    Before it, remove a manifest that the delete left without data.

    Raises
    ------
    ConflictError
        When there is data, a write intent, a newer manifest or a newer tombstone by now.
    BackendError
        As the store raised it.
    """
    async with locks.exclusive(store, key), intents.announced(store, tombstone) as announced:
        found = await intents.listed(store, key, announced)
        (own, _), replica = await asyncio.gather(
            tombstones.find(store, key, since=None), _require_not_newer(store, key, tombstone, announced=True)
        )
        if replica.stat is not None or found or (own and own.generation > tombstone.generation):
            raise _superseded(store, key)
        if replica.record is not None:
            await records.remove_record(store, key)
        if own is not None:
            await tombstones.remove(store, key)


def _superseded(store: ObjectStore, key: str) -> ConflictError:
    return ConflictError(
        "stored again by another writer during the delete; the newer version was kept",
        backend=store.name,
        operation="delete",
        key=key,
        hint="run repair again when the other writer has finished",
    )


async def _remove_own_tombstones(targets: ReplicaSet, done: Sequence[Tombstone], stored: _Stored) -> None:
    """Remove the tombstones, and intents of the deleted versions, unless a repair is running.

    Failures are only logged: a later repair removes what is left.
    """
    if not done or not any(stored.values()) or await _is_repaired(targets.stores):
        return

    async def remove_from(store: ObjectStore) -> None:
        if store.capabilities.removes_many:
            await _remove_unchanged(store, done, stored[store.name])
        else:
            await map_some(lambda each: _remove_own_tombstone(store, each), done, _AT_ONCE)

    await asyncio.gather(*map(remove_from, targets.stores))


async def _is_repaired(stores: Sequence[ObjectStore]) -> bool:
    """Return whether a repair may be running, which needs the tombstones."""
    try:
        return await repairs.at_work(stores)
    except FsbackupError as error:
        _log_leftover(error)
        return True


async def _remove_unchanged(
    store: ObjectStore, done: Sequence[Tombstone], stored: Mapping[str, ObjectStat]
) -> None:
    """Remove those of the `stored` tombstones that are unchanged, which the store checks itself."""
    left: list[str] = []

    async def find_intents(tombstone: Tombstone) -> None:
        left.extend(await _intents_of_deleted(store, tombstone))

    async with locks.exclusive_all(store, [each.key for each in done]):
        try:
            if not records.has_records_inside(store):
                await map_some(find_intents, done, _AT_ONCE)
        except FsbackupError as error:
            _log_leftover(error)
        own = {each.key: stored[each.key] for each in done if each.key in stored}
        results = await store.remove_many([*own.values(), *left])
        for key, failure in zip_longest(own, results):
            if failure is not None:
                _log_leftover(failure)
            elif key is not None:
                tombstones.removed(store, key)


async def _remove_own_tombstone(store: ObjectStore, tombstone: Tombstone) -> None:
    key = tombstone.key
    try:
        async with locks.exclusive(store, key):
            (own, _), left = await asyncio.gather(
                tombstones.find(store, key, since=None), _intents_of_deleted(store, tombstone)
            )
            for name in left:
                await store.remove(name)
            if own == tombstone:
                await tombstones.remove(store, key)
    except FsbackupError as error:
        _log_leftover(error)


async def _intents_of_deleted(store: ObjectStore, tombstone: Tombstone) -> list[str]:
    """Return the names of the write intents of the version that was deleted, and of unreadable ones."""
    found = await intents.find(store, tombstone.key)
    return [each.name for each in found if intents.is_of_deleted(store, each, tombstone.generation)]


def _log_leftover(error: FsbackupError) -> None:
    log.warning("tombstone was not removed (harmless, repair removes it): %s", error)
