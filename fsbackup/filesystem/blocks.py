"""Ranges of one version, made of proven blocks: each block once, neighbours in one request, a few remembered."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from operator import itemgetter

from fsbackup.aio import run_all
from fsbackup.engine.download import ObjectReader
from fsbackup.engine.reader import SHORT_READ
from fsbackup.filesystem.subblocks import BlockKey, SubBlockHashes, key_of
from fsbackup.record import Manifest
from fsbackup.sizing import MIB

#: (start, end) in bytes.
Range = tuple[int, int]

#: Bytes of blocks that many ranges are read through at a time.
_BATCH = 64 * MIB
#: Requests on their way at once.
_AT_ONCE = 16


class BlockCache:
    """The blocks read last, by the content of the object that they are of: a replaced object's are never taken.

    Parameters
    ----------
    room
        Bytes.
    """

    def __init__(self, room: int) -> None:
        self._room = room
        self._blocks: OrderedDict[BlockKey, bytes] = OrderedDict()
        self._used = 0
        #: Of blocks that may be forgotten by now.
        self.leaves = SubBlockHashes()

    def __contains__(self, key: BlockKey) -> bool:
        return key in self._blocks

    def get(self, manifest: Manifest, number: int) -> bytes | None:
        """Return block `number` of a version, None when it is not remembered."""
        key = key_of(manifest, number)
        block = self._blocks.get(key)
        if block is not None:
            self._blocks.move_to_end(key)
        return block

    def put(self, manifest: Manifest, number: int, block: bytes) -> None:
        """Remember a proven block, and forget those not asked for for longest."""
        key = key_of(manifest, number)
        if len(block) > self._room or key in self._blocks:
            return
        self._blocks[key] = block
        self._used += len(block)
        while self._used > self._room:
            self._used -= len(self._blocks.popitem(last=False)[1])

    def clear(self) -> None:
        """Forget everything."""
        self._blocks.clear()
        self._used = 0
        self.leaves.clear()


async def read(
    reading: ObjectReader, ranges: Sequence[Range], cache: BlockCache, *, keep: bool = True
) -> list[bytes]:
    """Return the bytes of each range, which lies within the object, in the order asked for.

    Without `keep` nothing of it is remembered.

    Raises
    ------
    IntegrityError, NoHealthyReplicaError
        When no replica could give proven bytes.
    """
    if reading.manifest is None:
        return [await reading.range(*each) for each in ranges]
    if len(ranges) == 1:
        return [await _alone(reading, reading.manifest, ranges[0], cache, keep=keep)]
    found: dict[int, bytes] = {}
    for batch in _batches(ranges, reading.manifest.block_size):
        pieces = await _pieces(reading, reading.manifest, [ranges[at] for at in batch], cache, keep=keep)
        found.update((at, pieces.cut(*ranges[at])) for at in batch)
    return [found[at] for at in range(len(ranges))]


async def _alone(
    reading: ObjectReader, manifest: Manifest, wanted: Range, cache: BlockCache, *, keep: bool
) -> bytes:
    """Return one range; by leaves where these are known and the blocks are not at hand (any more)."""
    numbers = _numbers(wanted, manifest.block_size)
    at_hand = any(key_of(manifest, number) in cache for number in numbers)
    finer = None if at_hand else cache.leaves.manifest_of_sub_blocks(manifest, numbers)
    if finer is not None:
        fine_reader = replace(reading, plan=replace(reading.plan, manifest=finer))
        return (await _pieces(fine_reader, finer, [wanted], cache, keep=keep)).cut(*wanted)
    pieces = await _pieces(reading, manifest, [wanted], cache, keep=keep)
    # Who wants little of a block may come back for another little when the block is forgotten.
    if keep and wanted[1] - wanted[0] <= manifest.block_size // 2:
        for number in numbers:
            start = number * manifest.block_size
            end = min(start + manifest.block_size, manifest.size)
            await cache.leaves.learn(manifest, number, partial(pieces.cut, start, end))
    return pieces.cut(*wanted)


class _Pieces:
    """Bytes of an object in the pieces in which they came, joined only where a range spans several."""

    def __init__(self, pieces: Iterable[tuple[int, bytes]]) -> None:
        self._pieces = sorted(pieces, key=itemgetter(0))

    def cut(self, start: int, end: int) -> bytes:
        """Return the bytes from `start` up to `end`, all of which are there."""
        at = bisect_right(self._pieces, start, key=itemgetter(0)) - 1
        cut: list[memoryview] = []
        while start < end:
            begin, data = self._pieces[at]
            if not cut and end <= begin + len(data):
                return data[start - begin : end - begin]
            cut.append(memoryview(data)[start - begin : end - begin])
            start, at = begin + len(data), at + 1
        return b"".join(cut)


async def _pieces(
    reading: ObjectReader, manifest: Manifest, ranges: Iterable[Range], cache: BlockCache, *, keep: bool
) -> _Pieces:
    """Return every block that the ranges touch."""
    block = manifest.block_size
    numbers = sorted({number for each in ranges for number in _numbers(each, block)})
    kept = {number: data for number in numbers if (data := cache.get(manifest, number)) is not None}
    found = [(number * block, data) for number, data in kept.items()]
    gate = asyncio.Semaphore(_AT_ONCE)

    async def fetch(first: int, stop: int) -> None:
        async with gate:
            run = await _run(reading, first * block, stop * block)
        found.extend(run)
        # A long run goes by; what comes after it begins in its last block.
        short = (stop - first) * block <= SHORT_READ
        for number in range(first if short else stop - 1, stop) if keep else ():
            end = min((number + 1) * block, manifest.size)
            cache.put(manifest, number, _Pieces(run).cut(number * block, end))

    await run_all([fetch(*run) for run in _runs(number for number in numbers if number not in kept)])
    return _Pieces(found)


async def _run(reading: ObjectReader, start: int, end: int) -> list[tuple[int, bytes]]:
    """Read consecutive blocks."""
    found: list[tuple[int, bytes]] = []
    async with aclosing(reading.pieces(start, end)) as pieces:
        async for piece in pieces:
            found.append((start, piece))
            start += len(piece)
    return found


def _batches(ranges: Sequence[Range], block: int) -> Iterator[list[int]]:
    """Yield the ranges' places, ordered so that what shares blocks comes together, a bounded amount at a time."""
    batch: list[int] = []
    touched, last = 0, -1
    for at in sorted(range(len(ranges)), key=lambda each: ranges[each]):
        numbers = _numbers(ranges[at], block)
        new = len(range(max(numbers.start, last + 1), numbers.stop))
        if batch and (touched + new) * block > _BATCH:
            yield batch
            batch, touched, new = [], 0, len(numbers)
        batch.append(at)
        touched, last = touched + new, max(last, numbers.stop - 1)
    if batch:
        yield batch


def _numbers(wanted: Range, block: int) -> range:
    start, end = wanted
    return range(start // block, -(-end // block)) if start < end else range(0)


def _runs(numbers: Iterable[int]) -> Iterator[Range]:
    """Yield the runs of consecutive numbers as (first, after the last)."""
    first = stop = -1
    for number in numbers:
        if number != stop:
            if stop > first:
                yield first, stop
            first = number
        stop = number + 1
    if stop > first:
        yield first, stop
