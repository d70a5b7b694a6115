"""Hashing an object while it streams by: SHA-256 of the whole and of each block."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from fsbackup.record import Manifest
from fsbackup.sizing import BLOCK_SIZE, DEFAULT_PART_SIZE, MAX_BLOCKS, STREAM_BLOCK_SIZE, block_size


@dataclass(frozen=True, slots=True)
class Digest:
    """What the bytes of one object are: size, whole SHA-256 and block SHA-256s, lower-case hex."""

    size: int
    sha256: str
    block_size: int
    blocks: tuple[str, ...]


class BlockHasher:
    """SHA-256 of every `size` bytes of a stream that arrives in pieces of any length."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._done: list[str] = []
        self._open = hashlib.sha256()
        self._filled = 0

    def update(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            piece = view[: self.size - self._filled]
            self._open.update(piece)
            self._filled += len(piece)
            view = view[len(piece) :]
            if self._filled == self.size:
                self._close_block()

    def _close_block(self) -> None:
        self._done.append(self._open.hexdigest())
        self._open, self._filled = hashlib.sha256(), 0

    def blocks(self) -> tuple[str, ...]:
        """Return all blocks' hashes; an object that ends inside a block has a shorter last one."""
        rest = (self._open.hexdigest(),) if self._filled else ()
        return (*self._done, *rest)


class ObjectHasher:
    """The digest of one object, fed in order.

    A stream's length is not known, and with it the block size: two are hashed side by side, and the small
    one is kept when the stream turns out to fit the manifest.
    """

    def __init__(self, size: int | None) -> None:
        sizes = (BLOCK_SIZE, STREAM_BLOCK_SIZE) if size is None else (block_size(size),)
        self._whole = hashlib.sha256()
        # The one block of a small object is the object: its hash is the same and not computed twice.
        self._single = size is not None and size <= BLOCK_SIZE
        self._blocks = [BlockHasher(each) for each in sizes]
        self._size = 0

    def update(self, data: bytes) -> None:
        self._whole.update(data)
        self._size += len(data)
        for hasher in self._blocks if not self._single else ():
            hasher.update(data)

    def digest(self) -> Digest:
        if self._single and self._size <= BLOCK_SIZE:
            sha256 = self._whole.hexdigest()
            return Digest(self._size, sha256, BLOCK_SIZE, (sha256,) if self._size else ())
        fits = self._size <= MAX_BLOCKS * self._blocks[0].size
        chosen = self._blocks[0 if fits else -1]
        return Digest(self._size, self._whole.hexdigest(), chosen.size, chosen.blocks())


async def content_hash(read: Callable[[int, int], Awaitable[bytes | None]], size: int) -> str:
    """Return the SHA-256 (hex) of `size` bytes had by `read(offset, length)`; of fewer where it has fewer."""
    hasher = hashlib.sha256()
    for offset in range(0, size, DEFAULT_PART_SIZE):
        data = await read(offset, min(DEFAULT_PART_SIZE, size - offset))
        await asyncio.to_thread(hasher.update, data or b"")
    return hasher.hexdigest()


#: (start, end) of bytes within an object.
ByteRange = tuple[int, int]


def verified_ranges(pieces: Sequence[bytes], start: int, end: int, manifest: Manifest | None) -> list[ByteRange]:
    """Return the runs of right blocks in `pieces`, together the bytes from `start` (a block's) up to `end`.

    Without a manifest nothing proves them but their number. Of more bytes than were asked for nothing is right.
    """
    length = sum(map(len, pieces))
    if manifest is None or length > end - start:
        return [(start, end)] if length == end - start else []
    block = manifest.block_size
    hasher = BlockHasher(block)
    for piece in pieces:
        hasher.update(piece)
    runs: list[ByteRange] = []
    for at, found in zip(range(start, end, block), hasher.blocks(), strict=False):
        stop = min(at + block, end)
        if found != manifest.blocks[at // block]:
            continue
        if runs and runs[-1][1] == at:
            runs[-1] = (runs[-1][0], stop)
        else:
            runs.append((at, stop))
    return runs


def missing_ranges(runs: list[ByteRange], start: int, end: int) -> list[ByteRange]:
    """Return what of `start` to `end` the runs leave out."""
    edges = [start, *(edge for run in runs for edge in run), end]
    return [(low, high) for low, high in zip(edges[::2], edges[1::2], strict=True) if low < high]
