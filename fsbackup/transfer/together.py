"""Running coroutines so that nothing runs on behind a failure, and cleaning up is not cut short."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine, Sequence
from typing import Any


async def all_or_none(work: Sequence[Coroutine[Any, Any, None]]) -> None:
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
        await end_all(tasks)
    errors = [task.exception() for task in tasks if not task.cancelled()]
    for error in errors:
        if error is not None:
            raise error
    if len(errors) < len(tasks):
        raise asyncio.CancelledError


async def end_all(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel all tasks and wait until they have ended."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


async def to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Await `work` to its end, also when cancelled meanwhile; the cancellation is raised afterwards."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise
