"""The one background event loop on which all object I/O runs, and the bridge from synchronous callers to it.

It is our own, not fsspec's shared one: work that other fsspec users do on their loop never stalls a backup.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import selectors
import threading
import time
from collections.abc import AsyncGenerator, Coroutine, Generator, Iterator
from concurrent.futures import CancelledError, Future, wait
from contextlib import closing, suppress
from typing import Any, Generic, TypeVar

T = TypeVar("T")

#: Seconds that a cancelled operation gets to abort its uploads and remove its temp files.
CANCEL_GRACE = 30.0
#: Seconds after which whoever waits looks up: the signal of a Ctrl-C wakes the main thread only if that takes it,
#: and any thread may.
POLL_INTERVAL = 0.5

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def get_loop() -> asyncio.AbstractEventLoop:
    """Return this process's loop, starting its daemon thread on first use."""
    global _loop
    with _lock:
        if _loop is None:
            _loop = SuspendAwareLoop()
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
    try:
        if asyncio.get_running_loop() is get_loop():
            coro.close()
            raise RuntimeError("fsbackup's synchronous methods cannot be called on its own event loop")
    except RuntimeError as error:
        if "no running event loop" not in str(error):
            raise
    return Call(coro).result()


class Call(Generic[T]):
    """A coroutine under way on the loop, begun by a synchronous thread; `future` is how it ends."""

    def __init__(self, coro: Coroutine[Any, Any, T]) -> None:
        self.future: Future[T] = Future()
        self._loop = get_loop()
        self._coro = coro
        self._task: asyncio.Task[T]
        self._loop.call_soon_threadsafe(self._start)

    def _start(self) -> None:
        self._task = self._loop.create_task(self._coro)
        self._task.add_done_callback(lambda done: _copy_result(self.future, done))

    def result(self) -> T:
        """Return or raise how it ends; Ctrl-C cancels it and waits until it has cleaned up."""
        try:
            return wait_for_result(self.future)
        except BaseException:
            if not self.future.done():
                self._loop.call_soon_threadsafe(lambda: self._task.cancel())
                wait([self.future], timeout=CANCEL_GRACE)
            raise


def wait_for_result(future: Future[T]) -> T:
    """Wait in a synchronous thread for `future`, and return or raise its result; Ctrl-C is always heard."""
    wait_until_done(future)
    return future.result()


def wait_until_done(future: Future[T]) -> None:
    """Wait in a synchronous thread until `future` is done, in whatever way; Ctrl-C is always heard."""
    with suppress(CancelledError):
        while not future.done():
            with suppress(TimeoutError):
                future.exception(POLL_INTERVAL)


def _copy_result(future: Future[T], task: asyncio.Task[T]) -> None:
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


log = logging.getLogger("fsbackup.loop")

#: Seconds of one wait: a standstill is told from a long wait as far as it is longer than this.
_SLICE = 1.0
#: Seconds that a busy machine may keep us waiting; and those from which on somebody may want to know.
_TOLERATED, _WARN_FROM = 1.0, 5.0


class SuspendAwareLoop(asyncio.SelectorEventLoop):
    """A selector loop; deadlines set by its clock allow for standstills."""

    def __init__(self) -> None:
        self._clock = _Clock()
        super().__init__(_SlicedSelector(self._clock))

    def time(self) -> float:
        """Return the seconds of a clock that stops while this process does; any thread may ask."""
        return self._clock.read()


class _Clock:
    """Finds out about a standstill whenever it is read, so that nobody sees a leap; it never goes back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._suspended = 0.0
        #: The moment up to which all is well: the latest that was seen, or when the loop is to be back at work.
        self._due = time.monotonic()

    def read(self, wait: float | None = None) -> float:
        """Return the seconds; the loop says how long it may be away from now on (`wait`)."""
        with self._lock:
            now = time.monotonic()
            excess = now - self._due
            if excess > _TOLERATED:
                self._suspended += excess
            self._due = max(self._due, now) if wait is None else now + wait
            seconds = now - self._suspended
        if excess > _TOLERATED:
            log.log(
                logging.WARNING if excess > _WARN_FROM else logging.DEBUG,
                "this process stood still for %.1f s, which counts as nobody's silence: was it stopped?",
                excess,
            )
        return seconds


class _SlicedSelector(selectors.DefaultSelector):
    """The waiting of a loop, in slices; the clock is told of each."""

    def __init__(self, clock: _Clock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None:
            timeout = min(max(timeout, 0.0), _SLICE)
        # Without a timeout nobody waits for a moment in time.
        self._clock.read(math.inf if timeout is None else timeout)
        try:
            return super().select(timeout)
        finally:
            self._clock.read(0.0)
