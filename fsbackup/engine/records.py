"""The records of one key in one store, and what the store has of the key; tombstones are in `tombstones.py`.

Where the manifest of an object is depends on the store:

*inside* (`has_records_inside`)
    In the metadata of the data object (`encode_key`), field `RECORD_FIELD`: the manifest itself, or where that is
    too long, and for objects of several parts, the id under which it lies as an object of its own (`record_name`).
    Every upload and copy has an id of its own. Data and manifest are stored by one request and cannot disagree,
    also with concurrent writers.
*beside*
    Under `manifest_name`. Before a replacement its writer stores a write intent (`intents.py`).

A tombstone lies beside both, on every store; of a tombstone and a manifest, the one of the higher version counts.
`query` reads records and data into a `ReplicaState`, without raising; `survey.py` does so on all stores
concurrently. `replica_upload` and `delete` say in which order uploads and deletes write.

No function here reads a record that a newer version of fsbackup wrote: each raises `NewerFormatError`, so that
nothing is written over it, and a `ReplicaState` has it as its `error`. Where one replica has such a record, the
key is changed on none (`refusal`).
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import re
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from types import MappingProxyType
from typing import Literal

from fsbackup import errors
from fsbackup.engine import breaker, marker, record_objects, tombstones
from fsbackup.engine.beginning import Beginning
from fsbackup.errors import (
    AccessDeniedError,
    BackendError,
    FsbackupError,
    IntegrityError,
    NewerFormatError,
    NoHealthyReplicaError,
    ObjectNotFoundError,
    WrongBackendError,
)
from fsbackup.keys import (
    ShortenedName,
    encode_key,
    intents_of,
    manifest_name,
    record_name,
    tombstone_name,
)
from fsbackup.record import Manifest, Record, Tombstone, dump, load, version_order
from fsbackup.stores.base import RECORD_FIELD, ObjectStat, ObjectStore

log = logging.getLogger("fsbackup.storage")

_ID = _MD5 = re.compile(r"[0-9a-f]{32}")
#: Bytes of user metadata that are left for other fields (see `fanout.object_metadata`).
_OTHER_METADATA = 256
#: Characters that each block takes of a record.
_BLOCK_TEXT = 42
#: Seconds for removing the record of an upload that failed.
_CLEAR_TIMEOUT = 5.0
#: Attempts to read an object whose manifest a replacement removed before it could be read.
_READS = 3

#: Identifiers generated at once: the system call may switch to another thread, and take as long as that one runs.
#: A forked child generates its own.
_DRAWN = 32
_new_ids: list[str] = []
os.register_at_fork(after_in_child=_new_ids.clear)

#: What one replica has of an object, next to what the others have; decided by `fsbackup.replication.classify`.
CopyState = Literal[
    "present",  # the newest version, as far as was checked
    "missing",  # nothing, though another replica has the object
    "stale",  # an older version: the replica missed a replacement
    "conflict",  # other content than the newest version, under the same generation
    "unconfirmed",  # a newer version, or a delete, that too few replicas have: refused, unfinished or under way
    "size differs",  # data of another size than its manifest says
    "damaged",  # data that is not what its manifest says, or a manifest that fails its checksum
    "no manifest",  # data that nothing proves
    "deleted elsewhere",  # data of a deleted object: the replica missed the delete
    "expired",  # nothing, because the backend's own retention deleted it
    "newer",  # a record that a newer version of fsbackup wrote: nothing of the object is changed
    "unknown",  # the replica did not answer, or was not classified yet
]


@dataclass(frozen=True, slots=True)
class ReplicaState:
    """What one replica has of one object: its record, its data, and how both compare with the other replicas.

    Two states of a replica are equal when it has not changed in between: `state` and `detail`, which depend on
    others, are not compared.

    Parameters
    ----------
    store
        The replica's store.
    record
        Its manifest or tombstone; None when it has none, when it is damaged, or when it was not read.
    damaged
        Its record is unreadable, fails its checksum, belongs to another key, or is not there (`lacks_record`).
    stat
        Its data object; None when the store answers that there is none.
    record_object
        The name of the object that has its manifest, where the data object has only the id.
    tombstone
        Its tombstone, also when the record is a manifest of a newer version.
    error
        Why the store did not answer, or that its record is a newer version's (`is_newer`); the other fields are
        unknown then.
    from_listing
        The store has nothing according to a listing, which may be minutes old when the object is written.
    state
        Set by `fsbackup.replication.classify`; ``"unknown"`` before.
    detail
        What is wrong, for people; empty where `state` says it all.
    """

    store: ObjectStore
    record: Record | None = None
    damaged: bool = False
    stat: ObjectStat | None = None
    record_object: str | None = None
    tombstone: Tombstone | None = None
    error: FsbackupError | None = None
    from_listing: bool = False
    state: CopyState = field(default="unknown", compare=False)
    detail: str = field(default="", compare=False)

    @property
    def backend(self) -> str:
        """The name of the replica's backend."""
        return self.store.name

    @property
    def manifest(self) -> Manifest | None:
        """The record if it is a manifest."""
        return self.record if isinstance(self.record, Manifest) else None

    @property
    def is_newer(self) -> bool:
        """Whether a newer version of fsbackup wrote its record."""
        return isinstance(self.error, NewerFormatError)

    @property
    def is_empty(self) -> bool:
        """Whether the replica answered that it has neither data nor a record."""
        return self.stat is None and self.record is None and not self.damaged and self.error is None

    @property
    def is_intact(self) -> bool:
        """Whether size and ETag of the data match the store's own manifest; the bytes are not read."""
        return self.manifest is not None and self.holds(self.manifest)

    @property
    def lacks_record(self) -> bool:
        """Whether its data object has the id of a manifest, and the manifest with this id is missing."""
        record_id = "" if self.stat is None else self.stat.metadata.get(RECORD_FIELD, "")
        return self.damaged and self.record_object is None and _ID.fullmatch(record_id) is not None

    def claims(self, manifest: Manifest) -> bool:
        """Return whether the store's own manifest names the content of `manifest`."""
        own = self.manifest
        return own is not None and (own.sha256, own.size) == (manifest.sha256, manifest.size)

    def holds(self, manifest: Manifest) -> bool:
        """Return whether the store `claims` the content of `manifest`, and size and ETag of its data match."""
        own = self.manifest
        if own is None or self.stat is None or not self.claims(manifest):
            return False
        known = own.etag is not None and self.stat.etag is not None
        return self.stat.size == own.size and (not known or own.etag == self.stat.etag)


