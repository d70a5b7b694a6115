"""The one background event loop on which all object I/O runs, and the bridge from synchronous callers to it.

It is our own, not fsspec's shared one: work that other fsspec users do on their loop never stalls a backup.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Coroutine, Generator, Iterator
from concurrent.futures import Future, wait
from contextlib import closing
from typing import Any, TypeVar

from fsbackup.awake import AwakeLoop

T = TypeVar("T")

#: Seconds that a cancelled operation gets to abort its uploads and remove its temp files.
CANCEL_GRACE = 30.0

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def get_loop() -> asyncio.AbstractEventLoop:
    """Return this process's loop, starting its daemon thread on first use."""
    global _loop
    with _lock:
        if _loop is None:
            _loop = AwakeLoop()
            threading.Thread(target=_loop.run_forever, name="fsbackup-io", daemon=True).start()
        return _loop


def _forget_after_fork() -> None:
    """A forked child has no loop thread; it makes its own, and so do its backends."""
    global _lock, _loop
    _lock, _loop = threading.Lock(), None


os.register_at_fork(after_in_child=_forget_after_fork)


def run(coro: Coroutine[Any, Any, T]) -> T:
    """Run `coro` on the loop and wait for it; Ctrl-C cancels it and waits until it has cleaned up.

    Raises
    ------
    RuntimeError
        When called on the loop's own thread, where waiting would never end.
    """
    loop = get_loop()
    try:
        if asyncio.get_running_loop() is loop:
            coro.close()
            raise RuntimeError("fsbackup's synchronous methods cannot be called on its own event loop")
    except RuntimeError as error:
        if "no running event loop" not in str(error):
            raise
    settled: Future[T] = Future()
    tasks: list[asyncio.Task[T]] = []

    def start() -> None:
        task = loop.create_task(coro)
        tasks.append(task)
        task.add_done_callback(lambda done: _settle(settled, done))

    loop.call_soon_threadsafe(start)
    try:
        return settled.result()
    except BaseException:
        if not settled.done():
            loop.call_soon_threadsafe(lambda: tasks[0].cancel())
            wait([settled], timeout=CANCEL_GRACE)
        raise


def _settle(future: Future[T], task: asyncio.Task[T]) -> None:
    if task.cancelled():
        future.set_exception(asyncio.CancelledError())
    elif (error := task.exception()) is not None:
        future.set_exception(error)
    else:
        future.set_result(task.result())


def iterate(source: AsyncGenerator[T, None], page: int) -> Generator[T, None, None]:
    """Walk an asynchronous generator from synchronous code, `page` values per step."""

    async def step() -> list[T]:
        values: list[T] = []
        async for value in source:
            values.append(value)
            if len(values) == page:
                break
        return values

    try:
        while values := run(step()):
            yield from values
    finally:
        run(source.aclose())


def flatten(pages: Generator[list[T], None, None]) -> Iterator[T]:
    """Yield what is on the pages; the generator is closed at the end."""
    with closing(pages):
        for page in pages:
            yield from page
