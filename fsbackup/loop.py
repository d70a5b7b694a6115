"""The background event loop on which all object I/O runs, and the bridge from synchronous callers to it.

`get_loop` starts one daemon thread per process. `run` hands it a coroutine and waits for the result in the calling
thread. The loop is not fsspec's shared one: what other fsspec users do on theirs never stalls a backup.

Its clock (`SuspendAwareLoop`) stops while the process is suspended (SIGSTOP, a paused virtual machine), so that
timeouts measure the silence of services only.
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
#: Seconds between two checks for Ctrl-C by a waiting thread: the system may deliver the signal to any thread, and
#: it wakes the main thread only when it is delivered there.
POLL_INTERVAL = 0.5
#: Longest wait of the selector in seconds: a suspension is measured as the time beyond it.
_MAX_WAIT = 1.0
#: Seconds of delay that a busy machine explains; and those from which on a suspension is logged as a warning.
_TOLERANCE, _WARN_FROM = 1.0, 5.0
#: Seconds after a reading of the clock within which the next one need not look for a suspension.
_SOON = 0.005

log = logging.getLogger("fsbackup.loop")

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def get_loop() -> asyncio.AbstractEventLoop:
    """Return the loop of this process; the first call starts its daemon thread."""
    global _loop
    with _lock:
        if _loop is None:
            _loop = SuspendAwareLoop()
            threading.Thread(target=_loop.run_forever, name="fsbackup-io", daemon=True).start()
        return _loop


def _reset_after_fork() -> None:
    """Forget the loop in a forked child, which has no loop thread and starts its own, as do its backends."""
    global _lock, _loop
    _lock, _loop = threading.Lock(), None


os.register_at_fork(after_in_child=_reset_after_fork)


def run(coro: Coroutine[Any, Any, T]) -> T:
    """Run `coro` on the loop and return its result; Ctrl-C cancels it and waits until it has cleaned up.

    Raises
    ------
    RuntimeError
        When called on the loop's own thread, where waiting would never end.
    """
    try:
        running = asyncio.get_running_loop()
    except RuntimeError:
        running = None
    if running is not None and running is get_loop():
        coro.close()
        raise RuntimeError("fsbackup's synchronous methods cannot be called on its own event loop")
    return Call(coro).result()


class Call(Generic[T]):
    """A coroutine started on the loop from a synchronous thread; `future` gets its result or exception."""

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
        """Return the result or raise the exception; Ctrl-C cancels the coroutine and waits for its clean-up."""
        try:
            return wait_for_result(self.future)
        except BaseException:
            if not self.future.done():
                self._loop.call_soon_threadsafe(lambda: self._task.cancel())
                wait([self.future], timeout=CANCEL_GRACE)
            raise


def wait_for_result(future: Future[T]) -> T:
    """Wait in a synchronous thread for `future`, and return its result or raise its exception.

    Ctrl-C interrupts the wait within `POLL_INTERVAL`.
    """
    wait_until_done(future)
    return future.result()


def wait_until_done(future: Future[T]) -> None:
    """Wait in a synchronous thread until `future` is done or cancelled; Ctrl-C interrupts the wait."""
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


def iterate(source: AsyncGenerator[T, None], page_size: int) -> Generator[T, None, None]:
    """Yield the values of an asynchronous generator in synchronous code; one switch to the loop per page."""

    async def next_page() -> list[T]:
        values: list[T] = []
        async for value in source:
            values.append(value)
            if len(values) == page_size:
                break
        return values

    try:
        while values := run(next_page()):
            yield from values
    finally:
        run(source.aclose())


def flatten(pages: Generator[list[T], None, None]) -> Iterator[T]:
    """Yield the values of all pages; the generator is closed at the end."""
    with closing(pages):
        for page in pages:
            yield from page


class SuspendAwareLoop(asyncio.SelectorEventLoop):
    """A selector loop whose clock stops while the process is suspended."""

    def __init__(self) -> None:
        clock = _Clock()
        self._time = clock.now
        super().__init__(_Selector(clock))

    def time(self) -> float:
        """Return the seconds of the clock; any thread may call it."""
        return self._time()


class _Clock:
    """A monotonic clock without the time of suspensions.

    Every reading looks for a suspension since the last one, so that no reader ever sees the clock jump.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._suspended = 0.0
        #: When the next reading is due at the latest, if nothing is suspended.
        self._due = time.monotonic()

    def now(self) -> float:
        """Return the seconds; soon after another reading without the lock, since this is asked all the time."""
        suspended, now = self._suspended, time.monotonic()
        if now - self._due <= _SOON and suspended == self._suspended:
            return now - suspended
        return self.read()

    def read(self, wait: float | None = None) -> float:
        """Return the seconds; the loop passes how long it may `wait` before it reads the clock again."""
        with self._lock:
            now = time.monotonic()
            excess = now - self._due
            if excess > _TOLERANCE:
                self._suspended += excess - _SOON  # so that no reading since the last one was later
            self._due = max(self._due, now) if wait is None else now + wait
            seconds = now - self._suspended
        if excess > _TOLERANCE:
            level = logging.WARNING if excess > _WARN_FROM else logging.DEBUG
            log.log(level, "process was suspended for %.1f s; timeouts were extended", excess)
        return seconds


class _Selector(selectors.DefaultSelector):
    """Waits at most `_MAX_WAIT` at once, and reads the clock before and after each wait."""

    def __init__(self, clock: _Clock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None:
            timeout = min(max(timeout, 0.0), _MAX_WAIT)
        # Without a timeout there is no deadline that a suspension could delay.
        self._clock.read(math.inf if timeout is None else timeout)
        try:
            return super().select(timeout)
        finally:
            self._clock.read(0.0)