def clear_answers(replicas: Iterable[ReplicaState]) -> list[str]:
    """Return the names of the stores that answered, with a valid record or none."""
    return [each.store.name for each in replicas if each.error is None and not each.damaged]


def errors_of(replicas: Iterable[ReplicaState]) -> dict[str, FsbackupError]:
    """Return why a replica did not answer, by name."""
    return {each.backend: each.error for each in replicas if each.error is not None}


def unproven_absence(replicas: Sequence[ReplicaState], operation: str, key: str) -> NoHealthyReplicaError:
    """Return the error for a key that none of the replicas that answered has, but another one may have."""
    answered = [each.backend for each in replicas if each.error is None]
    return errors.unproven_absence(errors_of(replicas), answered, operation=operation, key=key)


async def query(
    store: ObjectStore,
    key: str,
    *,
    with_data: bool = True,
    insist: bool = False,
    since: float | None = -math.inf,
    beginning: Beginning | None = None,
    seen: Mapping[str, Manifest] = MappingProxyType({}),
) -> ReplicaState:
    """Return the state of `key` in `store`: its record, and with `with_data` its data object. Never raises.

    A store that is known to be away is asked only with `insist` (see `breaker`). The absence of a tombstone may be
    known from some seconds ago (see `tombstones`), but not from before `since`; None always asks. The first bytes
    may be read along (`beginning`). A manifest that is an object of its own, and was read a short while ago, is in
    `seen` by the name of that object: no other manifest ever has this name.
    """

    async def read() -> ReplicaState:
        begun = None if since is None else max(since, tombstones.recently())
        return await read_state(store, key, with_data=with_data, since=begun, beginning=beginning, seen=seen)

    return await state_or_error(store, key, read, insist=insist)


