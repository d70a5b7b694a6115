"""Reading an object from whichever replica proves its bytes.

All replicas are asked for the manifest at once; the highest generation among the answers is what is read. Bytes
come in spans of whole blocks, a few at a time and in order; each block is checked against the manifest before
it is handed on. A replica that fails or lies is passed over for that span, and the next one is asked.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import Counter, deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from fsbackup.errors import FsbackupError, IntegrityError, NoHealthyReplicaError, ObjectNotFoundError
from fsbackup.keys import encode_key
from fsbackup.manifest import Manifest, Tombstone
from fsbackup.objects import ObjectStat, ObjectStore
from fsbackup.sizing import DEFAULT_PART_SIZE
from fsbackup.transfer import records, versions
from fsbackup.transfer.records import Finding

log = logging.getLogger("fsbackup.storage")

#: Spans on their way at once: bounds memory, and hides a request's latency behind the one before.
AHEAD = 4


@dataclass
class Reading:
    """One object about to be read, and what happened while it was.

    Parameters
    ----------
    key, size
        The object; size in bytes.
    manifest
        None when no replica has one: then the bytes are unverified.
    stores
        The replicas to ask, best first.
    taken
        Bytes had from each backend.
    failed
        The last error of each backend that was passed over.
    """

    key: str
    size: int
    manifest: Manifest | None
    stores: list[ObjectStore]
    taken: Counter[str] = field(default_factory=Counter)
    failed: dict[str, FsbackupError] = field(default_factory=dict)

    async def spans(self, start: int = 0) -> AsyncGenerator[bytes, None]:
        """Yield the object's bytes from `start` on (a whole number of blocks), verified where there is a manifest.

        Raises
        ------
        IntegrityError
            When replicas answered, but none with the right bytes.
        NoHealthyReplicaError
            When no replica could be read.
        """
        step = self._step()
        starts = iter(range(start, self.size, step))
        ahead: deque[asyncio.Task[bytes]] = deque()
        try:
            while True:
                while len(ahead) < AHEAD and (at := next(starts, None)) is not None:
                    ahead.append(asyncio.create_task(self._span(at, min(at + step, self.size))))
                if not ahead:
                    return
                yield await ahead.popleft()
        finally:
            for task in ahead:
                task.cancel()
            if ahead:
                await asyncio.wait(ahead)

    def _step(self) -> int:
        """Return the bytes per span: whole blocks, near the size of a part."""
        block = self.manifest.block_size if self.manifest else DEFAULT_PART_SIZE
        return block * max(1, DEFAULT_PART_SIZE // block)

    async def _span(self, start: int, end: int) -> bytes:
        for store in sorted(self.stores, key=lambda store: store.name in self.failed):
            try:
                async with asyncio.timeout(None) as limit:
                    limit.reschedule(asyncio.get_running_loop().time() + _patience(store, end - start))
                    data = await store.read(encode_key(self.key), start, end)
                await asyncio.to_thread(self._check, store, data, start, end)
            except FsbackupError as error:
                self._pass_over(store, error)
            except TimeoutError:
                self._pass_over(store, records.unanswered(store, "download", self.key))
            else:
                self.taken[store.name] += len(data)
                return data
        raise self.failure()

    def _check(self, store: ObjectStore, data: bytes, start: int, end: int) -> None:
        """Refuse a short span, and any block that is not the one the manifest names."""
        good = len(data) == end - start
        if good and self.manifest is not None:
            block, view = self.manifest.block_size, memoryview(data)
            found = [hashlib.sha256(view[at : at + block]).hexdigest() for at in range(0, len(data), block)]
            good = found == list(self.manifest.blocks[start // block : -(-end // block)])
        if not good:
            raise IntegrityError(
                f"bytes {start} to {end} are not the ones that were stored",
                backend=store.name,
                operation="download",
                key=self.key,
                hint="run verify, then repair",
            )

    def _pass_over(self, store: ObjectStore, error: FsbackupError) -> None:
        if store.name not in self.failed:
            log.warning("download of %s passes over %s: %s", self.key, store.name, error)
        self.failed[store.name] = error

    def failure(self) -> FsbackupError:
        """Return the error for an object that no replica could give."""
        reasons = "; ".join(str(error) for error in self.failed.values()) or "no replica has its data"
        damaged = any(isinstance(error, IntegrityError) for error in self.failed.values())
        kind = IntegrityError if damaged else NoHealthyReplicaError
        return kind(f"no replica gave the right bytes: {reasons}", operation="download", key=self.key)


def _patience(store: ObjectStore, length: int) -> float:
    """Return how long one read may take: its store's silence, and time for the bytes at a crawl (16 KiB/s)."""
    return store.timeout + records.BACKSTOP + length / 16_384


