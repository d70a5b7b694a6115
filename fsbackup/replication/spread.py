"""Working on what a walk yields, several at once, without the walk running far ahead."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import TypeVar

from fsbackup.transfer.together import all_or_none

T = TypeVar("T")


async def for_each(items: AsyncGenerator[T, None], work: Callable[[T], Awaitable[None]], workers: int) -> None:
    """Call `work` for every item, `workers` side by side; the first error of either side ends it all."""
    queue: asyncio.Queue[T | None] = asyncio.Queue(workers)

    async def feed() -> None:
        async with aclosing(items):
            async for item in items:
                await queue.put(item)
        for _ in range(workers):
            await queue.put(None)

    async def serve() -> None:
        while (item := await queue.get()) is not None:
            await work(item)

    await all_or_none([feed(), *(serve() for _ in range(workers))])
