"""What proven blocks tell of their parts, so that a small read in one of them need not read all of it again.

A manifest proves whole blocks. Whoever reads here and there in a large file comes back to a block long after it
was forgotten; the hashes of its parts, made while it was there, prove as much, and take 500 times less room.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import overload

from fsbackup.engine.hashing import BlockHasher
from fsbackup.record import Manifest
from fsbackup.sizing import KIB

#: Bytes of a leaf: about what a small read wants.
SUB_BLOCK = 64 * KIB
#: Leaves remembered, about 120 bytes each: those of 4 GiB.
_MOST = 65_536

#: Content, how it is cut, and which piece.
BlockKey = tuple[str, int, int]


def key_of(manifest: Manifest, number: int) -> BlockKey:
    """Return what block `number` of a version is known by: its content, so that a replaced object's is another."""
    return manifest.sha256, manifest.block_size, number


class SubBlockHashes:
    """The hashes of the leaves of the blocks read last. Used on the I/O loop only."""

    def __init__(self) -> None:
        self._known: OrderedDict[BlockKey, tuple[str, ...]] = OrderedDict()
        self._count = 0

    async def learn(self, manifest: Manifest, number: int, block: Callable[[], bytes]) -> None:
        """Hash the leaves of a proven block, unless they are known or make no whole number."""
        key = key_of(manifest, number)
        if manifest.block_size % SUB_BLOCK or key in self._known:
            return
        leaves = await asyncio.to_thread(lambda: _hashes(block()))
        if key not in self._known:
            self._known[key] = leaves
            self._count += len(leaves)
        while self._count > _MOST:
            self._count -= len(self._known.popitem(last=False)[1])

    def manifest_of_sub_blocks(self, manifest: Manifest, numbers: Iterable[int]) -> Manifest | None:
        """Return the manifest that proves the leaves of some blocks, None when they are not all known."""
        each = manifest.block_size // SUB_BLOCK
        known: dict[int, str] = {}
        for number in numbers:
            leaves = self._known.get(key_of(manifest, number))
            if leaves is None:
                return None
            self._known.move_to_end(key_of(manifest, number))
            known.update(enumerate(leaves, number * each))
        return replace(manifest, block_size=SUB_BLOCK, blocks=_Some(known)) if known else None

    def clear(self) -> None:
        """Forget everything."""
        self._known.clear()
        self._count = 0


def _hashes(block: bytes) -> tuple[str, ...]:
    hasher = BlockHasher(SUB_BLOCK)
    hasher.update(block)
    return hasher.blocks()


class _Some(Sequence[str]):
    """Hashes of some of an object's leaves, by their numbers."""

    def __init__(self, known: Mapping[int, str]) -> None:
        self._known = known

    @overload
    def __getitem__(self, number: int) -> str: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[str]: ...
    def __getitem__(self, number: int | slice) -> str | Sequence[str]:
        if isinstance(number, slice):
            raise TypeError("leaves are looked up one by one")
        return self._known[number]

    def __len__(self) -> int:
        return len(self._known)
