"""One replica's side of an upload: sending the parts, and the commit protocol.

`FanOut` makes one `ReplicaUpload` per replica and calls `run`. The parts go to the store's writer, which shows
nothing before its `commit`. What follows when the source has been read to its end depends on where the store has
its manifests (see `records.py`).

Inside the data object, `_commit_inside`:

1. The manifest as an object of its own, where it is too long for the metadata, or the object has several parts.
2. `writer.commit`: data and manifest (or the id that leads to it), in one atomic step, create-only where
   nothing was there.
3. Compare, unless the store refused in step 2 to replace another object than the one that the upload knew of.
4. When `min_copies` replicas have confirmed: remove what the version before left (`records.clear_replaced`).

A crash leaves the old or the new version, proven, and before step 2 perhaps a manifest that nothing points to,
which `repair` clears.

Beside it, `_commit_beside`:

====  =====================================================  ======================================================
step  creates an object                                      replaces an object, or stores one after a delete
====  =====================================================  ======================================================
1     -                                                      write intent: the new manifest under the intent's name
2     `writer.commit`: the data, in one atomic step          the same
3     manifest, create-only where the store can refuse       manifest, over the old manifest
4     compare, unless the store refuses in step 3            compare
5     -                                                      clear the intent, unless a delete may be under way
6     -                                                      when `min_copies` have confirmed: remove the tombstone
====  =====================================================  ======================================================

*Compare* reads manifest and data back. When another writer's content is there, the upload raises `ConflictError`,
and the data is taken back where the store keeps the version before. So is the whole upload where too few replicas
took it (`undo.py`); until that is known, `WritePlan.keep_replaced` keeps what it replaces.

What a crash leaves, and who puts it right:

- before step 2: the old state; unfinished data and the intent are cleared by the next upload or by `repair`.
- after 2, creating: data without a manifest. Readers report it as unproven, the same upload again adopts it when
  its SHA-256 is right (`upload.py`), `repair` too.
- after 2, replacing: the old manifest does not match the new data. Readers prove the data with the intent, and
  `repair` writes the manifest from it.
- after 3: the new state, proven; an intent that is left is cleared by the next upload or by `repair`.

A delete writes its tombstone, looks for an intent, and then removes data and manifest. Where no lock keeps the two
apart, all of our steps may come in between. Then we find its tombstone in step 5: the intent that stays proves the
data also when the manifest goes.

So there is no moment at which neither the old version nor the new one can be read and proven. `_check` is called
before step 2, before 3 and after 4; here it does nothing, and a repair's copy (`copy.py`) looks there whether its
version is still current.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TypeVar

from fsbackup import clock
from fsbackup.aio import IdleTimeout, IdleTimeoutError, run_all, shield
from fsbackup.engine import locks, marker, records
from fsbackup.engine.hashing import content_hash
from fsbackup.engine.parts import Consumer, PartBuffer
from fsbackup.engine.records import ReplicaState
from fsbackup.errors import ConflictError, FsbackupError
from fsbackup.events import log
from fsbackup.keys import encode_key, tombstone_name
from fsbackup.record import Manifest, version_order
from fsbackup.stores.base import SHOWN_AFTER, ObjectStat, ObjectWriter, WritePlan, timeout_error

T = TypeVar("T")

#: Seconds after which the delete that stored a tombstone is not under way any more.
_DELETE_TAKES = 3600.0


class ReplicaUpload:
    """Sends parts from a `PartBuffer` to one store, then commits the object and writes its manifest there.

    Parameters
    ----------
    replica
        What the store had of the key before.
    key, plan
        The object.
    on_sent
        Called with the number of bytes sent as they leave.
    may_replace
        Replace also a version that another writer stored since `replica` was read.
    copier
        Has the service copy the bytes; they are sent when that fails.
    """

    def __init__(
        self,
        replica: ReplicaState,
        key: str,
        plan: WritePlan,
        on_sent: Callable[[int], None],
        *,
        may_replace: bool = True,
        copier: ObjectWriter | None = None,
    ) -> None:
        self.store = replica.store
        self.replica = replica
        self.bytes_sent = 0
        self.aborted = False
        #: What the store said of the data when it was committed.
        self.stored: ObjectStat | None = None
        self._key = key
        self._create_only = plan.create_only
        self._may_replace = may_replace
        self._conditional = plan.conditional
        self._names_what_it_replaces = plan.create_only or plan.replaces is not None
        self._record_id = plan.record_id or ""
        self._wrote_record = False
        self._copier = copier
        self._on_sent = on_sent
        self._last_activity = 0.0
        self.writer: ObjectWriter = self.store.writer(encode_key(key), plan, self._count)

    def _count(self, amount: int) -> None:
        self._touch()
        self.bytes_sent += amount
        self._on_sent(amount)

    def _touch(self) -> None:
        self._last_activity = asyncio.get_running_loop().time()

    async def run(
        self, parts: PartBuffer, consumer: Consumer, workers: int, manifest: Callable[[], Manifest]
    ) -> None:
        """Send every part that `consumer` takes, `workers` at once; then commit with `manifest()`.

        Raises
        ------
        BackendError
            As the store raised it; `BackendUnavailableError` also for a store whose calls neither move a byte nor
            end for its `hard_timeout`.
        ConflictError
            When another writer stored other content at the same time.
        SourceError
            When the source cannot be read; nothing is committed then.
        """

        async def work() -> None:
            # One call per part: a local variable here would keep its bytes alive while the next part is awaited.
            while await self._send_next(parts, consumer):
                pass

        if self._copier is not None:
            consumer.lagging = True  # it has no claim on parts that can be read again
            if await self._copy(self._copier, manifest):
                parts.close(consumer)
                return
        try:
            await run_all([work() for _ in range(workers)])
        finally:
            parts.close(consumer)
        await self._commit_alone(manifest())

    async def _copy(self, copier: ObjectWriter, manifest: Callable[[], Manifest]) -> bool:
        """Commit what the service copies itself; return False where it stored nothing: bytes must be sent."""
        sending, self.writer = self.writer, copier
        try:
            async with self._idle_timeout():
                await copier.copy()
            await self._commit_alone(manifest())
        except FsbackupError as error:
            if self.stored is not None:
                raise
            log.info("%s: the bytes of %s are sent, because: %s", self.store.name, self._key, error)
            await self.abort()
            self.writer, self.aborted, self._wrote_record = sending, False, False
            return False
        return True

    async def _commit_alone(self, manifest: Manifest) -> None:
        """Commit as the one writer of this process, and on a disk of all."""
        await marker.prepare(self.store)
        async with locks.exclusive(self.store, self._key):
            await self._commit_or_find(manifest)

    async def _commit_or_find(self, manifest: Manifest) -> None:
        """Commit; that another writer has stored the same content at the same time is success, too."""
        try:
            await self._commit(manifest)
        except ConflictError:
            replica = await self.call(records.read_version(self.store, self._key))
            if not replica.holds(manifest):
                raise
            await self.writer.abort()

    async def _send_next(self, parts: PartBuffer, consumer: Consumer) -> bool:
        """Send the next part; return False when there is none."""
        part = await parts.take(consumer)
        if part is None:
            return False
        try:
            async with self._idle_timeout():
                await self.writer.write(part)
        finally:
            parts.release(part)
        return True

    async def _commit(self, manifest: Manifest) -> None:
        if records.has_records_inside(self.store):
            await self._commit_inside(manifest)
        else:
            await self._commit_beside(manifest)

    async def _commit_inside(self, manifest: Manifest) -> None:
        if self._conditional:
            self._require_unchanged(await self.call(records.read_state(self.store, self._key)))
        metadata = records.inside_metadata(self.store, manifest)
        if metadata is None:
            self._wrote_record = True
            upload_id = self.writer.upload_id
            await self.call(records.write_record_object(self.store, manifest, self._record_id, upload_id))
        await self._check(manifest)
        stored = await self._store(metadata)
        await self._check(manifest, stored)
        if not (self._names_what_it_replaces and self.store.capabilities.conditional_create):
            await self._compare(manifest, stored)

    async def _commit_beside(self, manifest: Manifest) -> None:
        await self._look_again(manifest)
        if self.needs_intent:
            await self._write_intent(manifest)
        await self._check(manifest)
        stored = await self._store()
        await self._check(manifest, stored)
        await self._write_manifest(manifest, stored)
        await self._check(manifest, stored)
        if self.needs_intent and not await self._may_be_deleted():
            await self.call(records.clear_intent(self.store, manifest))

    async def _store(self, metadata: Mapping[str, str] | None = None) -> ObjectStat:
        self.stored = await self.call(self.writer.commit(metadata))
        return self.stored

    async def _look_again(self, manifest: Manifest) -> None:
        """See what a replacement replaces, now that no other writer of this process or disk can change it.

        Raises
        ------
        ConflictError
            When a newer version was stored since the survey; or any, for an upload that may not replace it.
        NewerFormatError
            When a newer version of fsbackup wrote the record or the write intent by now.
        """
        if self._create_only:
            return
        before = self.replica.record
        self.replica, intent = await self.call(
            asyncio.gather(records.read_state(self.store, self._key), records.read_intent(self.store, self._key))
        )
        latest = self.replica.record
        if self._conditional and latest != before:
            raise concurrent_write(self.replica, self._key)
        if latest is not None and latest != before:
            replaces = isinstance(latest, Manifest) and not self._may_replace
            if replaces or version_order(latest) > version_order(manifest):
                raise concurrent_write(self.replica, self._key)
        if intent is not None and self.replica.stat is not None and not self.replica.is_intact:
            await self.call(records.finish_intent(self.store, intent, self.replica.stat))

    def _require_unchanged(self, now: ReplicaState) -> None:
        """Raise `ConflictError` unless the replica is as it was when the upload was decided."""
        if now.record != self.replica.record or (now.stat is None) != (self.replica.stat is None):
            raise concurrent_write(now, self._key)

    @property
    def needs_intent(self) -> bool:
        """Whether a write intent comes first: there is a record that will not prove the new data."""
        return self.replica.record is not None or self.replica.damaged

    async def _may_be_deleted(self) -> bool:
        """Return whether a delete may be under way that looked for an intent before ours was there."""
        if self.store.capabilities.locks:
            return False
        stat = await self.call(self.store.stat(tombstone_name(self._key)))
        return stat is not None and (stat.modified is None or stat.modified > clock.now() - _DELETE_TAKES)

    async def _write_intent(self, manifest: Manifest) -> None:
        await self.call(records.write_intent(self.store, manifest))

    async def _check(self, manifest: Manifest, stored: ObjectStat | None = None) -> None:
        """Raise when the version must not be written; `stored` is its data once committed. Here: never."""

    async def _write_manifest(self, manifest: Manifest, stored: ObjectStat) -> None:
        if not await self.call(write_manifest(self.replica, manifest, stored)):
            await self._compare(manifest, stored)

    async def _compare(self, manifest: Manifest, stored: ObjectStat) -> None:
        """Raise `ConflictError` unless the replica has this manifest and the data that was stored with it."""
        replica = await self._read_back()
        if has_version(replica, manifest, stored) and await self._is_ours(manifest, stored):
            return
        if not replica.claims(manifest):
            # Without versions, what was kept may be older than what the other writer stored.
            if self.store.capabilities.removes_versions:
                await self.call(self.writer.rollback())
        elif replica.stat is None:
            # A delete that began before our manifest removed our data: the manifest would stand for lost data.
            await self.call(records.remove_manifest(replica, self._key))
        raise _not_shown(replica, self._key) if replica.is_empty else concurrent_write(replica, self._key)

    async def _read_back(self) -> ReplicaState:
        """Read what stands there after our write; a service may not show it at once."""
        for pause in SHOWN_AFTER if self.store.capabilities.is_shared else ():
            replica = await self.call(records.read_version(self.store, self._key))
            shows_what_was = replica.record is not None and replica.record == self.replica.record
            if replica.stat is not None and not replica.damaged and not shows_what_was:
                return replica
            await asyncio.sleep(pause)
        return await self.call(records.read_version(self.store, self._key))

    async def _is_ours(self, manifest: Manifest, stored: ObjectStat) -> bool:
        """Return whether the data is ours; without an ETag other content of the same size looks the same."""
        if stored.etag is not None or (self._create_only and self.store.capabilities.conditional_create):
            return True
        name = encode_key(self._key)

        def read(offset: int, length: int) -> Awaitable[bytes]:
            # Each read moves bytes: all of them may take longer than the idle timeout.
            return self.call(self.store.read(name, offset, offset + length, on_progress=lambda _: self._touch()))

        return await content_hash(read, manifest.size) == manifest.sha256

    async def abort(self) -> None:
        """Discard what was sent; nothing is discarded after the writer's `commit`."""
        self.aborted = True
        await self.writer.abort()
        if self.writer.upload_id is None:
            await self.clear_record()

    async def clear_record(self) -> None:
        """Remove the manifest that was stored as an object of its own, unless the data names it."""
        if self._wrote_record:
            await shield(records.clear_unused(self.store, self._key, self._record_id))

    async def call(self, call: Awaitable[T]) -> T:
        """Await one call to the store under the idle timeout."""
        async with self._idle_timeout():
            return await call

    @asynccontextmanager
    async def _idle_timeout(self) -> AsyncIterator[None]:
        """Fail the call in the block when no call of this upload has moved a byte for the store's `hard_timeout`.

        Time in which this upload waits for a part does not count.
        """
        self._touch()
        try:
            async with IdleTimeout(self.store.hard_timeout, lambda: self._last_activity):
                yield
        except IdleTimeoutError:
            raise timeout_error(self.store, "upload", self._key) from None


