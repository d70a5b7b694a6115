"""Compares every byte of one replica's copy with the hashes of a manifest: streaming, in bounded memory."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from dataclasses import dataclass

from fsbackup.engine.hashing import missing_ranges, verified_ranges
from fsbackup.engine.reader import read_timeout
from fsbackup.engine.replicas import MemoryBudget
from fsbackup.keys import encode_key
from fsbackup.record import Manifest
from fsbackup.sizing import DEFAULT_PART_SIZE
from fsbackup.stores.base import ObjectStore, timeout_error

#: Ranges of one copy requested at the same time.
_READ_AHEAD = 2


@dataclass(frozen=True, slots=True)
class ByteCheck:
    """What a copy's bytes are.

    Parameters
    ----------
    bytes_read
        Bytes read.
    bad_blocks
        How many blocks differ from the manifest.
    first_bad
        The first of them, counted from 0; None when there is none.
    whole_matches
        The SHA-256 of all bytes is the manifest's.
    """

    bytes_read: int
    bad_blocks: int
    first_bad: int | None
    whole_matches: bool

    @property
    def good(self) -> bool:
        """Every block matches the manifest, and so does the whole."""
        return not self.bad_blocks and self.whole_matches

    def describe(self, manifest: Manifest) -> str:
        """Return what is wrong, for people."""
        if self.first_bad is None:
            return "its blocks are right but the whole is not: its manifest is wrong"
        if self.whole_matches:
            return f"its data is right, but {self.bad_blocks:,} of its manifest's block hashes are wrong"
        start = self.first_bad * manifest.block_size
        end = min(start + manifest.block_size, manifest.size)
        return (
            f"{self.bad_blocks:,} of {len(manifest.blocks):,} blocks rotten, the first is block {self.first_bad} "
            f"(bytes {start} to {end})"
        )


async def check_bytes(store: ObjectStore, manifest: Manifest, budget: MemoryBudget) -> ByteCheck:
    """Read what `store` has under the manifest's key and compare it with the manifest's hashes, block by block.

    Raises
    ------
    FsbackupError
        When the copy cannot be read.
    """
    length = manifest.block_size * max(1, DEFAULT_PART_SIZE // manifest.block_size)
    async with budget.reserve(min(manifest.size, _READ_AHEAD * length)):
        return await _Check(store, manifest, length).run()


class _Check:
    """One copy being read, in ranges of `length` bytes, a whole number of blocks."""

    def __init__(self, store: ObjectStore, manifest: Manifest, length: int) -> None:
        self._store = store
        self._manifest = manifest
        self._length = length
        self._whole = hashlib.sha256()
        self._bytes_read = 0
        self._bad_blocks = 0
        self._first_bad: int | None = None

    async def run(self) -> ByteCheck:
        """Request ranges ahead and hash them in order; requests under way are cancelled with it."""
        starts = iter(range(0, self._manifest.size, self._length))
        requests: deque[asyncio.Task[bytes]] = deque()
        try:
            for start in range(0, self._manifest.size, self._length):
                while len(requests) < _READ_AHEAD and (following := next(starts, None)) is not None:
                    requests.append(asyncio.create_task(self._read(following)))
                await asyncio.to_thread(self._hash, start, [await requests.popleft()])
        finally:
            for task in requests:
                task.cancel()
            await asyncio.gather(*requests, return_exceptions=True)
        matches = self._whole.hexdigest() == self._manifest.sha256
        return ByteCheck(self._bytes_read, self._bad_blocks, self._first_bad, matches)

    async def _read(self, start: int) -> bytes:
        end = min(start + self._length, self._manifest.size)
        try:
            async with asyncio.timeout(read_timeout(self._store, end - start)):
                return await self._store.read(encode_key(self._manifest.key), start, end)
        except TimeoutError:
            raise timeout_error(self._store, "verify", self._manifest.key) from None

    def _hash(self, start: int, box: list[bytes]) -> None:
        """Hash one range; runs in a worker thread, one range of a copy at a time.

        The thread pool keeps arguments alive a moment longer than the call takes: the list is emptied, so that no
        more ranges are in memory than were reserved.
        """
        data = box.pop()
        block, end = self._manifest.block_size, min(start + self._length, self._manifest.size)
        self._bytes_read += len(data)
        self._whole.update(data)
        for low, high in missing_ranges(verified_ranges([data], start, end, self._manifest), start, end):
            self._first_bad = low // block if self._first_bad is None else self._first_bad
            self._bad_blocks += -(-(high - low) // block)
