"""Copy the newest version of one object, read once from the replicas that prove it, to all that lack it.

Repair calls `copy_version`. The version stays the same: generation, predecessor, creation time and source are
those of its manifest. `ReplicaSource` reads it from the holders, block by block against the hashes; `FanOut` sends
it to the recipients in the steps of an upload (`replica_upload.py`), so each keeps what it has until proven bytes
replace it at once.

There is no lock against other writers. Instead `_ReplicaCopy` announces itself, and checks before the data and
after the manifest whether its version is still the newest (`_check`): `VersionGuard` reads the manifests of all
stores. *Replaced*: raise `ConflictError`; where the copy's data is stored already, its manifest proves it.
*Deleted*, as a tombstone says: first remove the copy's data and manifest, of which the delete could not know.
*Gone* from all stores that it was to be copied from: do not begin, but what is written stays (see
`engine.repairs`). Before the data the recipient must also still have what it had when it was examined, with no
intent of a higher generation.

A crash leaves what a crash of an upload leaves; the next repair goes on from there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from fsbackup.engine import intents, records
from fsbackup.engine.download import ObjectReader, locate
from fsbackup.engine.fanout import FanOut, object_metadata, replica_result
from fsbackup.engine.records import ReplicaState
from fsbackup.engine.replica_upload import ReplicaUpload
from fsbackup.engine.replicas import ReplicaSet
from fsbackup.engine.results import ReplicaResult
from fsbackup.engine.source import Source
from fsbackup.engine.versions import VersionGuard, superseded
from fsbackup.errors import FsbackupError, IntegrityError, SourceError
from fsbackup.record import Manifest
from fsbackup.stores.base import ObjectStat, ObjectStore, Part, WritePlan

_OPERATION = "copy"


@dataclass(frozen=True, slots=True)
class CopyResult:
    """One result per recipient, and the names of the replicas that returned wrong bytes when they were read."""

    replicas: Sequence[ReplicaResult]
    corrupt_replicas: frozenset[str]


async def copy_version(targets: ReplicaSet, guard: VersionGuard, recipients: Sequence[ReplicaState]) -> CopyResult:
    """Copy the version of `guard` to every replica in `recipients`, reading from the stores of `guard`.

    Half of the memory is for reading, the other half for writing. A service's failure is not raised: it is in the
    results.
    """
    started = asyncio.get_running_loop().time()
    key, half = guard.manifest.key, targets.memory // 2
    try:
        reader = await locate(replace(targets, stores=tuple(guard.stores), memory=half), key)
        if reader.manifest is None or reader.manifest.sha256 != guard.manifest.sha256:
            raise superseded(recipients[0].store, key, "replaced")
    except FsbackupError as error:
        seconds, size = asyncio.get_running_loop().time() - started, guard.manifest.size
        names = [replica.store.name for replica in recipients]
        failed = [replica_result(_OPERATION, name, key, error, seconds, size=size) for name in names]
        return CopyResult(failed, frozenset())
    return await _VersionCopy(reader, guard, recipients, half, started).run()


class _VersionCopy(FanOut):
    def __init__(
        self,
        reader: ObjectReader,
        guard: VersionGuard,
        recipients: Sequence[ReplicaState],
        memory: int,
        started: float,
    ) -> None:
        self._reader = reader
        self._guard = guard
        self._version = guard.manifest.for_replica(None, None)
        self._replica_source = ReplicaSource(reader, self._version)
        super().__init__(
            _OPERATION,
            self._version.key,
            self._replica_source,
            part_size=self._version.part_size,
            memory=memory,
            replicas=recipients,
            started=started,
        )

    async def run(self) -> CopyResult:
        try:
            await self._send([_ReplicaCopy(each, self._plan(each), self._guard) for each in self._replicas])
            copied = [each for each in self._replicas if self._results[each.store.name].ok]
            await asyncio.gather(*(records.clear_replaced(each, self._version) for each in copied))
        except FsbackupError as error:
            self._finish_remaining(error)
        finally:
            await self._parts.stop()
            await self._replica_source.stop()
        failed = self._reader.log.failed.items()
        corrupt = frozenset(name for name, error in failed if isinstance(error, IntegrityError))
        return CopyResult(self._ordered_results(), corrupt)

    def _plan(self, replica: ReplicaState) -> WritePlan:
        source = self._source
        return WritePlan(
            size=self._version.size,
            part_size=self._version.part_size,
            metadata=object_metadata(replica.store, source.mtime_ns, self._version.sha256),
            mtime_ns=source.mtime_ns,
            mode=source.mode,
            create_only=replica.stat is None,
            is_new=replica.stat is None,
            replaces=replica.stat.etag if replica.stat else None,
            replaces_version=replica.stat.version_id if replica.stat else None,
            conditional=replica.stat is not None,
        )

    def _manifest(self) -> Manifest:
        """Return the version's manifest; every block was proven when it was read, now the whole is."""
        if self._source.digest().sha256 != self._version.sha256:
            raise SourceError(
                f"{self._source.label}: every block matches its hash, but the whole does not match the SHA-256",
                key=self._key,
                hint="the manifest is wrong: upload the object again with overwrite",
            )
        return self._version