async def write_manifest(replica: ReplicaState, manifest: Manifest, stored: ObjectStat) -> bool:
    """Write `manifest` beside the data `stored`; return whether no other writer can have come in between.

    On False the caller reads the replica back and checks `has_version`.
    """
    create = replica.record is None and not replica.damaged
    own = manifest.for_replica(stored.etag, stored.version_id)
    try:
        await records.write_record(replica.store, own, create_only=create)
    except ConflictError:
        return False
    can = replica.store.capabilities
    return create and can.conditional_create and can.locks


def has_version(replica: ReplicaState, manifest: Manifest, stored: ObjectStat) -> bool:
    """Return whether the replica has our manifest and, by size and ETag, our data."""
    stat = replica.stat
    same_data = stat is not None and (stat.size, stat.etag) == (stored.size, stored.etag)
    return same_data and replica.claims(manifest)


def _not_shown(replica: ReplicaState, key: str) -> ConflictError:
    """Return the error for an object that was stored, and of which nothing is there."""
    return ConflictError(
        "it was stored, and is not there: it was deleted at the same time, or the service does not show it yet",
        backend=replica.store.name,
        operation="upload",
        key=key,
        hint="run the same command again",
    )


def concurrent_write(replica: ReplicaState, key: str) -> ConflictError:
    """Return the error for other content that another writer stored during the upload."""
    return ConflictError(
        "another writer stored other content under this key at the same time",
        backend=replica.store.name,
        operation="upload",
        key=key,
        hint="decide which content is right and store it again with overwrite",
    )
