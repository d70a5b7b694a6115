"""Helpers on top of asyncio: structured concurrency, clean-up that is not cut short, and the idle timeout.

- `run_all`, `map_some`, `cancel_and_wait` and `for_each` leave no task running when they end, also after an error.
- `shield` lets clean-up finish although its caller is cancelled.
- `IdleTimeout` ends a block in which nothing has moved for some seconds; it never limits the total time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Coroutine, Iterable, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")


async def run_all(work: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Run all side by side; when one raises or this is cancelled, cancel the others and wait for their end."""
    if len(work) < 2:
        for each in work:
            await each
        return
    tasks = [asyncio.create_task(each) for each in work]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        # Not `gather`: it cancels its tasks when it is cancelled itself, and a second cancellation here would
        # interrupt the clean-up that the first one started.
        await cancel_and_wait(tasks)
    errors = [task.exception() for task in tasks if not task.cancelled()]
    for error in errors:
        if error is not None:
            raise error
    if len(errors) < len(tasks):
        raise asyncio.CancelledError


async def cancel_and_wait(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel all tasks and wait until they have ended."""
    if running := [task for task in tasks if not task.done()]:
        for task in running:
            task.cancel()
        await asyncio.wait(running)


def retrieve_error(future: asyncio.Future[Any]) -> None:
    """Retrieve the error of a future that nobody may wait for any more, so that asyncio does not log it."""
    if not future.cancelled():
        future.exception()


async def shield(work: Coroutine[Any, Any, None]) -> None:
    """Await `work` to its end, also when the caller is cancelled; `CancelledError` is raised afterwards."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


async def for_each(items: AsyncGenerator[T, None], work: Callable[[T], Awaitable[None]], workers: int) -> None:
    """Call `work` for every item, `workers` calls side by side; the first error of `items` or `work` ends all."""
    queue: asyncio.Queue[T | None] = asyncio.Queue(workers)

    async def feed() -> None:
        async with aclosing(items):
            async for item in items:
                await queue.put(item)
        for _ in range(workers):
            await queue.put(None)

    async def consume() -> None:
        while (item := await queue.get()) is not None:
            await work(item)

    await run_all([feed(), *(consume() for _ in range(workers))])


async def map_some(work: Callable[[T], Awaitable[R]], items: Iterable[T], workers: int) -> list[R]:
    """Return what `work` returns for every item, in their order; `workers` calls run side by side.

    The first error ends all.
    """
    waiting = iter(enumerate(items))
    results: dict[int, R] = {}

    async def consume() -> None:
        for number, item in waiting:
            results[number] = await work(item)

    await run_all([consume() for _ in range(workers)])
    return [results[number] for number in sorted(results)]


class IdleTimeoutError(TimeoutError):
    """Nothing moved for the whole idle timeout."""


class IdleTimeout:
    """A context that raises `IdleTimeoutError` when nothing has moved for `seconds`.

    It cancels the task that entered it, as `asyncio.timeout` does.

    Parameters
    ----------
    seconds
        The longest time without activity.
    last_activity
        Returns the loop's time of the last activity. By default that is entering the block, or the last `touch`.
    """

    def __init__(self, seconds: float, last_activity: Callable[[], float] | None = None) -> None:
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._touched = 0.0
        self._is_touched = last_activity is None
        self._last_activity = last_activity or (lambda: self._touched)
        self._task: asyncio.Task[Any] | None = None
        self._cancelling = 0
        self._is_expired = False
        self._timer: asyncio.TimerHandle | None = None

    def touch(self) -> None:
        """Record activity. May be called from any thread, and after the block has ended."""
        self._touched = self._loop.time()

    async def __aenter__(self) -> IdleTimeout:
        self._task = asyncio.current_task()
        assert self._task is not None
        self._cancelling = self._task.cancelling()
        if self._is_touched:
            self.touch()
        self._timer = self._loop.call_at(self._last_activity() + self._seconds, self._check)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        # This references its task, the task its error, the error this frame: break the cycle, so that the bytes in
        # those frames are freed at once.
        task, self._task = self._task, None
        assert task is not None
        # As `asyncio.timeout`: another cancellation in the meantime is not swallowed.
        if self._is_expired and task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise IdleTimeoutError(f"nothing moved for {self._seconds:g} s") from None

    def _check(self) -> None:
        """End the block when it is idle, else look again at the earliest time at which it could be."""
        due = self._last_activity() + self._seconds
        if due > self._loop.time():
            self._timer = self._loop.call_at(due, self._check)
        elif self._task is not None and not self._is_expired:
            self._is_expired = True
            self._task.cancel()