async def state_or_error(
    store: ObjectStore,
    key: str,
    read: Callable[[], Awaitable[ReplicaState]],
    *,
    operation: str = "stat",
    insist: bool = False,
) -> ReplicaState:
    """Await `read`; return a state with the error when it fails or takes longer than `store.hard_timeout`.

    A state that has nothing counts only if the backend is the right one (see `marker`).
    """
    try:
        replica = await breaker.call(store, read, operation=operation, key=key, insist=insist)
        await marker.check(store, empty=replica.is_empty)
    except FsbackupError as error:
        if isinstance(error, WrongBackendError):
            breaker.record(store, error)
        return ReplicaState(store, error=error)
    return replica


async def with_doubts(replicas: Sequence[ReplicaState], key: str) -> list[ReplicaState]:
    """Return the states, with an error in those whose emptiness does not prove absence (see `marker`)."""
    doubts = await marker.doubts([each.store for each in replicas if each.is_empty], key)
    return [replace(each, error=doubts.get(each.store.name, each.error)) for each in replicas]


async def read_state(
    store: ObjectStore,
    key: str,
    *,
    with_data: bool = True,
    since: float | None = None,
    beginning: Beginning | None = None,
    seen: Mapping[str, Manifest] = MappingProxyType({}),
) -> ReplicaState:
    """Read the records and, with `with_data`, stat the data object, concurrently; raises what the store raises.

    `since` is as for `tombstones.find`: by default the tombstone is read. `seen` is as for `query`.
    """
    reads_data = with_data or has_records_inside(store)
    version = read_version(store, key, beginning, seen) if reads_data else _read_manifest(store, key)
    if since is not None and tombstones.is_absent(store, key, since=since):
        return await version
    replica, found = await asyncio.gather(
        version, tombstones.find(store, key, since=since), return_exceptions=True
    )
    if isinstance(replica, BaseException):
        raise replica
    if isinstance(found, AccessDeniedError) and replica.stat is not None:
        # A service gives the same answer for a missing name and a missing bucket. Credentials that may only read
        # objects cannot tell them apart until the data has been found.
        found = await tombstones.find(store, key, since=since)
    if isinstance(found, BaseException):
        raise found
    return with_tombstone(replica, *found)


def with_tombstone(replica: ReplicaState, tombstone: Tombstone | None, damaged: bool = False) -> ReplicaState:
    """Return the state with its tombstone: the record of the higher version counts.

    A damaged tombstone is ignored where there is a manifest.
    """
    if tombstone is None:
        return replace(replica, damaged=True) if damaged and replica.is_empty else replica
    latest = max((each for each in (replica.record, tombstone) if each), key=version_order)
    return replace(replica, record=latest, tombstone=tombstone)


async def add_tombstone(replica: ReplicaState, key: str, since: float) -> ReplicaState:
    """Return the state with the tombstone that the store has, as known at `since` or later."""
    return with_tombstone(replica, *await tombstones.find(replica.store, key, since=since))


async def _read_manifest(store: ObjectStore, key: str) -> ReplicaState:
    return ReplicaState(store, *await read_record(store, key))


async def read_version(
    store: ObjectStore,
    key: str,
    beginning: Beginning | None = None,
    seen: Mapping[str, Manifest] = MappingProxyType({}),
) -> ReplicaState:
    """As `read_state`, but without a tombstone."""
    if not has_records_inside(store):
        (record, damaged), stat = await asyncio.gather(read_record(store, key), store.stat(encode_key(key)))
        return ReplicaState(store, record, damaged, stat)
    stat = await (store.stat(encode_key(key)) if beginning is None else beginning.stat())
    if stat is None:
        return ReplicaState(store)
    replica = await read_inside_record(store, key, stat, seen)
    if replica.record is None and not replica.damaged and (await read_record(store, key))[0] is not None:
        raise _beside_error(store, key)
    return replica


async def as_listed(store: ObjectStore, key: str, listed: ObjectStat, other: ObjectStat) -> ReplicaState | None:
    """Return the state of data that a listing has just shown to be equal to that of another store.

    Its manifest is the one inside the `other`. None where the ETags do not show that the bytes are equal.
    """
    text = other.metadata.get(RECORD_FIELD, "")
    is_same = (listed.etag, listed.size) == (other.etag, other.size) and _MD5.fullmatch(other.etag or "")
    if not is_same or store.capabilities.content_etags == "none" or not text.startswith("{"):
        return None
    return await add_tombstone(_checked_inside(store, key, listed, text.encode()), key, tombstones.recently())


