"""Blocking calls in daemon threads of their own, so that a disk that hangs stops neither the loop nor the exit.

asyncio's default executor would do for a healthy disk. But it is shared, and its threads are joined when the
interpreter ends: one hung disk would take every other backend's threads, and then the exit.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Generic, TypeVar

T = TypeVar("T")

#: Seconds after which a thread without work ends.
_IDLE = 5.0

_current = threading.local()


class CallCancelledError(Exception):
    """The call was given up before it started."""


class IdleTimeoutError(Exception):
    """The call showed no sign of life for its timeout; its thread may go on."""


def heartbeat() -> None:
    """Say, from inside a running call, that bytes moved."""
    job: Job[Any] | None = getattr(_current, "job", None)
    if job is not None:
        job.last = job.workers.last = job.loop.time()


class Job(Generic[T]):
    """One call on its way through the threads; `future` belongs to the loop that submitted it."""

    def __init__(self, workers: Workers, call: Callable[[], T]) -> None:
        self.workers = workers
        self.call: Callable[[], T] | None = call
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[T] = self.loop.create_future()
        self.future.add_done_callback(_consume_exception)
        self.last = self.loop.time()
        self.started = False

    def cancel(self) -> None:
        """Do not start it any more; one that runs is not disturbed."""
        self.call = None

    def run(self) -> None:
        """Make the call, in a worker's thread."""
        call, self.call = self.call, None
        self.started, self.last = True, self.loop.time()
        _current.job = self
        try:
            if call is None:
                raise CallCancelledError
            result = call()
        except BaseException as error:  # noqa: BLE001 - it is handed to the caller
            self._set(self.future.set_exception, error)
        else:
            self._set(self.future.set_result, result)
        finally:
            _current.job = None

    def _set(self, setter: Callable[[Any], None], value: Any) -> None:
        with suppress(RuntimeError):  # the loop was closed meanwhile: nobody is left to tell
            self.loop.call_soon_threadsafe(lambda: None if self.future.done() else setter(value))

    async def result(self, timeout: float) -> T:
        """Wait for the call; its future survives cancellation of the waiter.

        Raises
        ------
        SilenceError
            After `timeout` seconds without a sign of life from it or, while it queues, from its queue.
        """
        while not self.future.done():
            last = self.last if self.started else max(self.last, self.workers.last)
            left = last + timeout - self.loop.time()
            if left <= 0:
                self.cancel()
                raise IdleTimeoutError
            await asyncio.wait([self.future], timeout=left)
        return self.future.result()


def _consume_exception(future: asyncio.Future[Any]) -> None:
    """Look at the error, so that asyncio does not complain when nobody waits for it any more."""
    if not future.cancelled():
        future.exception()


class Workers:
    """Up to `limit` daemon threads that make blocking calls; they start when needed and end when idle."""

    def __init__(self, name: str, limit: int) -> None:
        self.name = name
        self.limit = limit
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._ready = threading.Condition()
        self._jobs: deque[Job[Any]] = deque()
        self._threads = self._idle = 0
        #: When a call last showed a sign of life, by the loop's clock.
        self.last = 0.0

    def submit(self, call: Callable[[], T]) -> Job[T]:
        """Queue `call`; must be called on a running loop."""
        if self._pid != os.getpid():  # a forked child has none of its parent's threads
            self._reset()
        job = Job(self, call)
        with self._ready:
            self._jobs.append(job)
            if len(self._jobs) > self._idle and self._threads < self.limit:
                self._threads += 1
                threading.Thread(target=self._work, name=f"fsbackup-{self.name}", daemon=True).start()
            self._ready.notify()
        return job

    async def run(self, call: Callable[[], T], timeout: float) -> T:
        """Make one call and wait for it; one that has not started when the waiter is cancelled never will."""
        job = self.submit(call)
        try:
            return await job.result(timeout)
        except asyncio.CancelledError:
            job.cancel()
            raise

    def _work(self) -> None:
        while (job := self._next()) is not None:
            job.run()
            self.last = job.loop.time()
            del job  # an idle thread keeps nobody's bytes alive

    def _next(self) -> Job[Any] | None:
        with self._ready:
            self._idle += 1
            found = self._ready.wait_for(lambda: self._jobs, _IDLE)
            self._idle -= 1
            if not found:
                self._threads -= 1
                return None
            return self._jobs.popleft()
