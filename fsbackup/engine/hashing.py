"""Hashes of an object and of its blocks while it is streamed, and the verification of blocks that were read."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from blake3 import blake3

from fsbackup.record import BLAKE3, Manifest
from fsbackup.sizing import BLOCK_SIZE, DEFAULT_PART_SIZE, MAX_BLOCKS, STREAM_BLOCK_SIZE, block_size


@dataclass(frozen=True, slots=True)
class Digest:
    """The size of an object in bytes, its SHA-256 and the hashes of its blocks, lower-case hex."""

    size: int
    sha256: str
    block_size: int
    blocks: tuple[str, ...]
    block_hash: str | None = None


class Hash(Protocol):
    """What `hashlib` and `blake3` have in common."""

    def update(self, data: bytes | memoryview, /) -> object:
        """Add the next bytes."""

    def hexdigest(self) -> str:
        """Return the hash of all bytes added so far, lower-case hex."""


def _new_hash(name: str | None, data: bytes | memoryview = b"") -> Hash:
    """Return the hash of a manifest's `block_hash`."""
    return blake3(data) if name == BLAKE3 else hashlib.sha256(data)


class BlockHasher:
    """The hash of every block of `size` bytes of a stream that arrives in pieces of any length.

    `name` is a manifest's `block_hash`.
    """

    def __init__(self, size: int, name: str | None) -> None:
        self.size = size
        self._name = name
        self._hashes: list[str] = []
        self._current = _new_hash(name)
        self._filled = 0

    def update(self, data: bytes | memoryview) -> None:
        """Add the next bytes."""
        view = memoryview(data)
        while view:
            piece = view[: self.size - self._filled]
            self._current.update(piece)
            self._filled += len(piece)
            view = view[len(piece) :]
            if self._filled == self.size:
                self._close_block()

    def _close_block(self) -> None:
        self._hashes.append(self._current.hexdigest())
        self._current, self._filled = _new_hash(self._name), 0

    def matches(self, offset: int, data: bytes | memoryview) -> bool | None:
        """Return whether `data` are the bytes seen at `offset`; None where they are not whole blocks seen."""
        first, before = divmod(offset, self.size)
        count, after = divmod(len(data), self.size)
        if before or after or first + count > len(self._hashes):
            return None
        view = memoryview(data)
        pieces = (view[at * self.size : (at + 1) * self.size] for at in range(count))
        seen = self._hashes[first : first + count]
        return all(_new_hash(self._name, each).hexdigest() == one for each, one in zip(pieces, seen, strict=True))

    def blocks(self) -> tuple[str, ...]:
        """Return the hashes of all blocks; the last block may be shorter."""
        last = (self._current.hexdigest(),) if self._filled else ()
        return (*self._hashes, *last)


class ObjectHasher:
    """Computes the digest of one object from its bytes in order.

    Parameters
    ----------
    size
        Bytes, or the most that there can be; None for a stream of unknown length. The block size follows from it;
        for such a stream two block sizes are hashed at once, and the smaller is used when the object has at most
        `MAX_BLOCKS` of its blocks.
    blocks
        False: only the whole is hashed, and there is no `digest`.
    """

    def __init__(self, size: int | None, *, blocks: bool = True) -> None:
        sizes = (BLOCK_SIZE, STREAM_BLOCK_SIZE) if size is None else (block_size(size),)
        self._whole = hashlib.sha256()
        # An object of one block: the hash of the block is that of the whole, and is not computed twice.
        is_single = size is not None and size <= BLOCK_SIZE
        self._block_hashers = [BlockHasher(each, BLAKE3) for each in sizes if blocks and not is_single]
        self._size = 0

    def update(self, data: bytes | memoryview) -> None:
        """Add the next bytes."""
        self._whole.update(data)
        self._size += len(data)
        for hasher in self._block_hashers:
            hasher.update(data)

    def matches(self, offset: int, data: bytes | memoryview) -> bool | None:
        """Return as `BlockHasher.matches` whether `data` are the bytes seen at `offset`."""
        return self._block_hashers[0].matches(offset, data) if self._block_hashers else None

    @property
    def sha256(self) -> str:
        """The SHA-256 (hex) of all bytes added so far."""
        return self._whole.hexdigest()

    def digest(self) -> Digest:
        """Return the digest of all bytes added so far."""
        if self._size <= BLOCK_SIZE:
            sha256 = self._whole.hexdigest()
            return Digest(self._size, sha256, BLOCK_SIZE, (sha256,) if self._size else ())
        fits = self._size <= MAX_BLOCKS * self._block_hashers[0].size
        chosen = self._block_hashers[0 if fits else -1]
        return Digest(self._size, self._whole.hexdigest(), chosen.size, chosen.blocks(), BLAKE3)


async def content_hash(read: Callable[[int, int], Awaitable[bytes | memoryview | None]], size: int) -> str:
    """Return the SHA-256 (hex) of the first `size` bytes as `read(offset, length)` returns them."""
    hasher = hashlib.sha256()
    for offset in range(0, size, DEFAULT_PART_SIZE):
        data = await read(offset, min(DEFAULT_PART_SIZE, size - offset))
        await asyncio.to_thread(hasher.update, data or b"")
    return hasher.hexdigest()


#: (start, end) within an object, in bytes; `end` is exclusive.
ByteRange = tuple[int, int]


def verified_ranges(pieces: Sequence[bytes], start: int, end: int, manifest: Manifest | None) -> list[ByteRange]:
    """Return the ranges of `pieces` whose blocks match the manifest, adjacent blocks joined.

    Parameters
    ----------
    pieces
        Together the bytes from `start` to `end`, as far as the store returned them.
    start, end
        The requested range; `start` is the beginning of a block.
    manifest
        None: the whole range counts as verified when the number of bytes is right.

    More bytes than requested are never verified: it is not known which of them are the requested ones.
    """
    length = sum(map(len, pieces))
    if manifest is None or length > end - start:
        return [(start, end)] if length == end - start else []
    block = manifest.block_size
    hasher = BlockHasher(block, manifest.block_hash)
    for piece in pieces:
        hasher.update(piece)
    verified: list[ByteRange] = []
    for offset, found in zip(range(start, end, block), hasher.blocks(), strict=False):
        stop = min(offset + block, end)
        if found != manifest.blocks[offset // block]:
            continue
        if verified and verified[-1][1] == offset:
            verified[-1] = (verified[-1][0], stop)
        else:
            verified.append((offset, stop))
    return verified


def missing_ranges(verified: list[ByteRange], start: int, end: int) -> list[ByteRange]:
    """Return the ranges between `start` and `end` that are not in `verified`."""
    edges = [start, *(edge for each in verified for edge in each), end]
    return [(low, high) for low, high in zip(edges[::2], edges[1::2], strict=True) if low < high]
