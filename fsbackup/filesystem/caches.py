"""The caches of proven bytes: `BlockCache` for whole blocks, `SubBlockHashes` for what proves a part of one.

Both are keyed by content, never by name: a replaced object has other keys. Used on the I/O loop only.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import overload

from fsbackup.engine.hashing import BlockHasher
from fsbackup.record import BLAKE3, Manifest
from fsbackup.sizing import KIB

#: Bytes of a sub-block: about the size of a small read.
SUB_BLOCK = 64 * KIB
#: Hashes of sub-blocks kept, at about 120 bytes each: those of 4 GiB.
_MAX_HASHES = 65_536

#: SHA-256 of the object, block size, number of the block.
BlockKey = tuple[str, int, int]


def block_key(manifest: Manifest, number: int) -> BlockKey:
    """Return the cache key of block `number` of a version."""
    return manifest.sha256, manifest.block_size, number


class BlockCache:
    """The most recently used blocks.

    Parameters
    ----------
    max_bytes
        Bytes of blocks to keep.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._blocks: OrderedDict[BlockKey, bytes] = OrderedDict()
        self._used = 0
        #: These outlive their blocks.
        self.sub_blocks = SubBlockHashes()

    def __contains__(self, key: BlockKey) -> bool:
        return key in self._blocks

    def get(self, manifest: Manifest, number: int) -> bytes | None:
        """Return block `number` of a version, None when it is not cached."""
        key = block_key(manifest, number)
        block = self._blocks.get(key)
        if block is not None:
            self._blocks.move_to_end(key)
        return block

    def put(self, manifest: Manifest, number: int, block: bytes) -> None:
        """Add a proven block, and evict the least recently used ones."""
        key = block_key(manifest, number)
        if len(block) > self._max_bytes or key in self._blocks:
            return
        self._blocks[key] = block
        self._used += len(block)
        while self._used > self._max_bytes:
            self._used -= len(self._blocks.popitem(last=False)[1])

    def clear(self) -> None:
        """Remove everything."""
        self._blocks.clear()
        self._used = 0
        self.sub_blocks.clear()


class SubBlockHashes:
    """Hashes of the sub-blocks of blocks that were proven before.

    A manifest proves whole blocks. A reader of small ranges in a large file returns to a block long after it was
    evicted. The hashes of its sub-blocks, made while it was in memory, prove 64 KiB at a time, and take 500 times
    less memory than the block.
    """

    def __init__(self) -> None:
        self._hashes: OrderedDict[BlockKey, tuple[str, ...]] = OrderedDict()
        self._count = 0

    async def add(self, manifest: Manifest, number: int, get_block: Callable[[], bytes]) -> None:
        """Hash the sub-blocks of a proven block, once; not where the block size is no multiple of theirs."""
        key = block_key(manifest, number)
        if manifest.block_size % SUB_BLOCK or key in self._hashes:
            return
        hashes = await asyncio.to_thread(lambda: _hash_sub_blocks(get_block()))
        if key not in self._hashes:
            self._hashes[key] = hashes
            self._count += len(hashes)
        while self._count > _MAX_HASHES:
            self._count -= len(self._hashes.popitem(last=False)[1])

    def sub_block_manifest(self, manifest: Manifest, numbers: Iterable[int]) -> Manifest | None:
        """Return a manifest of the sub-blocks of blocks `numbers`, None when the hashes of one are unknown."""
        per_block = manifest.block_size // SUB_BLOCK
        found: dict[int, str] = {}
        for number in numbers:
            hashes = self._hashes.get(block_key(manifest, number))
            if hashes is None:
                return None
            self._hashes.move_to_end(block_key(manifest, number))
            found.update(enumerate(hashes, number * per_block))
        if not found:
            return None
        return replace(manifest, block_size=SUB_BLOCK, block_hash=BLAKE3, blocks=_SparseHashes(found))

    def clear(self) -> None:
        """Remove everything."""
        self._hashes.clear()
        self._count = 0


def _hash_sub_blocks(block: bytes) -> tuple[str, ...]:
    hasher = BlockHasher(SUB_BLOCK, BLAKE3)
    hasher.update(block)
    return hasher.blocks()


class _SparseHashes(Sequence[str]):
    """The hashes of some of an object's sub-blocks, by their numbers."""

    def __init__(self, hashes: Mapping[int, str]) -> None:
        self._hashes = hashes

    @overload
    def __getitem__(self, number: int) -> str: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[str]: ...
    def __getitem__(self, number: int | slice) -> str | Sequence[str]:
        if isinstance(number, slice):
            raise TypeError("sub-block hashes have no slices")
        return self._hashes[number]

    def __len__(self) -> int:
        return len(self._hashes)
