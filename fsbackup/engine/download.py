"""Reading an object from whichever replica proves its bytes.

All replicas are asked for the manifest at once; the highest generation among the answers is what is read, from
all replicas that have it (see `fsbackup.engine.reader`).
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial

from fsbackup.engine import records, versions
from fsbackup.engine.breaker import CircuitBreaker
from fsbackup.engine.reader import ParallelReader
from fsbackup.engine.records import ReplicaState
from fsbackup.engine.replicas import DEFAULT_MEMORY, DEFAULT_STALL
from fsbackup.engine.selector import ReplicaSelector
from fsbackup.errors import FsbackupError, IntegrityError, NoHealthyReplicaError, ObjectNotFoundError
from fsbackup.keys import encode_key
from fsbackup.record import Manifest, Tombstone
from fsbackup.sizing import MIB
from fsbackup.stores.base import ObjectStat, ObjectStore

log = logging.getLogger("fsbackup.storage")

#: Bytes up to which a read comes from one replica, the one whose turn it is.
SHORT = 4 * MIB
#: Bytes up to which a read is one request to each replica: what a reader asks for at a time, and more would cost.
MEDIUM = 16 * MIB


@dataclass
class ObjectReader:
    """One object about to be read, and what happened while it was.

    Parameters
    ----------
    key, size
        The object; size in bytes.
    manifest
        None when no replica has one: then the bytes are unverified.
    stores
        The replicas that say they have it, best first.
    spare
        Replicas that hold something else by what they say, asked only for what no other can give.
    taken
        Bytes had from each backend.
    failed
        The last error of each backend that was passed over.
    memory
        Bytes that may be held at once.
    stall
        Seconds without a byte after which another replica is asked.
    modified
        When an object without a manifest was stored, epoch seconds; None for others, or where that is not known.
    turns
        Which replica is asked first for what is too short to come from several.
    """

    key: str
    size: int
    manifest: Manifest | None
    stores: list[ObjectStore]
    fallback: list[ObjectStore] = field(default_factory=list)
    bytes_read: Counter[str] = field(default_factory=Counter)
    failed: dict[str, FsbackupError] = field(default_factory=dict)
    memory: int = DEFAULT_MEMORY
    stall: float = DEFAULT_STALL
    modified: float | None = None
    selector: ReplicaSelector = field(default_factory=ReplicaSelector)

    async def pieces(self, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        """Yield the bytes from `start` (a whole number of blocks) up to `end`, in order, proven, as they come.

        Raises
        ------
        IntegrityError
            When replicas answered, but none with the right bytes.
        NoHealthyReplicaError
            When no replica could be read.
        """
        async with aclosing(self.ranges(start, end, ordered=True)) as runs:
            async for _, pieces in runs:
                for piece in pieces:
                    yield piece

    async def ranges(
        self, start: int = 0, end: int | None = None, *, ordered: bool = False
    ) -> AsyncGenerator[tuple[int, list[bytes]], None]:
        """Yield (offset, the pieces there) as `pieces` does, but by default in the order in which they come."""
        stop = self.size if end is None else min(end, self.size)
        left = stop - start
        # One that failed before is asked for what no other can give.
        good = [store for store in self.stores if store.name not in self.failed]
        first = self.selector.pick(good) if left <= SHORT else None
        good.sort(key=lambda store: store is not first)
        with self.selector.track(first):
            async with aclosing(self._reader(good, start, stop, first).ranges(ordered=ordered)) as runs:
                async for offset, pieces in runs:
                    left -= sum(map(len, pieces))
                    yield offset, pieces
        if left > 0:
            raise self.failure()

    async def range(self, start: int, end: int) -> bytes:
        """Return the bytes from `start` up to `end`; whole blocks around them are read and proven."""
        end = min(end, self.size)
        if start >= end:
            return b""
        block = self.manifest.block_size if self.manifest else 1
        low = start // block * block
        # Blocks are proven whole; without a manifest there is nothing to prove, and nothing more is read.
        high = min(-(-end // block) * block, self.size)
        pieces = [data async for data in self.pieces(low, high)]
        return b"".join(pieces)[start - low : end - low]

    def _reader(self, good: list[ObjectStore], start: int, end: int, first: ObjectStore | None) -> ParallelReader:
        medium = end - start <= min(MEDIUM, self.memory // 2)
        return ParallelReader(
            good,
            [store for store in self.stores if store not in good] + self.fallback,
            self.key,
            encode_key(self.key),
            self.manifest,
            start,
            end,
            into=(1 if first else max(1, len(good))) if medium else None,
            memory=self.memory,
            stall=self.stall,
            on_failover=self._fail_over,
            on_bytes=self._count,
        )

    def _count(self, store: ObjectStore, amount: int) -> None:
        self.bytes_read[store.name] += amount

    def _fail_over(self, store: ObjectStore, error: FsbackupError) -> None:
        if store.name not in self.failed:
            log.warning("download of %s passes over %s: %s", self.key, store.name, error)
        self.failed[store.name] = error

    def failure(self) -> FsbackupError:
        """Return the error for an object that no replica could give."""
        reasons = "; ".join(str(error) for error in self.failed.values()) or "no replica has its data"
        damaged = any(isinstance(error, IntegrityError) for error in self.failed.values())
        kind = IntegrityError if damaged else NoHealthyReplicaError
        return kind(f"no replica gave the right bytes: {reasons}", operation="download", key=self.key)


async def locate(
    stores: tuple[ObjectStore, ...],
    key: str,
    *,
    memory: int = DEFAULT_MEMORY,
    stall: float = DEFAULT_STALL,
    breaker: CircuitBreaker | None = None,
    selector: ReplicaSelector | None = None,
    with_data: bool = True,
) -> ObjectReader:
    """Find out what `key` is and which replicas to read it from; the options are those of `ObjectReader`.

    With `breaker`, what was found out about the stores before counts, and is not logged again. Without `with_data`
    manifests are believed to have their data beside them, as far as there are any: the bytes will tell.

    Raises
    ------
    ObjectNotFoundError
        When every replica says that there is no such key, or that it was deleted.
    NoHealthyReplicaError
        When none has it and not all could be asked.
    """
    ask = breaker.query if breaker is not None else records.query
    findings = await records.survey_without_stragglers(stores, key, partial(ask, with_data=with_data))
    top = versions.newest(finding.record for finding in findings)
    errors = {f.store.name: f.error for f in findings if f.error is not None}
    for name, error in errors.items() if breaker is None else ():
        log.warning("download of %s goes on without %s: %s", key, name, error)
    if versions.is_conflict([finding.record for finding in findings], top):
        log.warning(
            "%s has two contents under generation %d: one of them is read", key, top.generation if top else 0
        )
    if isinstance(top, Manifest):
        current = [f.store for f in findings if (f.holds(top) if with_data else f.claims(top))]
        there = [f for f in findings if f.error is None and (f.stat is not None or not with_data)]
        spare = [f.store for f in there if f.store not in current]
        if not current and not spare:
            raise absence_error(key, errors, "its manifest is there, but its data is gone")
        return ObjectReader(
            key,
            top.size,
            top,
            current,
            spare,
            failed=errors,
            memory=memory,
            stall=stall,
            selector=selector or ReplicaSelector(),
        )
    if not with_data and top is None:
        return await locate(stores, key, memory=memory, stall=stall, breaker=breaker, selector=selector)
    bare = [f for f in findings if f.stat is not None]
    if bare and top is None:
        if any(f.damaged for f in findings):
            raise IntegrityError(
                "its manifest is damaged wherever there is one, so that nothing proves its bytes",
                operation="download",
                key=key,
                hint="compare the copies by hand; they are plain files under their own names",
            )
        reading = _unverified(key, bare, errors)
        reading.memory, reading.stall = memory, stall
        return reading
    raise absence_error(key, errors, "it was deleted" if isinstance(top, Tombstone) else "no such key")


def _unverified(key: str, bare: list[ReplicaState], errors: dict[str, FsbackupError]) -> ObjectReader:
    first = bare[0]
    stat: ObjectStat | None = first.stat
    assert stat is not None
    log.warning("%s has no manifest on any replica: read unverified from %s", key, first.store.name)
    same_size = [f.store for f in bare if f.stat is not None and f.stat.size == stat.size]
    # One replica only: without hashes, spans of two replicas could be spans of two different objects.
    return ObjectReader(key, stat.size, None, same_size[:1], failed=errors, modified=stat.modified)


def absence_error(
    key: str,
    errors: Mapping[str, FsbackupError],
    why: str,
    *,
    operation: str = "download",
    answer: str = "do not have it",
) -> FsbackupError:
    """Return the error for what no replica has: "not found", and why, only when every one said so."""
    if not errors:
        return ObjectNotFoundError(why, operation=operation, key=key)
    reasons = "; ".join(str(error) for error in errors.values())
    return NoHealthyReplicaError(
        f"the replicas that answered {answer}, but not all answered: {reasons}",
        operation=operation,
        key=key,
        hint="try again when they are back",
    )


async def newer_version(stores: tuple[ObjectStore, ...], reading: ObjectReader) -> ObjectReader | None:
    """Return the version that replaced the one in `reading` while it was read, None when there is none.

    Either its manifest is there by now, or a crash left it announced with its data in place.

    Raises
    ------
    ObjectNotFoundError, NoHealthyReplicaError
        When the object is gone by now.
    """
    if reading.manifest is None:
        return None
    again = await locate(
        stores, reading.key, memory=reading.memory, stall=reading.stall, selector=reading.selector
    )
    if again.manifest is not None and again.manifest.sha256 != reading.manifest.sha256:
        return again
    return await _intended(stores, reading, reading.manifest)


async def _intended(
    stores: tuple[ObjectStore, ...], reading: ObjectReader, current: Manifest
) -> ObjectReader | None:
    found = await asyncio.gather(
        *(records.read_intent(store, current.key) for store in stores), return_exceptions=True
    )
    pairs = [(each, store) for each, store in zip(found, stores, strict=True) if isinstance(each, Manifest)]
    newer = [each for each, _ in pairs if each.generation > current.generation]
    top = max(newer, key=lambda each: each.generation, default=None)
    if top is None:
        return None
    having = [store for each, store in pairs if each.sha256 == top.sha256]
    return ObjectReader(
        current.key, top.size, top, having, memory=reading.memory, stall=reading.stall, selector=reading.selector
    )


def same_beginning(one: ObjectReader, other: ObjectReader, length: int) -> bool:
    """Tell whether both versions start with the same `length` bytes, as far as their manifests can tell."""
    if one.manifest is None or other.manifest is None or one.manifest.block_size != other.manifest.block_size:
        return length == 0
    whole, rest = divmod(length, one.manifest.block_size)
    return rest == 0 and one.manifest.blocks[:whole] == other.manifest.blocks[:whole]