async def read_inside_record(
    store: ObjectStore, key: str, stat: ObjectStat, seen: Mapping[str, Manifest] = MappingProxyType({})
) -> ReplicaState:
    """Return the state of a data object whose metadata has its manifest, or the id of its manifest.

    If there is no manifest behind the id, the object may have been replaced since `stat`, so it is read again.
    """
    for _ in range(_READS):
        text = stat.metadata.get(RECORD_FIELD)
        if text is None:
            return ReplicaState(store, stat=stat)
        if text.startswith("{"):
            return _checked_inside(store, key, stat, text.encode())
        if not _ID.fullmatch(text):
            break
        name = record_name(key, text)
        if name in seen:
            return ReplicaState(store, seen[name], stat=stat, record_object=name)
        try:
            replica = _checked_inside(store, key, stat, await store.read(name))
        except ObjectNotFoundError:
            replica = None
        if replica is not None and not replica.damaged:
            return replace(replica, record_object=name)
        now = await store.stat(encode_key(key))
        if now is None:
            return ReplicaState(store)
        if now.metadata.get(RECORD_FIELD) == text:
            return ReplicaState(store, damaged=True, stat=now, record_object=name if replica else None)
        stat = now
    return ReplicaState(store, damaged=True, stat=stat)


def _checked_inside(store: ObjectStore, key: str, stat: ObjectStat, data: bytes) -> ReplicaState:
    """Return the state with the manifest in `data`; damaged if that is of another key, as after a copy."""
    try:
        manifest = record_objects.load_record(store, key, data)
    except IntegrityError:
        manifest = None
    if not isinstance(manifest, Manifest) or manifest.key != key:
        return ReplicaState(store, damaged=True, stat=stat)
    return ReplicaState(store, manifest.for_replica(None, None), stat=stat)


def _beside_error(store: ObjectStore, key: str) -> BackendError:
    return BackendError(
        "the manifest lies beside the object, as an earlier version of fsbackup stored it",
        backend=store.name,
        operation="stat",
        key=key,
        hint="set `records: beside` on this backend",
    )


def new_id() -> str:
    """Return a random identifier, of a write or of a manifest that is an object of its own."""
    try:
        return _new_ids.pop()
    except IndexError:
        drawn = secrets.token_hex(16 * _DRAWN)
        _new_ids.extend(drawn[at : at + 32] for at in range(32, len(drawn), 32))
        return drawn[:32]


def has_records_inside(store: ObjectStore) -> bool:
    """Return whether the manifest of an object is in the metadata of its data object, and replaced with it."""
    return store.capabilities.metadata_limit > 0


def inside_metadata(
    store: ObjectStore, manifest: Manifest, others: Mapping[str, str] = MappingProxyType({})
) -> dict[str, str] | None:
    """Return the metadata with which a data object of one part carries `manifest`, beside `others` that it has.

    None when that is too long for `store`, and for an object of several parts, whose metadata is sent first.
    """
    if manifest.size > manifest.part_size:
        return None
    taken = sum(len(name) + len(value.encode("utf-8", "surrogateescape")) for name, value in others.items())
    most = store.capabilities.metadata_limit - max(_OTHER_METADATA, taken)
    if len(manifest.blocks) * _BLOCK_TEXT > most:
        return None
    text = _inside_text(manifest.for_replica(None, None))
    return {RECORD_FIELD: text} if len(text) <= most else None


@lru_cache(maxsize=64)  # all replicas with records inside have the same text
def _inside_text(manifest: Manifest) -> str:
    return dump(manifest).decode()


async def write_record_object(
    store: ObjectStore, manifest: Manifest, record_id: str, upload_id: str | None = None
) -> None:
    """Store `manifest` as an object of its own, which a data object names by `record_id`.

    It names the unfinished upload whose note it replaces, because a crash may still leave that upload.
    """
    await store.put(record_name(manifest.key, record_id), dump(manifest.for_replica(None, None, upload_id)))


async def describe_data(store: ObjectStore, stat: ObjectStat, manifest: Manifest) -> ObjectStat:
    """Store `manifest`, which was found to be right, for a data object without a valid one.

    Raises
    ------
    ConflictError
        When the object was replaced since `stat`.
    """
    others = {name: value for name, value in stat.metadata.items() if name != RECORD_FIELD}
    metadata = inside_metadata(store, manifest, others)
    if metadata is None:
        record_id = new_id()
        await write_record_object(store, manifest, record_id)
        metadata = {RECORD_FIELD: record_id}
    stored = await store.replace_metadata(stat, {**others, **metadata})
    before = stat.metadata.get(RECORD_FIELD, "")
    if _ID.fullmatch(before):
        await store.remove(record_name(manifest.key, before))
    return stored


