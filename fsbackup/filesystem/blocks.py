"""Ranges of one version, made of proven blocks: each block once, neighbours in one request, a few remembered."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import aclosing

from fsbackup.manifest import Manifest
from fsbackup.sizing import MIB
from fsbackup.transfer.download import SPAN, Reading
from fsbackup.transfer.together import all_or_none

#: (start, end) in bytes.
Range = tuple[int, int]
Block = bytes | memoryview
#: Content, how it is cut, and which piece.
_Key = tuple[str, int, int]

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
        self._blocks: OrderedDict[_Key, bytes] = OrderedDict()
        self._used = 0

    def get(self, manifest: Manifest, number: int) -> bytes | None:
        """Return block `number` of a version, None when it is not remembered."""
        key = _key(manifest, number)
        block = self._blocks.get(key)
        if block is not None:
            self._blocks.move_to_end(key)
        return block

    def put(self, manifest: Manifest, number: int, block: bytes) -> None:
        """Remember a proven block, and forget those not asked for for longest."""
        key = _key(manifest, number)
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


def _key(manifest: Manifest, number: int) -> _Key:
    return manifest.sha256, manifest.block_size, number


async def read(reading: Reading, ranges: Sequence[Range], cache: BlockCache) -> list[bytes]:
    """Return the bytes of each range, which lies within the object, in the order asked for.

    Raises
    ------
    IntegrityError, NoHealthyReplicaError
        When no replica could give proven bytes.
    """
    if reading.manifest is None:
        return [await reading.range(*each) for each in ranges]
    found: dict[int, bytes] = {}
    block = reading.manifest.block_size
    for batch in _batches(ranges, block):
        blocks = await _blocks(reading, reading.manifest, [ranges[at] for at in batch], cache)
        found.update((at, _cut(blocks, block, ranges[at])) for at in batch)
    return [found[at] for at in range(len(ranges))]


async def _blocks(
    reading: Reading, manifest: Manifest, ranges: Iterable[Range], cache: BlockCache
) -> dict[int, Block]:
    """Return every block that the ranges touch."""
    numbers = sorted({number for each in ranges for number in _numbers(each, manifest.block_size)})
    found: dict[int, Block] = {
        number: kept for number in numbers if (kept := cache.get(manifest, number)) is not None
    }
    gate = asyncio.Semaphore(_AT_ONCE)

    async def fetch(first: int, stop: int) -> None:
        async with gate:
            found.update(await _run(reading, manifest, first, stop))
        for number in range(first, stop):
            # A long run goes by; what comes after it begins in its last block.
            if (stop - first) * manifest.block_size <= SPAN or number == stop - 1:
                cache.put(manifest, number, bytes(found[number]))

    await all_or_none([fetch(*run) for run in _runs(number for number in numbers if number not in found)])
    return found


async def _run(reading: Reading, manifest: Manifest, first: int, stop: int) -> dict[int, Block]:
    """Read consecutive blocks."""
    block, found = manifest.block_size, dict[int, Block]()
    async with aclosing(reading.spans(first * block, stop * block)) as spans:
        async for span in spans:
            view = memoryview(span)
            for offset in range(0, len(span), block):
                found[first + len(found)] = view[offset : offset + block]
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


def _cut(blocks: dict[int, Block], block: int, wanted: Range) -> bytes:
    start, end = wanted
    pieces = [
        memoryview(blocks[number])[max(start - number * block, 0) : end - number * block]
        for number in _numbers(wanted, block)
    ]
    return b"".join(pieces)
