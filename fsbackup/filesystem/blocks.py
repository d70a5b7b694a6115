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
#: Bytes that hold a block, and perhaps its neighbours, and where in the object they begin.
Piece = tuple[int, bytes]

#: Bytes of blocks that many ranges are read through at a time.
_BATCH = 64 * MIB
#: The most bytes of one request. Each costs the server some: SeaweedFS spends on 16 requests of 4 MiB half as
#: much again as on 4 of 16 MiB.
_LONG = 16 * MIB
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
        self._blocks: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._used = 0

    def get(self, sha256: str, number: int) -> bytes | None:
        """Return block `number` of the object with this hash, None when it is not remembered."""
        block = self._blocks.get((sha256, number))
        if block is not None:
            self._blocks.move_to_end((sha256, number))
        return block

    def put(self, sha256: str, number: int, block: bytes) -> None:
        """Remember a proven block, and forget those not asked for for longest."""
        if len(block) > self._room or (sha256, number) in self._blocks:
            return
        self._blocks[sha256, number] = block
        self._used += len(block)
        while self._used > self._room:
            self._used -= len(self._blocks.popitem(last=False)[1])

    def clear(self) -> None:
        """Forget everything."""
        self._blocks.clear()
        self._used = 0


async def read(reading: Reading, ranges: Sequence[Range], cache: BlockCache, *, keep: bool = True) -> list[bytes]:
    """Return the bytes of each range, which lies within the object, in the order asked for.

    Without `keep` nothing of it is remembered.

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
        pieces = await _pieces(reading, reading.manifest, [ranges[at] for at in batch], cache, keep=keep)
        found.update((at, _cut(pieces, block, ranges[at])) for at in batch)
    return [found[at] for at in range(len(ranges))]


async def _pieces(
    reading: Reading, manifest: Manifest, ranges: Iterable[Range], cache: BlockCache, *, keep: bool
) -> dict[int, Piece]:
    """Return every block that the ranges touch."""
    block = manifest.block_size
    numbers = sorted({number for each in ranges for number in _numbers(each, block)})
    found: dict[int, Piece] = {
        number: (number * block, kept)
        for number in numbers
        if (kept := cache.get(manifest.sha256, number)) is not None
    }
    gate = asyncio.Semaphore(_AT_ONCE)

    async def fetch(first: int, stop: int) -> None:
        async with gate:
            found.update(await _run(reading, manifest, first, stop))
        # A long run goes by; what comes after it begins in its last block.
        short = (stop - first) * block <= SPAN
        for number in range(first if short else stop - 1, stop) if keep else ():
            cache.put(manifest.sha256, number, _block(found[number], number, block))

    await all_or_none([fetch(*run) for run in _runs(number for number in numbers if number not in found)])
    return found


async def _run(reading: Reading, manifest: Manifest, first: int, stop: int) -> dict[int, Piece]:
    """Read consecutive blocks."""
    block, found = manifest.block_size, dict[int, Piece]()
    at = first * block
    share = (stop - first) * block // max(1, len(reading.stores))
    async with aclosing(reading.spans(at, stop * block, span=min(max(share, SPAN), _LONG))) as spans:
        async for span in spans:
            found.update((number, (at, span)) for number in _numbers((at, at + len(span)), block))
            at += len(span)
    return found


def _block(piece: Piece, number: int, block: int) -> bytes:
    begin, data = piece
    return data[number * block - begin : (number + 1) * block - begin]


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


def _cut(pieces: dict[int, Piece], block: int, wanted: Range) -> bytes:
    """Return the bytes of a range; those that came as one piece are not copied."""
    start, end = wanted
    cut: list[memoryview] = []
    while start < end:
        begin, data = pieces[start // block]
        if not cut and end <= begin + len(data):
            return data[start - begin : end - begin]
        cut.append(memoryview(data)[start - begin : end - begin])
        start = begin + len(data)
    return b"".join(cut)
