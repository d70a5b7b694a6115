"""Manifests, tombstones and announced replacements, as they lie in one store."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Literal

from fsbackup.errors import (
    BackendUnavailableError,
    FsbackupError,
    IntegrityError,
    ObjectNotFoundError,
)
from fsbackup.keys import encode_key, intent_name, manifest_name
from fsbackup.record import Manifest, Record, dump, load
from fsbackup.stores.base import ObjectStat, ObjectStore, timeout_error

log = logging.getLogger("fsbackup.storage")

#: Seconds that the other stores get to answer a reader once one has shown a manifest (or thrice its time).
STRAGGLER_TIMEOUT = 2.0


#: What one replica has of an object, next to what the others have; decided by `fsbackup.replication.classify`.
CopyState = Literal[
    "present",  # the newest version, as far as was checked
    "missing",  # nothing, though another replica has the object
    "stale",  # an older version: the replica missed a replacement
    "conflict",  # one of two contents under one generation
    "size differs",  # data of another size than its manifest says
    "damaged",  # data that is not what its manifest says, or a manifest that fails its checksum
    "no manifest",  # data that nothing proves
    "deleted elsewhere",  # data of a deleted object: the replica missed the delete
    "expired",  # nothing, because the backend's own retention deleted it
    "unknown",  # the replica did not answer, or was not classified yet
]


@dataclass(frozen=True, slots=True)
class ReplicaState:
    """What one replica has of one object: its record, its data, and how both compare with the other replicas.

    Two are equal when the replica has not changed in between: `state` and `detail`, which depend on others, do not
    count.

    Parameters
    ----------
    store
        The replica's store.
    record
        Its manifest or tombstone; None when it has none, when it is damaged, or when it was not read.
    damaged
        A record is there, but fails its checksum or belongs to another key.
    stat
        Its data object, None when there is none.
    error
        Why the replica did not answer; then nothing else is known.
    listed
        Nothing is there by a listing, which may be minutes old by the time the object is written.
    state
        Set by `fsbackup.replication.classify`; ``"unknown"`` before.
    detail
        What is wrong, for people; empty where `state` says it all.
    """

    store: ObjectStore
    record: Record | None = None
    damaged: bool = False
    stat: ObjectStat | None = None
    error: FsbackupError | None = None
    listed: bool = False
    state: CopyState = field(default="unknown", compare=False)
    detail: str = field(default="", compare=False)

    @property
    def backend(self) -> str:
        """The name of the replica's backend."""
        return self.store.name

    @property
    def manifest(self) -> Manifest | None:
        """The record when it is a manifest."""
        return self.record if isinstance(self.record, Manifest) else None

    @property
    def is_intact(self) -> bool:
        """Its data is what its own manifest says, as far as a look can tell."""
        return self.manifest is not None and self.holds(self.manifest)

    def claims(self, manifest: Manifest) -> bool:
        """Tell whether this store's own record says that it has the content of `manifest`."""
        own = self.manifest
        return own is not None and (own.sha256, own.size) == (manifest.sha256, manifest.size)

    def holds(self, manifest: Manifest) -> bool:
        """Tell whether this store has the content of `manifest`: its own record says so, and the data fits it."""
        own = self.manifest
        if own is None or self.stat is None or not self.claims(manifest):
            return False
        known = own.etag is not None and self.stat.etag is not None
        return self.stat.size == own.size and (not known or own.etag == self.stat.etag)


#: Asks one store what it knows of a key; an outage is in what it returns.
Ask = Callable[[ObjectStore, str], Coroutine[Any, Any, ReplicaState]]


async def survey(stores: tuple[ObjectStore, ...], key: str) -> list[ReplicaState]:
    """Ask all stores at once what they know of `key`; each answers or fails for itself."""
    return list(await asyncio.gather(*(query(store, key) for store in stores)))


