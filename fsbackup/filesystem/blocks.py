"""Ranges of one version, read as proven blocks: each block once, adjacent blocks in one request.

`read` is the one entry. It groups many ranges into batches of bounded size, those that share blocks together. A
single range it reads by sub-blocks where their hashes are known, so that a small one costs no whole block again.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from operator import itemgetter

from fsbackup.aio import run_all
from fsbackup.engine.download import ObjectReader
from fsbackup.engine.reader import SHORT_READ
from fsbackup.filesystem.caches import BlockCache, block_key
from fsbackup.record import Manifest
from fsbackup.sizing import MIB

#: (start, end) in bytes.
Range = tuple[int, int]

#: Bytes of blocks that one batch of ranges reads.
_BATCH = 64 * MIB
#: Requests of one batch at a time.
_MAX_REQUESTS = 16


async def read(
    reader: ObjectReader, ranges: Sequence[Range], cache: BlockCache, *, add_to_cache: bool = True
) -> list[bytes]:
    """Return the bytes of each range, in the order of `ranges`; all lie within the object.

    Without `add_to_cache`, blocks are taken from the cache and none is added.

    Raises
    ------
    IntegrityError, NoHealthyReplicaError
        When no replica could give proven bytes.
    """
    if reader.manifest is None:
        return [await reader.range(*each) for each in ranges]
    if len(ranges) == 1:
        return [await _read_one(reader, reader.manifest, ranges[0], cache, add_to_cache=add_to_cache)]
    found: dict[int, bytes] = {}
    for batch in _batches(ranges, reader.manifest.block_size):
        in_batch = [ranges[index] for index in batch]
        pieces = await _read_blocks(reader, reader.manifest, in_batch, cache, add_to_cache=add_to_cache)
        found.update((index, pieces.get(*ranges[index])) for index in batch)
    return [found[index] for index in range(len(ranges))]


async def _read_one(
    reader: ObjectReader, manifest: Manifest, wanted: Range, cache: BlockCache, *, add_to_cache: bool
) -> bytes:
    """Return one range; by sub-blocks where their hashes are known and the blocks are not cached."""
    numbers = _block_numbers(wanted, manifest.block_size)
    cached = any(block_key(manifest, number) in cache for number in numbers)
    finer = None if cached else cache.sub_blocks.sub_block_manifest(manifest, numbers)
    if finer is not None:
        fine_reader = replace(reader, plan=replace(reader.plan, manifest=finer))
        pieces = await _read_blocks(fine_reader, finer, [wanted], cache, add_to_cache=add_to_cache)
        return pieces.get(*wanted)
    pieces = await _read_blocks(reader, manifest, [wanted], cache, add_to_cache=add_to_cache)
    # A reader of a small part of a block may return for another part when the block is evicted.
    if add_to_cache and wanted[1] - wanted[0] <= manifest.block_size // 2:
        for number in numbers:
            start = number * manifest.block_size
            end = min(start + manifest.block_size, manifest.size)
            await cache.sub_blocks.add(manifest, number, partial(pieces.get, start, end))
    return pieces.get(*wanted)


class _Pieces:
    """Bytes of an object as (offset, data), joined only where a range spans several."""

    def __init__(self, pieces: Iterable[tuple[int, bytes]]) -> None:
        self._pieces = sorted(pieces, key=itemgetter(0))

    def get(self, start: int, end: int) -> bytes:
        """Return the bytes from `start` up to `end`, all of which are there."""
        index = bisect_right(self._pieces, start, key=itemgetter(0)) - 1
        parts: list[memoryview] = []
        while start < end:
            offset, data = self._pieces[index]
            if not parts and end <= offset + len(data):
                return data[start - offset : end - offset]
            parts.append(memoryview(data)[start - offset : end - offset])
            start, index = offset + len(data), index + 1
        return b"".join(parts)


async def _read_blocks(
    reader: ObjectReader, manifest: Manifest, ranges: Iterable[Range], cache: BlockCache, *, add_to_cache: bool
) -> _Pieces:
    """Return every block that the ranges touch, from the cache or from a replica."""
    block = manifest.block_size
    numbers = sorted({number for each in ranges for number in _block_numbers(each, block)})
    cached = {number: data for number in numbers if (data := cache.get(manifest, number)) is not None}
    found = [(number * block, data) for number, data in cached.items()]
    slots = asyncio.Semaphore(_MAX_REQUESTS)

    async def fetch(first: int, stop: int) -> None:
        async with slots:
            pieces = await _fetch(reader, first * block, stop * block)
        found.extend(pieces)
        # A long run would evict everything else; of it only the last block is cached, where the next read begins.
        short = (stop - first) * block <= SHORT_READ
        for number in range(first if short else stop - 1, stop) if add_to_cache else ():
            end = min((number + 1) * block, manifest.size)
            cache.put(manifest, number, _Pieces(pieces).get(number * block, end))

    await run_all([fetch(*run) for run in _consecutive(number for number in numbers if number not in cached)])
    return _Pieces(found)


async def _fetch(reader: ObjectReader, start: int, end: int) -> list[tuple[int, bytes]]:
    """Read consecutive blocks from the replicas."""
    found: list[tuple[int, bytes]] = []
    async with aclosing(reader.pieces(start, end)) as pieces:
        async for piece in pieces:
            found.append((start, piece))
            start += len(piece)
    return found


def _batches(ranges: Sequence[Range], block: int) -> Iterator[list[int]]:
    """Yield indices into `ranges`, those that share blocks together, for at most `_BATCH` bytes of blocks each."""
    batch: list[int] = []
    touched, last = 0, -1
    for index in sorted(range(len(ranges)), key=lambda each: ranges[each]):
        numbers = _block_numbers(ranges[index], block)
        new = len(range(max(numbers.start, last + 1), numbers.stop))
        if batch and (touched + new) * block > _BATCH:
            yield batch
            batch, touched, new = [], 0, len(numbers)
        batch.append(index)
        touched, last = touched + new, max(last, numbers.stop - 1)
    if batch:
        yield batch


def _block_numbers(wanted: Range, block: int) -> range:
    start, end = wanted
    return range(start // block, -(-end // block)) if start < end else range(0)


def _consecutive(numbers: Iterable[int]) -> Iterator[Range]:
    """Yield the runs of consecutive numbers as (first, last + 1)."""
    first = stop = -1
    for number in numbers:
        if number != stop:
            if stop > first:
                yield first, stop
            first = number
        stop = number + 1
    if stop > first:
        yield first, stop
