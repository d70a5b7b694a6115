"""Helpers on top of asyncio: structured concurrency, clean-up that is not cut short, and the idle timeout.

- `run_all`, `map_some`, `cancel_and_wait` and `for_each` leave no task running when they end, also after an error.
- `shield` lets clean-up, or a thread's work on what is closed next, finish although its caller is cancelled.
- `IdleTimeout` ends a block in which nothing has moved for some seconds; it never limits the total time.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Coroutine, Iterable, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

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


async def shield(work: Coroutine[Any, Any, T]) -> T:
    """Await `work` to its end, also when the caller is cancelled; `CancelledError` is raised afterwards."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
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


class PerLoop(Generic[T]):
    """One value for each event loop, for as long as the loop lives; `make` makes it when it is first asked for."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._values: WeakKeyDictionary[asyncio.AbstractEventLoop, T] = WeakKeyDictionary()

    def of(self, loop: asyncio.AbstractEventLoop) -> T:
        """Return that of a loop; called on it."""
        value = self._values.get(loop)
        if value is None:
            value = self._values[loop] = self._make()
        return value


class IdleTimeoutError(TimeoutError):
    """Nothing moved for the whole idle timeout."""


class IdleTimeout:
    """A context that raises `IdleTimeoutError` when nothing has moved for `seconds`.

    It cancels the task that entered it, as `asyncio.timeout` does. There are several of them for each request, so
    those of a loop share one timer.

    Parameters
    ----------
    seconds
        The longest time without activity.
    last_activity
        Returns the loop's time of the last activity. By default that is entering the block, or the last `touch`.
    """

    __slots__ = (
        "_cancelling",
        "_is_expired",
        "_last_activity",
        "_loop",
        "_seconds",
        "_task",
        "_touched",
        "_watch",
    )

    def __init__(self, seconds: float, last_activity: Callable[[], float] | None = None) -> None:
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._touched = 0.0
        self._last_activity = last_activity
        self._task: asyncio.Task[Any] | None = None
        self._cancelling = 0
        self._is_expired = False

    def touch(self) -> None:
        """Record activity. May be called from any thread, and after the block has ended."""
        self._touched = self._loop.time()

    def __enter__(self) -> IdleTimeout:
        self._task = asyncio.current_task()
        assert self._task is not None
        self._cancelling = self._task.cancelling()
        if self._last_activity is None:
            self.touch()
        self._watch = _watches.of(self._loop)
        self._watch.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watch.blocks.discard(self)
        # This references its task, the task its error, the error this frame: break the cycle, so that the bytes in
        # those frames are freed at once.
        task, self._task = self._task, None
        assert task is not None
        # As `asyncio.timeout`: another cancellation in the meantime is not swallowed.
        if self._is_expired and task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise IdleTimeoutError(f"nothing moved for {self._seconds:g} s") from None

    @property
    def due(self) -> float:
        """The earliest time at which the block can be idle."""
        return self._seconds + (self._touched if self._last_activity is None else self._last_activity())

    def expire(self) -> None:
        """End the block, once."""
        if self._task is not None and not self._is_expired:
            self._is_expired = True
            self._task.cancel()


class _Watch:
    """The blocks of one loop that may become idle, and when they are looked at."""

    def __init__(self) -> None:
        self.blocks: set[IdleTimeout] = set()
        self._next = math.inf

    def add(self, block: IdleTimeout) -> None:
        """Watch a block that has just begun."""
        self.blocks.add(block)
        if (due := block.due) < self._next:
            self._look_at(due)

    def _look_at(self, due: float) -> None:
        self._next = due
        asyncio.get_running_loop().call_at(due, self._look, due)

    def _look(self, due: float) -> None:
        """End the blocks that are idle, and look again at the earliest time at which another one could be."""
        if due != self._next:
            return  # by now there is another timer, for an earlier time
        now = asyncio.get_running_loop().time()
        idle = [block for block in self.blocks if block.due <= now]
        self.blocks.difference_update(idle)
        self._next = math.inf
        if self.blocks:
            self._look_at(min(block.due for block in self.blocks))
        for block in idle:
            block.expire()


_watches = PerLoop(_Watch)