async def survey_without_stragglers(stores: tuple[ObjectStore, ...], key: str, ask: Ask) -> list[ReplicaState]:
    """Ask all stores, but do not let a slow one hold up a reader once another has shown a manifest."""
    clock = asyncio.get_running_loop().time
    started = clock()
    asked = {asyncio.create_task(ask(store, key)): store for store in stores}
    waiting, rest = set(asked), None
    while waiting:
        done, waiting = await asyncio.wait(waiting, timeout=rest, return_when=asyncio.FIRST_COMPLETED)
        if rest is not None and not done:
            break
        if any(task.result().manifest for task in asked if task.done()):
            rest = max(STRAGGLER_TIMEOUT, 3 * (clock() - started)) if rest is None else rest
    for task in waiting:
        task.cancel()
    if waiting:
        await asyncio.wait(waiting)
    return [
        ReplicaState(store, error=straggler_error(store, key)) if task.cancelled() else task.result()
        for task, store in asked.items()
    ]


def straggler_error(store: ObjectStore, key: str) -> BackendUnavailableError:
    """Return the error for a store that a reader did not wait for any longer."""
    return BackendUnavailableError(
        "did not answer in time, and another replica did",
        backend=store.name,
        operation="stat",
        key=key,
        hint=f"check {store.location}",
    )


async def query(store: ObjectStore, key: str, *, with_data: bool = True) -> ReplicaState:
    """Ask one store what it knows of `key`: its manifest, and with `with_stat` its data object."""

    try:
        async with asyncio.timeout(store.hard_timeout):
            if with_data:
                return await read_state(store, key)
            return ReplicaState(store, *await read_record(store, manifest_name(key)))
    except FsbackupError as error:
        return ReplicaState(store, error=error)
    except TimeoutError:
        return ReplicaState(store, error=timeout_error(store, "stat", key))


async def read_state(store: ObjectStore, key: str) -> ReplicaState:
    """Read one store's manifest and stat its data object at once; raises what the store raises."""
    (record, damaged), stat = await asyncio.gather(
        read_record(store, manifest_name(key)), store.stat(encode_key(key))
    )
    return ReplicaState(store, record, damaged, stat)


async def read_record(store: ObjectStore, name: str) -> tuple[Record | None, bool]:
    """Return the record stored under `name` (None: there is none), and whether one is there but damaged.

    A record of another key, put there by a hand that mixed files up, counts as damaged.
    """
    try:
        record = load(await store.read(name))
    except ObjectNotFoundError:
        return None, False
    except IntegrityError:
        return None, True
    misplaced = name not in (manifest_name(record.key), intent_name(record.key))
    return (None, True) if misplaced else (record, False)


async def write_record(store: ObjectStore, record: Record, *, create_only: bool = False) -> None:
    """Store `record` as the manifest of its key."""
    await store.put(manifest_name(record.key), dump(record), create_only=create_only)


async def remove_record(store: ObjectStore, key: str) -> None:
    """Remove the manifest or tombstone of `key`."""
    await store.remove(manifest_name(key))


async def write_intent(store: ObjectStore, manifest: Manifest) -> None:
    """Say, before the data changes, what it changes to.

    Between a replacement's data and its manifest the old manifest no longer fits the data. A reader that
    finds so looks here, and can prove the new version; a crash in between loses neither.
    """
    await store.put(intent_name(manifest.key), dump(manifest))


async def clear_intent(store: ObjectStore, manifest: Manifest) -> None:
    """Remove the announcement of `manifest` once the manifest says the same; another writer's stays.

    A failure is only logged: the object is stored and proven, and the next replacement or repair clears it.
    """
    try:
        found = await read_intent(store, manifest.key)
        if found is not None and found.sha256 == manifest.sha256:
            await store.remove(intent_name(manifest.key))
    except FsbackupError as error:
        log.warning("an announcement stays behind, which does no harm: %s", error)


async def read_intent(store: ObjectStore, key: str) -> Manifest | None:
    """Return the replacement that was announced but not finished, if any."""
    return (await find_intent(store, key))[0]


async def find_intent(store: ObjectStore, key: str) -> tuple[Manifest | None, bool]:
    """Return the announced replacement, and whether there is an announcement at all, readable or not."""
    record, damaged = await read_record(store, intent_name(key))
    return (record if isinstance(record, Manifest) else None), damaged or record is not None
