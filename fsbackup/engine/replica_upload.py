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
1     a write intent where the store cannot refuse to        write intent: the new manifest under a name of its own
      replace, and a listing of other writers' intents
2     `writer.commit`: the data, in one atomic step          the same
3     manifest, create-only where the store can refuse       manifest, over the old manifest
4     compare, unless the store refuses in step 3            compare
5     end the intent, where there is one                     end the intent (`intents.py`)
6     -                                                      when `min_copies` have confirmed: remove the tombstone
====  =====================================================  ======================================================

*Compare* reads manifest and data back. When another writer's data is there, the upload raises `ConflictError`;
when only the manifest is another writer's, this upload writes its own again, because that one proves the data. The
whole upload is undone where too few replicas have stored it (`undo.py`); until that is known,
`WritePlan.keep_replaced` keeps what it replaces.

What a crash leaves, and what repairs it:

- before step 2: the old state; unfinished data and the intent are cleared by `repair` or a later upload. An upload
  that only fails, or is cancelled, withdraws its intent where it knows that the data stays as it was, as on a full
  disk (`ObjectWriter.revoke`).
- after 2, creating: data without a manifest. Readers report it as unproven, the same upload again adopts it when
  its SHA-256 is right (`upload.py`), `repair` too.
- after 2, replacing: the old manifest does not match the new data. Readers prove the data with the intent, and
  `repair` writes the manifest from it.
- after 3: the new state, proven; an intent that is left is cleared by `repair` or a later upload.

So at every moment the old version or the new one can be read and proven, also with concurrent writers of the key.

`_check` is called before step 2 and after 4. Here it does nothing; the copy of a repair (`copy.py`) checks there
that its version is still current.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import TypeVar

from fsbackup.aio import IdleTimeout, IdleTimeoutError, run_all, shield
from fsbackup.engine import intents, locks, marker, records
from fsbackup.engine.hashing import content_hash
from fsbackup.engine.parts import Consumer, PartBuffer
from fsbackup.engine.records import ReplicaState
from fsbackup.errors import (
    AccessDeniedError,
    BackendUnavailableError,
    ConflictError,
    FsbackupError,
    NewerFormatError,
)
from fsbackup.events import log
from fsbackup.keys import encode_key
from fsbackup.record import Manifest, Tombstone, version_order
from fsbackup.stores.base import SHOWN_AFTER, ObjectStat, ObjectWriter, WritePlan, timeout_error

T = TypeVar("T")

