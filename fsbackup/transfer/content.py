"""Hashing content that is stored already, in bounded memory."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable

from fsbackup.sizing import DEFAULT_PART_SIZE


async def content_hash(read: Callable[[int, int], Awaitable[bytes | None]], size: int) -> str:
    """Return the SHA-256 (hex) of `size` bytes had by `read(offset, length)`; of fewer where it has fewer."""
    hasher = hashlib.sha256()
    for offset in range(0, size, DEFAULT_PART_SIZE):
        data = await read(offset, min(DEFAULT_PART_SIZE, size - offset))
        await asyncio.to_thread(hasher.update, data or b"")
    return hasher.hexdigest()
