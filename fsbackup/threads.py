"""Blocking calls in daemon threads: a disk that hangs stops neither the event loop nor the interpreter's exit.

asyncio's default executor is shared by all backends, and its threads are joined when the interpreter ends: one
hung disk would occupy all of its threads and then block the exit. Here each backend has its own `Workers`. A
blocking call reports progress with `heartbeat`; `Job.result` waits for it with an `IdleTimeout`.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Generic, TypeVar

from fsbackup.aio import IdleTimeout, IdleTimeoutError

T = TypeVar("T")

#: Seconds without a call after which a thread ends.
_IDLE = 5.0

_current = threading.local()


class CallCancelledError(Exception):
    """The call was cancelled before it started."""


def heartbeat() -> None:
    """Report progress of the call that runs in this thread, so that it does not count as idle."""
    job: Job[Any] | None = getattr(_current, "job", None)
    if job is not None:
        job.last_activity = job.workers.last_activity = job.loop.time()


class Job(Generic[T]):
    """One call, queued or running; `future` belongs to the loop that submitted it."""

    def __init__(self, workers: Workers, call: Callable[[], T]) -> None:
        self.workers = workers
        self.call: Callable[[], T] | None = call
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[T] = self.loop.create_future()
        self.future.add_done_callback(_consume_exception)
        self.last_activity = self.loop.time()
        self.started = False

    def cancel(self) -> None:
        """Do not start the call any more; a running call is not interrupted."""
        self.call = None

    def run(self) -> None:
        """Make the call; runs in a thread of `Workers`."""
        call, self.call = self.call, None
        self.started, self.last_activity = True, self.loop.time()
        _current.job = self
        try:
            if call is None:
                raise CallCancelledError
            result = call()
        except BaseException as error:  # noqa: BLE001 - raised by `result`
            self._set(self.future.set_exception, error)
        else:
            self._set(self.future.set_result, result)
        finally:
            _current.job = None

    def _set(self, setter: Callable[[Any], None], value: Any) -> None:
        with suppress(RuntimeError):  # the loop is closed: nothing waits for the result
            self.loop.call_soon_threadsafe(lambda: None if self.future.done() else setter(value))

    async def result(self, timeout: float) -> T:
        """Wait for the call and return its result. Cancelling the waiter does not cancel `future`.

        Raises
        ------
        IdleTimeoutError
            After `timeout` seconds without a heartbeat of the call or, while it is queued, of any call of its
            `Workers`. A call that runs goes on in its thread.
        """
        try:
            async with IdleTimeout(timeout, self._latest_activity):
                await asyncio.wait([self.future])
        except IdleTimeoutError:
            self.cancel()
            raise
        return self.future.result()

    def _latest_activity(self) -> float:
        return self.last_activity if self.started else max(self.last_activity, self.workers.last_activity)


def _consume_exception(future: asyncio.Future[Any]) -> None:
    """Retrieve the error, so that asyncio does not log it as never retrieved when the waiter was cancelled."""
    if not future.cancelled():
        future.exception()


class Workers:
    """Up to `limit` daemon threads that make blocking calls. Threads start on demand and end when idle."""

    def __init__(self, name: str, limit: int) -> None:
        self.name = name
        self.limit = limit
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._ready = threading.Condition()
        self._jobs: deque[Job[Any]] = deque()
        self._threads = self._idle = 0
        #: When a call last started, ended or sent a heartbeat, by the loop's clock.
        self.last_activity = 0.0

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
        """Make one call and return its result. A cancelled waiter cancels the call if it has not started.

        Raises
        ------
        IdleTimeoutError
            As `Job.result`.
        """
        job = self.submit(call)
        try:
            return await job.result(timeout)
        except asyncio.CancelledError:
            job.cancel()
            raise

    def _work(self) -> None:
        while (job := self._next()) is not None:
            job.run()
            self.last_activity = job.loop.time()
            del job  # an idle thread must not keep the call's bytes alive

    def _next(self) -> Job[Any] | None:
        with self._ready:
            self._idle += 1
            has_job = self._ready.wait_for(lambda: self._jobs, _IDLE)
            self._idle -= 1
            if not has_job:
                self._threads -= 1
                return None
            return self._jobs.popleft()
