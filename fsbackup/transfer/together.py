"""Running coroutines side by side so that nothing runs on behind a failure."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any


async def all_or_none(work: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Run all; when one raises or this is cancelled, cancel the others and wait until they have ended."""
    if len(work) == 1:
        await work[0]
        return
    tasks = [asyncio.create_task(each) for each in work]
    try:
        await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        raise