async def locate(stores: tuple[ObjectStore, ...], key: str) -> Reading:
    """Find out what `key` is and which replicas to read it from.

    Raises
    ------
    ObjectNotFoundError
        When every replica says that there is no such key, or that it was deleted.
    NoHealthyReplicaError
        When none has it and not all could be asked.
    """
    findings = await records.survey_in_time(stores, key)
    top = versions.newest(finding.record for finding in findings)
    errors = {f.store.name: f.error for f in findings if f.error is not None}
    if versions.contradicts([finding.record for finding in findings], top):
        log.warning(
            "%s has two contents under generation %d: one of them is read", key, top.generation if top else 0
        )
    if isinstance(top, Manifest):
        current = [f.store for f in findings if _has_version(f, top)]
        rest = [f.store for f in findings if f.error is None and f.stat is not None and f.store not in current]
        if not current and not rest:
            raise _absent(key, errors, "its manifest is there, but its data is gone")
        return Reading(key, top.size, top, current + rest, failed=errors)
    bare = [f for f in findings if f.stat is not None]
    if bare and top is None:
        if any(f.damaged for f in findings):
            raise IntegrityError(
                "its manifest is damaged wherever there is one, so that nothing proves its bytes",
                operation="download",
                key=key,
                hint="compare the copies by hand; they are plain files under their own names",
            )
        return _unverified(key, bare, errors)
    raise _absent(key, errors, "it was deleted" if isinstance(top, Tombstone) else "no such key")


def _has_version(finding: Finding, top: Manifest) -> bool:
    own = finding.manifest
    return own is not None and finding.stat is not None and own.sha256 == top.sha256


def _unverified(key: str, bare: list[Finding], errors: dict[str, FsbackupError]) -> Reading:
    first = bare[0]
    stat: ObjectStat | None = first.stat
    assert stat is not None
    log.warning("%s has no manifest on any replica: read unverified from %s", key, first.store.name)
    same_size = [f.store for f in bare if f.stat is not None and f.stat.size == stat.size]
    # One replica only: without hashes, spans of two replicas could be spans of two different objects.
    return Reading(key, stat.size, None, same_size[:1], failed=errors)


def _absent(key: str, errors: dict[str, FsbackupError], why: str) -> FsbackupError:
    if not errors:
        return ObjectNotFoundError(why, operation="download", key=key)
    reasons = "; ".join(str(error) for error in errors.values())
    return NoHealthyReplicaError(
        f"the replicas that answered do not have it, but not all answered: {reasons}",
        operation="download",
        key=key,
        hint="try again when they are back",
    )


async def successor(stores: tuple[ObjectStore, ...], reading: Reading) -> Reading | None:
    """Return the version that replaced the one in `reading` while it was read, None when there is none.

    Either its manifest is there by now, or a crash left it announced with its data in place.

    Raises
    ------
    ObjectNotFoundError, NoHealthyReplicaError
        When the object is gone by now.
    """
    if reading.manifest is None:
        return None
    again = await locate(stores, reading.key)
    if again.manifest is not None and again.manifest.sha256 != reading.manifest.sha256:
        return again
    return await _announced(stores, reading.manifest)


async def _announced(stores: tuple[ObjectStore, ...], current: Manifest) -> Reading | None:
    found = await asyncio.gather(
        *(records.announced(store, current.key) for store in stores), return_exceptions=True
    )
    pairs = [(each, store) for each, store in zip(found, stores, strict=True) if isinstance(each, Manifest)]
    newer = [each for each, _ in pairs if each.generation > current.generation]
    top = max(newer, key=lambda each: each.generation, default=None)
    if top is None:
        return None
    return Reading(current.key, top.size, top, [store for each, store in pairs if each.sha256 == top.sha256])


def same_beginning(one: Reading, other: Reading, length: int) -> bool:
    """Tell whether both versions start with the same `length` bytes, as far as their manifests can tell."""
    if one.manifest is None or other.manifest is None or one.manifest.block_size != other.manifest.block_size:
        return length == 0
    whole, rest = divmod(length, one.manifest.block_size)
    return rest == 0 and one.manifest.blocks[:whole] == other.manifest.blocks[:whole]