#: Seconds between two looks for writers that an upload waits for, at first and at most.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0
#: How often a manifest is written that another writer overwrites.
_TRIES = 3


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
        self.keeps_replaced = plan.keep_replaced
        self._names_what_it_replaces = plan.create_only or plan.replaces is not None
        self._record_id = plan.record_id or ""
        self._wrote_record = False
        self._commits = False
        #: Whether this upload yields to writers that replace.
        self._yields = not may_replace
        #: The name of this upload's intent, and those of ended writers that were there before its data.
        self._intent: str | None = None
        self._ended: list[str] = []
        #: The intents of other writers, as they were last read.
        self._others: list[intents.Intent] = []
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
        if self._copier is not None:
            consumer.lagging = True  # it has no claim on parts that can be read again
            if await self._copy(self._copier, manifest):
                parts.close(consumer)
                return
        try:
            await run_all([self._send_parts(parts, consumer) for _ in range(workers)])
        finally:
            parts.close(consumer)
        await self._commit_alone(manifest())

    async def _copy(self, copier: ObjectWriter, manifest: Callable[[], Manifest]) -> bool:
        """Commit what the service copies itself; return False where it stored nothing: bytes must be sent."""
        sending, self.writer = self.writer, copier
        try:
            await self.call(copier.copy())
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
        """Commit; it is a success, too, when another writer has stored the same content at the same time."""
        try:
            await self._commit(manifest)
        except ConflictError:
            replica = await self.call(records.read_version(self.store, self._key))
            stat = replica.stat if replica.holds(manifest) else None
            if stat is None or not await self._is_ours(manifest, stat):
                if self._create_only and self._may_replace:
                    raise concurrent_write(replica, self._key) from None
                raise
            await self.writer.abort()

    async def _send_parts(self, parts: PartBuffer, consumer: Consumer) -> None:
        # One call per part: a local variable here would keep its bytes alive while the next part is awaited.
        while await self._send_next(parts, consumer):
            pass

    async def _send_next(self, parts: PartBuffer, consumer: Consumer) -> bool:
        """Send the next part; return False when there is none, or none after it."""
        part = await parts.take(consumer)
        if part is None:
            return False
        try:
            await self.call(self.writer.write(part))
            return not part.last
        finally:
            parts.release(part)

    async def _commit(self, manifest: Manifest) -> None:
        if records.has_records_inside(self.store):
            await self._commit_inside(manifest)
        else:
            await self._commit_beside(manifest)

    async def _commit_inside(self, manifest: Manifest) -> None:
        if self._conditional:
            await self._require_unchanged()
        metadata = records.inside_metadata(self.store, manifest)
        if metadata is None:
            self._wrote_record = True
            upload_id = self.writer.upload_id
            await self.call(records.write_record_object(self.store, manifest, self._record_id, upload_id))
        await self._check(manifest)
        stored = await self._store(metadata)
        await self._check(manifest, stored)
        if not (self._names_what_it_replaces and self.store.capabilities.conditional_create):
            await self._settle(self._compare(manifest, stored), manifest, stored)

    async def _commit_beside(self, manifest: Manifest) -> None:
        try:
            await self._announce_and_look(manifest)
            await self._check(manifest)
            stored = await self._store()
        except BaseException as error:
            if self._changes_nothing(error):
                with suppress(FsbackupError):  # what ended the upload is what the user must know
                    await shield(self._withdraw())
            raise
        if not await self.call(write_manifest(self.replica, manifest, stored)):
            await self._settle(self._prove(manifest, stored), manifest, stored)
        await self._end(manifest, stored)

    def _changes_nothing(self, error: BaseException) -> bool:
        """Return whether this upload's data, not committed because of `error`, can never become what is stored.

        Otherwise its intent is what proves it. A store that does not answer is not asked to remove the intent.
        """
        if isinstance(error, BackendUnavailableError):
            return False
        refused = isinstance(error, (AccessDeniedError, ConflictError, NewerFormatError))
        return refused or not self._commits or self.writer.revoke()

    async def _settle(self, looking: Awaitable[None], manifest: Manifest, stored: ObjectStat) -> None:
        """Await `looking`. The conflict may be a tombstone: `_check` then removes what was written."""
        try:
            await looking
        except ConflictError:
            await self._check(manifest, stored)
            raise

    async def _announce_and_look(self, manifest: Manifest) -> None:
        """Announce a replacement, then read what it replaces; where that is new, announce it and read again."""
        if self.needs_intent:
            await self._announce(manifest)
        await self._look_again(manifest)
        if self._intent is None and (self.needs_intent or self._has_precedence):
            await self._announce(manifest)
            await self._look_again(manifest)

    async def _store(self, metadata: Mapping[str, str] | None = None) -> ObjectStat:
        self._commits = True
        self.stored = await self.call(self.writer.commit(metadata))
        return self.stored

    async def _look_again(self, manifest: Manifest) -> None:
        """Read what a replacement replaces, now that no other writer of this process or disk can change it.

        Raises
        ------
        ConflictError
            When a newer version was stored since the survey; or any, for an upload that may not replace it.
        NewerFormatError
            When a newer version of fsbackup wrote the record or a write intent by now.
        """
        if self._create_only and self.store.capabilities.conditional_create:
            return
        before, data = self.replica.record, self.replica.stat
        self.replica = await self._look()
        await self._wait_for_others(manifest)
        latest = self.replica.record
        if (self._conditional and latest != before) or (self._yields and self.replica.stat != data):
            raise concurrent_write(self.replica, self._key)
        if latest is not None and latest != before:
            replaces = isinstance(latest, Manifest) and not self._may_replace
            if replaces or version_order(latest) > version_order(manifest):
                raise concurrent_write(self.replica, self._key)

    async def _wait_for_others(self, manifest: Manifest) -> None:
        """Wait for writers that yield to this upload; one that creates waits for every other known writer.

        Of several that create, each withdraws its intent as long as another comes before it: so exactly one
        stores its object, and the others find it.
        """
        clock, pause = asyncio.get_running_loop().time, _FIRST_PAUSE
        ends = clock() + self.store.timeout
        while self._intent is not None and self._waits(manifest) and clock() < ends:
            if self._create_only and any(self._comes_before(each) for each in self._rivals(manifest)):
                await self._withdraw()
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
            await self._announce(manifest)
            self.replica = await self._look()

    def _comes_before(self, other: intents.Intent) -> bool:
        """Return whether another writer precedes this one, which creates; one that does not yield always does."""
        return not other.yields or self._intent is None or other.name < self._intent

    def _rivals(self, manifest: Manifest) -> list[intents.Intent]:
        """Return the intents of running writers; for one that creates, those with the same content do not count.

        So an upload does not wait for a killed one of the same content.
        """
        at_work = [each for each in self._others if intents.is_active(self.store, each)]
        same = (manifest.size, manifest.sha256)
        return [
            each
            for each in at_work
            if not self._create_only or each.manifest is None or (each.manifest.size, each.manifest.sha256) != same
        ]

    async def _look(self) -> ReplicaState:
        """Return what is stored, and note the intents; raises for one that a newer version wrote."""
        found = await self.call(intents.find(self.store, self._key, self._intent or ""))
        self._others = list(intents.known(found))
        self._ended = [each.name for each in self._others if not each.may_go_on()]
        if self._create_only:
            return self.replica  # the writer's own look, in `commit`, comes after this
        return await self.call(records.read_state(self.store, self._key))

    def _waits(self, manifest: Manifest) -> bool:
        """Return whether to wait for a writer that yields to this upload, or to create, for any writer.

        Raises
        ------
        ConflictError
            When this upload is the one that yields, and there is another writer.
        """
        if self.store.capabilities.locks:
            return False
        rivals = self._rivals(manifest)
        if self._yields and rivals and not self._create_only:
            raise concurrent_write(self.replica, self._key)
        return bool(rivals) if self._create_only else self._has_precedence

    @property
    def _has_precedence(self) -> bool:
        """Whether a writer that yields to this upload is running, such as a repair of a deleted version."""
        if self.store.capabilities.locks:
            return False
        return any(intents.is_awaited(self.store, each) for each in self._others)

    async def _require_unchanged(self) -> None:
        """Raise `ConflictError` unless the replica is as it was when the upload was decided."""
        now = await self.call(records.read_state(self.store, self._key))
        if now.record != self.replica.record or (now.stat is None) != (self.replica.stat is None):
            raise concurrent_write(now, self._key)

    @property
    def needs_intent(self) -> bool:
        """Whether a write intent comes first: there may be a record that does not prove the new data."""
        can, inside = self.store.capabilities, records.has_records_inside(self.store)
        return not inside and not (self.replica.is_empty and can.conditional_create)

    async def _announce(self, manifest: Manifest) -> None:
        if self._intent is None:
            announcing = intents.announce(self.store, manifest, yields=self._yields)
            self._intent = await self.call(announcing)

    async def _withdraw(self) -> None:
        own, self._intent = self._intent, None
        if own is not None:
            await self.call(intents.withdraw(self.store, own))

    async def _end(self, manifest: Manifest, stored: ObjectStat) -> None:
        """End the intent, also where a last check finds that the version is not the newest."""
        try:
            await self._check(manifest, stored)
        finally:
            if self._intent is not None:
                ending = intents.end(self.store, manifest, self._intent, self._others, self._ended)
                await self.call(ending)

    async def _check(self, manifest: Manifest, stored: ObjectStat | None = None) -> None:
        """Raise when the version must not be written; `stored` is its data once committed. Here: never."""

    async def _prove(self, manifest: Manifest, stored: ObjectStat) -> None:
        """Read back this upload's data and manifest, and write the manifest again where the data has another.

        Raises
        ------
        ConflictError
            When the data is another writer's or missing, or it was deleted.
        """
        for _ in range(_TRIES):
            if self._intent is not None:  # a later writer replaces the data before the manifest
                self._others = await self.call(intents.listed(self.store, self._key, self._intent))
            replica = await self._read_back()
            if not has_data(replica, stored) or not await self._is_ours(manifest, stored):
                await self._give_way(manifest, replica)
                break
            if replica.claims(manifest):
                return
            if isinstance(replica.record, Tombstone) and replica.record.generation >= manifest.generation:
                break
            if self._intent is None:
                await self._announce(manifest)  # and read again: what was read may be older than it
                continue
            own = manifest.for_replica(stored.etag, stored.version_id)
            await self.call(records.write_record(self.store, own))
        raise _not_shown(replica, self._key) if replica.is_empty else concurrent_write(replica, self._key)

    async def _give_way(self, manifest: Manifest, replica: ReplicaState) -> None:
        """Leave what is stored to its writer; a manifest of this upload, whose data is lost, is removed."""
        if replica.stat is None and replica.claims(manifest):
            await self._announce(manifest)
            replica = await self.call(records.read_version(self.store, self._key))
            if replica.stat is None and replica.claims(manifest):
                await self.call(records.remove_manifest(replica, self._key))
        await self._withdraw()

    async def _compare(self, manifest: Manifest, stored: ObjectStat) -> None:
        """Raise `ConflictError` unless the data that was stored is there, with the manifest inside."""
        replica = await self._read_back()
        for pause in SHOWN_AFTER if self._comes_first else ():
            if replica.claims(manifest) or replica.is_empty:
                break
            await asyncio.sleep(pause)
            replica = await self._read_back()
        if has_version(replica, manifest, stored) and await self._is_ours(manifest, stored):
            return
        if not replica.claims(manifest) and self.store.capabilities.removes_versions:
            await self.call(self.writer.rollback())
        raise _not_shown(replica, self._key) if replica.is_empty else concurrent_write(replica, self._key)

    @property
    def _comes_first(self) -> bool:
        """Whether a concurrent writer whose object is there came second: it will notice, and remove its object.

        That is so where nothing was stored, or a version that only the first of the writers may replace.
        """
        return (self._create_only or self._conditional) and self.store.capabilities.removes_versions

    async def _read_back(self) -> ReplicaState:
        """Read what is stored after the write; a service may not show it at once."""
        for pause in SHOWN_AFTER if self.store.capabilities.is_shared else ():
            replica = await self.call(records.read_version(self.store, self._key))
            shows_what_was = replica.record is not None and replica.record == self.replica.record
            if replica.stat is not None and not replica.damaged and not shows_what_was:
                return replica
            await asyncio.sleep(pause)
        return await self.call(records.read_version(self.store, self._key))

    async def _is_ours(self, manifest: Manifest, stored: ObjectStat) -> bool:
        """Return whether the data is this upload's; without an ETag the bytes are read and hashed."""
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
        """Await one call to the store; fail when none of this upload moves a byte for the store's `hard_timeout`.

        Time in which this upload waits for a part does not count.
        """
        self._touch()
        try:
            with IdleTimeout(self.store.hard_timeout, lambda: self._last_activity):
                return await call
        except IdleTimeoutError:
            raise timeout_error(self.store, "upload", self._key) from None


def creates_only(replica: ReplicaState) -> bool:
    """Return whether an upload that may replace must still be refused where an object appears before it commits.

    Where nothing is stored it announces nothing, so without a lock no other writer would know of it.
    """
    can, inside = replica.store.capabilities, records.has_records_inside(replica.store)
    return replica.is_empty and can.conditional_create and not (inside or can.locks)


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
    """Return whether the replica has `manifest` and, by size and ETag, the data `stored`."""
    return has_data(replica, stored) and replica.claims(manifest)


def has_data(replica: ReplicaState, stored: ObjectStat) -> bool:
    """Return whether the replica has the data `stored`, by size and ETag."""
    stat = replica.stat
    return stat is not None and (stat.size, stat.etag) == (stored.size, stored.etag)


def _not_shown(replica: ReplicaState, key: str) -> ConflictError:
    """Return the error for an object that was stored and is not there."""
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
