"""Running coroutines so that nothing runs on behind a failure, and cleaning up is not cut short."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Coroutine, Sequence
from contextlib import aclosing
from typing import Any, TypeVar


async def run_all(work: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Run all; when one raises or this is cancelled, cancel the others and wait until they have ended."""
    if len(work) < 2:
        for each in work:
            await each
        return
    tasks = [asyncio.create_task(each) for each in work]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        # Once each, which is why this is not `gather`: that cancels them too when it is cancelled, and a second
        # cancel would cut short how they clean up after the first.
        await cancel_and_wait(tasks)
    errors = [task.exception() for task in tasks if not task.cancelled()]
    for error in errors:
        if error is not None:
            raise error
    if len(errors) < len(tasks):
        raise asyncio.CancelledError


async def cancel_and_wait(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel all tasks and wait until they have ended."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


async def shield(work: Coroutine[Any, Any, None]) -> None:
    """Await `work` to its end, also when cancelled meanwhile; the cancellation is raised afterwards."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


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

    await run_all([feed(), *(serve() for _ in range(workers))])
