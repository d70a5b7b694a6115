"""Reading every byte of one replica's copy against the hashes of a manifest: streaming, in bounded memory."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from dataclasses import dataclass

from fsbackup.engine.replicas import MemoryBudget
from fsbackup.keys import encode_key
from fsbackup.record import Manifest
from fsbackup.sizing import DEFAULT_PART_SIZE
from fsbackup.stores.base import ObjectStore, timeout_error

#: Spans of one copy on their way at once.
_AHEAD = 2
#: Bytes per second of a connection that only just lives.
_CRAWL = 16_384


@dataclass(frozen=True, slots=True)
class ByteCheck:
    """What a copy's bytes are.

    Parameters
    ----------
    read
        Bytes read.
    bad
        How many blocks are not the manifest's.
    first
        The first of them, counted from 0; None when there is none.
    whole
        All of them together are what the manifest says.
    """

    read: int
    bad: int
    first: int | None
    whole: bool

    @property
    def good(self) -> bool:
        """Every block is right, and so is the whole."""
        return not self.bad and self.whole

    def describe(self, manifest: Manifest) -> str:
        """Return what is wrong, in words."""
        if self.first is None:
            return "its blocks are right but the whole is not: its manifest is wrong"
        if self.whole:
            return f"its data is right, but {self.bad:,} of its manifest's block hashes are wrong"
        start = self.first * manifest.block_size
        end = min(start + manifest.block_size, manifest.size)
        return (
            f"{self.bad:,} of {len(manifest.blocks):,} blocks rotten, the first is block {self.first} "
            f"(bytes {start} to {end})"
        )


async def check_bytes(store: ObjectStore, manifest: Manifest, budget: MemoryBudget) -> ByteCheck:
    """Compare what `store` has under the manifest's key with the manifest's hashes, block by block.

    Raises
    ------
    FsbackupError
        When it cannot be read.
    """
    step = manifest.block_size * max(1, DEFAULT_PART_SIZE // manifest.block_size)
    async with budget.reserve(min(manifest.size, _AHEAD * step)):
        return await _Check(store, manifest, step).run()


class _Check:
    def __init__(self, store: ObjectStore, manifest: Manifest, step: int) -> None:
        self._store = store
        self._manifest = manifest
        self._step = step
        self._whole = hashlib.sha256()
        self._read = 0
        self._bad: list[int] = []  # the first
        self._count = 0

    async def run(self) -> ByteCheck:
        starts = iter(range(0, self._manifest.size, self._step))
        ahead: deque[asyncio.Task[bytes]] = deque()
        try:
            for at in range(0, self._manifest.size, self._step):
                while len(ahead) < _AHEAD and (following := next(starts, None)) is not None:
                    ahead.append(asyncio.create_task(self._span(following)))
                await asyncio.to_thread(self._hash, at, [await ahead.popleft()])
        finally:
            for task in ahead:
                task.cancel()
            await asyncio.gather(*ahead, return_exceptions=True)
        whole = self._whole.hexdigest() == self._manifest.sha256
        return ByteCheck(self._read, self._count, self._bad[0] if self._bad else None, whole)

    async def _span(self, start: int) -> bytes:
        end = min(start + self._step, self._manifest.size)
        patience = self._store.hard_timeout + (end - start) / _CRAWL
        try:
            async with asyncio.timeout(patience):
                return await self._store.read(encode_key(self._manifest.key), start, end)
        except TimeoutError:
            raise timeout_error(self._store, "verify", self._manifest.key) from None

    def _hash(self, start: int, span: list[bytes]) -> None:
        """Hash one span; runs in a worker thread, one span of a copy at a time.

        A pool holds on to arguments a moment longer than the work takes: the list is emptied, so that this is no
        span more than was reserved.
        """
        data = span.pop()
        block, view = self._manifest.block_size, memoryview(data)
        first = start // block
        self._read += len(data)
        self._whole.update(view)
        last = min(-(-(start + self._step) // block), len(self._manifest.blocks))
        for number in range(first, last):
            at = (number - first) * block
            if hashlib.sha256(view[at : at + block]).hexdigest() != self._manifest.blocks[number]:
                self._bad = self._bad or [number]
                self._count += 1