class ReplicaSource(Source):
    """One version of an object, read from its replicas; every block is proven, and can be read again."""

    interruptible = True

    def __init__(self, reader: ObjectReader, manifest: Manifest) -> None:
        super().__init__(
            f"the replicas of {manifest.key}",
            size=manifest.size,
            mtime_ns=manifest.source.mtime_ns,
            mode=manifest.source.mode,
        )
        self._reader = reader
        self._manifest = manifest
        self._pieces: AsyncGenerator[bytes, None] = reader.pieces(reuse_memory=True)
        #: What was read beyond the part before.
        self._rest = memoryview(b"")

    @property
    def replayable_bytes(self) -> int:
        return self._manifest.size

    async def next_part(self, length: int, *, md5: bool) -> Part:
        wanted = min(length, self._manifest.size - self._offset)
        data = await self._take(wanted)
        last = self._offset + wanted >= self._manifest.size
        return await asyncio.to_thread(self._make_part, data, last=last, md5=md5)

    async def _take(self, wanted: int) -> bytes | memoryview:
        if len(piece := await self._next_piece(wanted)) == wanted:
            return piece
        view, filled = self._buffers.take(wanted), 0
        while piece:
            view[filled : filled + len(piece)] = piece
            filled += len(piece)
            piece = await self._next_piece(wanted - filled)
        return view

    async def _next_piece(self, length: int) -> memoryview:
        """Return up to `length` next bytes."""
        try:
            piece = self._rest if self._rest or not length else memoryview(await anext(self._pieces))
        except (FsbackupError, StopAsyncIteration) as error:
            raise SourceError(
                f"{self.label}: cannot be read completely: {error}", key=self._manifest.key
            ) from error
        self._rest = piece[length:]
        return piece[:length]

    async def reread(self, offset: int, length: int) -> bytes | None:
        end = min(offset + length, self._manifest.size)
        start = offset // self._manifest.block_size * self._manifest.block_size
        read: list[bytes] = []
        async with aclosing(self._reader.pieces(start)) as pieces:
            while start + sum(map(len, read)) < end:
                read.append(await anext(pieces))
        return b"".join(read)[offset - start : end - start]

    async def stop(self) -> None:
        """Stop reading from the replicas."""
        await self._pieces.aclose()


class _ReplicaCopy(ReplicaUpload):
    """A `ReplicaUpload` that yields to every other writer of the key."""

    def __init__(self, replica: ReplicaState, plan: WritePlan, guard: VersionGuard) -> None:
        super().__init__(replica, guard.manifest.key, plan, lambda _: None)
        self._guard = guard
        self._yields = True

    async def _require_unchanged(self) -> None:
        """Nothing: `_check` compares the recipient with what it had when it was examined, before and after."""

    async def _look_again(self, manifest: Manifest) -> None:
        """Nothing, for the same reason."""

    async def _commit_or_find(self, manifest: Manifest) -> None:
        await self._commit(manifest)

    async def _check(self, manifest: Manifest, stored: ObjectStat | None = None) -> None:
        if stored is None:
            await self.call(self._guard.marks.put(self.store))
        currency = await self._guard.currency(self.store.name)
        if stored is not None and currency in ("newest", "gone", "unknown"):
            return
        if stored is not None and currency == "deleted":
            await self._remove_copy(manifest, stored)
        if currency == "newest":
            if await self._is_unchanged(manifest):
                return
            currency = "replaced"
        raise superseded(self.store, manifest.key, currency)

    async def _remove_copy(self, manifest: Manifest, stored: ObjectStat) -> None:
        """Remove what a concurrent delete could not know of: the copy's data, manifest and intent."""
        if not records.has_records_inside(self.store):
            await self._announce(manifest)
        await self.call(remove_copy(self.store, manifest, stored))
        await self._withdraw()

    async def _is_unchanged(self, manifest: Manifest) -> bool:
        """Return whether the recipient has what it had when it was examined, and no newer version is announced."""
        replica = await self._look()
        return replica == self.replica and not intents.outranks(self._others, manifest.generation)


async def remove_copy(store: ObjectStore, manifest: Manifest, stored: ObjectStat) -> None:
    """Remove the copy of an object that was deleted meanwhile, data first; what another writer stored stays."""
    replica = await records.read_state(store, manifest.key)
    if replica.stat is not None and (replica.stat.size, replica.stat.etag) == (stored.size, stored.etag):
        await store.remove_version(replica.stat)
    if replica.claims(manifest):
        await records.remove_manifest(replica, manifest.key)
