"""Hashing an object while it streams by: SHA-256 of the whole and of each block."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from fsbackup.sizing import BLOCK_SIZE, MAX_BLOCKS, STREAM_BLOCK_SIZE, block_size


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
