"""Refill: the newest version of one object, read once from replicas that prove it, to all that need it at once.

The version stays the same: generation, what it replaces, when and from what it was made. Whatever needs it keeps
what it has until proven bytes take its place in one atomic step, and the steps are those of an upload.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from fsbackup import events
from fsbackup.engine import records
from fsbackup.engine.download import ObjectReader, locate
from fsbackup.engine.records import ReplicaState
from fsbackup.engine.replica_upload import ReplicaUpload
from fsbackup.engine.replicas import ReplicaSet
from fsbackup.engine.results import ReplicaResult
from fsbackup.engine.source import Source
from fsbackup.engine.upload import FanOut, tags
from fsbackup.engine.versions import VersionGuard, superseded
from fsbackup.errors import ConflictError, FsbackupError, IntegrityError, SourceError
from fsbackup.keys import encode_key
from fsbackup.record import Manifest
from fsbackup.stores.base import ObjectStat, ObjectStore, Part, WritePlan


@dataclass(frozen=True, slots=True)
class CopyResult:
    """How a refill went: one result per needy replica, and the replicas that gave wrong bytes meanwhile."""

    replicas: Sequence[ReplicaResult]
    corrupt_replicas: frozenset[str]


async def copy_version(targets: ReplicaSet, guard: VersionGuard, recipients: Sequence[ReplicaState]) -> CopyResult:
    """Bring every replica in `needy` to the version of `guard`; its stores are the ones to read from.

    Never raises for what a service did: then every result says why.
    """
    return await _VersionCopy(targets, guard, recipients).run()


class _VersionCopy:
    def __init__(self, targets: ReplicaSet, guard: VersionGuard, needy: Sequence[ReplicaState]) -> None:
        self._targets = targets
        self._guard = guard
        self._manifest = guard.manifest.for_replica(None, None)
        self._needy = needy
        self._clock = asyncio.get_running_loop().time
        self._started = self._clock()
        self._results: dict[str, ReplicaResult] = {}

    async def run(self) -> CopyResult:
        reading: ObjectReader | None = None
        try:
            reading = await self._locate()
            await self._send(reading)
        except FsbackupError as error:
            for finding in self._needy:
                if finding.store.name not in self._results:
                    self._finish(finding, error, sent=0)
        failed = reading.failed if reading else {}
        liars = frozenset(name for name, error in failed.items() if isinstance(error, IntegrityError))
        return CopyResult([self._results[finding.store.name] for finding in self._needy], liars)

    async def _locate(self) -> ObjectReader:
        """Return the version to be read, from half of the memory; the other half is for writing it."""
        half, key = self._targets.memory // 2, self._manifest.key
        reading = await locate(tuple(self._guard.stores), key, memory=half, stall=self._targets.stall)
        if reading.manifest is None or reading.manifest.sha256 != self._manifest.sha256:
            raise superseded(self._needy[0].store, key, "replaced")
        return reading

    async def _send(self, reading: ObjectReader) -> None:
        source = ReplicaSource(reading, self._manifest)
        fan = FanOut(
            self._manifest.key,
            source,
            self._manifest.part_size,
            memory=self._targets.memory // 2,
            stores=[finding.store for finding in self._needy],
        )
        lanes = [
            _ReplicaRefill(finding, _plan(finding, source, self._manifest), self._guard) for finding in self._needy
        ]
        try:
            await fan.run(lanes, lambda: self._proven(source), self._finish)
        finally:
            await fan.window.stop()
            await source.stop()

    def _proven(self, source: Source) -> Manifest:
        """Return the manifest, now that all its bytes were read; every block was proven, now the whole is."""
        if source.digest().sha256 != self._manifest.sha256:
            raise SourceError(f"{source.label}: the blocks are right but the whole is not")
        return self._manifest

    def _finish(self, finding: ReplicaState, error: FsbackupError | None, *, sent: int) -> None:
        name, seconds = finding.store.name, self._clock() - self._started
        self._results[name] = ReplicaResult(name, error is None, seconds, sent, exception=error)
        size = self._manifest.size
        events.log_outcome("refill", name, self._manifest.key, size=size, seconds=seconds, error=error)


def _plan(finding: ReplicaState, source: Source, manifest: Manifest) -> WritePlan:
    return WritePlan(
        size=manifest.size,
        part_size=manifest.part_size,
        metadata=tags(source.mtime_ns, manifest.sha256),
        mtime_ns=source.mtime_ns,
        mode=source.mode,
        create_only=finding.stat is None,
        is_new=finding.stat is None,
    )


class ReplicaSource(Source):
    """One version of an object as its replicas have it: proven block by block, and read again where it must be."""

    interruptible = True

    def __init__(self, reading: ObjectReader, manifest: Manifest) -> None:
        mtime = manifest.source.mtime
        super().__init__(
            f"the replicas of {manifest.key}",
            size=manifest.size,
            mtime_ns=None if mtime is None else round(mtime * 1e9),
            mode=manifest.source.mode,
        )
        self._reading = reading
        self._manifest = manifest
        self._pieces: AsyncGenerator[bytes, None] = reading.pieces()
        self._ahead: list[bytes] = []

    @property
    def replayable_bytes(self) -> int:
        return self._manifest.size

    async def next_part(self, length: int, *, md5: bool) -> Part:
        wanted = min(length, self._manifest.size - self._offset)
        data = await self._take(wanted)
        last = self._offset + wanted >= self._manifest.size
        return await asyncio.to_thread(self._make_part, data, last=last, md5=md5)

    async def _take(self, wanted: int) -> bytes:
        try:
            while sum(map(len, self._ahead)) < wanted:
                self._ahead.append(await anext(self._pieces))
        except (FsbackupError, StopAsyncIteration) as error:
            raise SourceError(f"no replica can give all of it: {error}", key=self._manifest.key) from error
        joined = b"".join(self._ahead)
        self._ahead = [joined[wanted:]] if len(joined) > wanted else []
        return joined[:wanted]

    async def reread(self, offset: int, length: int) -> bytes | None:
        end = min(offset + length, self._manifest.size)
        start = offset // self._manifest.block_size * self._manifest.block_size
        had: list[bytes] = []
        async with aclosing(self._reading.pieces(start)) as pieces:
            while start + sum(map(len, had)) < end:
                had.append(await anext(pieces))
        return b"".join(had)[offset - start : end - start]

    async def stop(self) -> None:
        """End reading."""
        await self._pieces.aclose()


class _ReplicaRefill(ReplicaUpload):
    """The lane of one needy replica: as an upload's, but it gives way to whoever else writes the key."""

    def __init__(self, finding: ReplicaState, plan: WritePlan, guard: VersionGuard) -> None:
        super().__init__(finding, guard.manifest.key, plan, lambda _: None)
        self._guard = guard

    @property
    def needs_intent(self) -> bool:
        return self.finding.stat is not None

    async def _write_intent(self, manifest: Manifest) -> None:
        there = await self._step(records.read_intent(self.store, manifest.key))
        if there is not None and there.generation > manifest.generation:
            raise superseded(self.store, manifest.key, "replaced")
        await super()._write_intent(manifest)

    async def _precondition(self, manifest: Manifest, stored: ObjectStat | None = None) -> None:
        standing = await self._guard.currency(self.store.name)
        if standing == "newest" and (stored is not None or await self._unchanged(manifest)):
            return
        # Where it was replaced our announcement stays: another repair of the same may be between its steps.
        if standing == "deleted":
            await self._step(self._remove_copy(manifest, stored))
        raise superseded(self.store, manifest.key, "replaced" if standing == "newest" else standing)

    async def write_manifest(self, manifest: Manifest, stored: ObjectStat) -> None:
        try:
            await super().write_manifest(manifest, stored)
        except ConflictError:
            # Where the others deleted it meanwhile, what of ours stands there now must go.
            await self._precondition(manifest, stored)
            raise

    async def _unchanged(self, manifest: Manifest) -> bool:
        """Tell whether this store has what it had when it was examined, and nobody else has announced anything."""
        there = await self._step(records.read_state(self.store, manifest.key))
        if self.needs_intent:
            announced = await self._step(records.read_intent(self.store, manifest.key))
            # Another repair may have finished the same, and removed the announcement of the same.
            if announced is not None and announced.sha256 != manifest.sha256:
                return False
        return there == self.finding

    async def _remove_copy(self, manifest: Manifest, stored: ObjectStat | None) -> None:
        """Remove what a delete that ran meanwhile could not know of."""
        if stored is not None:
            await remove_copy(self.store, manifest, stored)
        await records.clear_intent(self.store, manifest)


async def remove_copy(store: ObjectStore, manifest: Manifest, stored: ObjectStat) -> None:
    """Remove our copy, data first, of an object that was deleted meanwhile; what is another writer's stays."""
    there = await records.read_state(store, manifest.key)
    if there.stat is not None and (there.stat.size, there.stat.etag) == (stored.size, stored.etag):
        await store.remove(encode_key(manifest.key))
    if there.manifest is not None and there.manifest.sha256 == manifest.sha256:
        await records.remove_record(store, manifest.key)