async def read_record(store: ObjectStore, key: str) -> tuple[Manifest | None, bool]:
    """Return the valid manifest beside the object, or None, and whether there is a damaged one."""
    return await record_objects.read(store, key, manifest_name(key), Manifest)


async def find_key(stores: Iterable[ObjectStore], name: str) -> str:
    """Return the key that a listed name stands for: for a `ShortenedName` the one in the first readable record.

    Where no record tells it, the name itself.
    """
    if not isinstance(name, ShortenedName):
        return name
    for store in stores:
        try:
            async with asyncio.timeout(store.hard_timeout):
                key = await _recorded_key(store, name)
        except (FsbackupError, TimeoutError):  # an unreadable record; listings report a store that is away
            continue
        if encode_key(key) == name:
            return key
    return name


async def _recorded_key(store: ObjectStore, name: ShortenedName) -> str:
    stat = await store.stat(name) if has_records_inside(store) else None
    text = "" if stat is None else stat.metadata.get(RECORD_FIELD, "")
    if text.startswith("{"):
        return load(text.encode()).key
    beside = [] if text or has_records_inside(store) else await _beside_names(store, name)
    for place in [record_name(name, text)] if text else [*beside, tombstone_name(name)]:
        try:
            return load(await store.read(place)).key
        except ObjectNotFoundError:
            continue
    raise ObjectNotFoundError("it has no record", backend=store.name, key=name)


async def _beside_names(store: ObjectStore, name: ShortenedName) -> list[str]:
    return [manifest_name(name), *[each.name async for each in store.list(intents_of(name))]]


def refusal(replicas: Iterable[ReplicaState], operation: str) -> NewerFormatError | None:
    """Return the error for an operation on a key where a newer fsbackup wrote the record of a replica, else None.

    No replica of the key is changed: a change on the others would make a version that does not know of the newer
    fsbackup's, and that would outrank it or be lost.
    """
    error = next((each.error for each in replicas if isinstance(each.error, NewerFormatError)), None)
    if error is None:
        return None
    return error.of(operation, error.key)


async def write_record(store: ObjectStore, record: Record, *, create_only: bool = False) -> None:
    """Store `record` as the manifest of its key."""
    await store.put(manifest_name(record.key), dump(record), create_only=create_only)


async def remove_record(store: ObjectStore, key: str) -> None:
    """Remove the manifest beside the object `key`."""
    await store.remove(manifest_name(key))


async def remove_manifest(replica: ReplicaState, key: str) -> None:
    """Remove the manifest of data that has been removed; one inside the data is gone already."""
    if replica.record_object is not None:
        await replica.store.remove(replica.record_object)
    elif not has_records_inside(replica.store):
        await remove_record(replica.store, key)


async def clear_unused(store: ObjectStore, key: str, record_id: str) -> None:
    """Remove the manifest `record_id` of `key` unless the data names it; a failure is only logged."""
    try:
        async with asyncio.timeout(min(_CLEAR_TIMEOUT, store.timeout)):
            stat = await store.stat(encode_key(key))
            if stat is None or stat.metadata.get(RECORD_FIELD) != record_id:
                await store.remove(record_name(key, record_id))
    except (FsbackupError, TimeoutError) as error:
        log.info("%s: the record of an upload that failed may stay until a repair: %s", store.name, error)


async def clear_replaced(replica: ReplicaState, manifest: Manifest) -> None:
    """Remove what nothing points to any more of `replica`, the state before `manifest` was stored.

    That is the manifest of the previous version, where it was an object of its own, and the tombstone of an older
    version. A failure is only logged: repair removes them.
    """
    store, old = replica.store, replica.record_object
    try:
        if old is not None:
            await store.remove(old)
        if replica.tombstone is not None:
            tombstone, _ = await tombstones.find(store, manifest.key, since=None)
            if tombstone is not None and tombstone.generation < manifest.generation:
                await tombstones.remove(store, manifest.key)
    except FsbackupError as error:
        log.warning("a record of an older version was not removed (harmless, repair removes it): %s", error)
