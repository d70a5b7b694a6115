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
from queue import Empty, SimpleQueue
from typing import Any, Generic, NoReturn, TypeVar
from weakref import ref

from fsbackup.aio import IdleTimeout, IdleTimeoutError, PerLoop, retrieve_error

T = TypeVar("T")

#: Seconds without a call after which a thread ends.
_IDLE = 5.0

_current = threading.local()


class CallCancelledError(Exception):
    """The call was cancelled before it started."""


def heartbeat() -> float | None:
    """Report progress of the call that runs in this thread, so that it does not count as idle.

    Returns the time by the clock of the call's loop; None where the thread runs no call.
    """
    job: Job[Any] | None = getattr(_current, "job", None)
    if job is None:
        return None
    job.last_activity = job.workers.last_activity = now = job.loop.time()
    return now


class Job(Generic[T]):
    """One call, queued or running; `future` belongs to the loop that submitted it."""

    def __init__(self, workers: Workers, call: Callable[[], T]) -> None:
        self.workers = workers
        self.call: Callable[[], T] | None = call
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[T] = self.loop.create_future()
        self.last_activity = self.loop.time()
        self.started = False
        self._outcomes = workers.outcomes(self.loop)

    def cancel(self) -> None:
        """Do not start the call any more; a running call is not interrupted."""
        self.call = None

    def run(self) -> None:
        """Make the call; runs in a thread of `Workers`."""
        call, self.call = self.call, None
        self.started = True
        self.last_activity = self.workers.last_activity = self.loop.time()
        _current.job = self
        try:
            self._outcomes.run(self.loop, self.future, _cancelled if call is None else call)
        finally:
            _current.job = None

    async def result(self, timeout: float) -> T:
        """Wait for the call and return its result. Cancelling the waiter does not cancel `future`.

        Raises
        ------
        IdleTimeoutError
            After `timeout` seconds without a heartbeat of the call or, while it is queued, of any call of its
            `Workers`. A call that runs goes on in its thread.
        """
        try:
            with IdleTimeout(timeout, self._latest_activity):
                return await asyncio.shield(self.future)
        except IdleTimeoutError:
            self.cancel()
            raise

    def _latest_activity(self) -> float:
        return self.last_activity if self.started else max(self.last_activity, self.workers.last_activity)


class _Outcomes:
    """Outcomes of calls on their way to one loop, which is woken once for all that there are by then."""

    def __init__(self) -> None:
        self._ready: deque[tuple[asyncio.Future[Any], Callable[[Any], None], Any]] = deque()
        self._is_woken = False

    def run(self, loop: asyncio.AbstractEventLoop, future: asyncio.Future[T], call: Callable[[], T]) -> None:
        """Make a call in this thread, and have its result or error set on the loop unless `future` is done."""
        # Kept by no name here: once the loop is woken, who waits may drop the result, and it is to go at once.
        try:
            self._ready.append((future, future.set_result, call()))
        except BaseException as error:  # noqa: BLE001 - raised where the future is awaited
            self._ready.append((future, future.set_exception, _raisable(error)))
        if not self._is_woken:
            self._is_woken = True
            try:
                loop.call_soon_threadsafe(self._hand_over)
            except RuntimeError:  # the loop is closed: nothing waits
                self._is_woken = False
                self._ready.clear()

    def _hand_over(self) -> None:
        # Before the first is taken: who finds it set has added his before.
        self._is_woken = False
        while self._ready:
            future, setter, value = self._ready.popleft()
            if not future.done():
                setter(value)
                retrieve_error(future)


_outcomes = PerLoop(_Outcomes)


class Workers:
    """Up to `limit` daemon threads that make blocking calls. Threads start on demand and end when idle."""

    def __init__(self, name: str, limit: int) -> None:
        self.name = name
        self.limit = limit
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._jobs: SimpleQueue[Job[Any]] = SimpleQueue()
        self._threads = 0
        self._last_loop: tuple[ref[asyncio.AbstractEventLoop], _Outcomes] | None = None
        #: Threads that wait for a call, minus the calls that wait for a thread.
        self._free = 0
        #: When a call last started or sent a heartbeat, by the loop's clock.
        self.last_activity = 0.0

    def outcomes(self, loop: asyncio.AbstractEventLoop) -> _Outcomes:
        """Return those of the calls of a loop; nearly always it is the one that submitted the call before."""
        last = self._last_loop
        if last is None or last[0]() is not loop:
            last = self._last_loop = ref(loop), _outcomes.of(loop)
        return last[1]

    def submit(self, call: Callable[[], T]) -> Job[T]:
        """Queue `call`; must be called on a running loop."""
        if self._pid != os.getpid():  # a forked child has none of its parent's threads
            self._reset()
        job = Job(self, call)
        with self._lock:
            if self._free <= 0 and self._threads < self.limit:
                # Before anything is counted: the system may not allow another thread.
                threading.Thread(target=self._work, name=f"fsbackup-{self.name}", daemon=True).start()
                self._threads += 1
                self._free += 1
            self._free -= 1
        self._jobs.put(job)
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
            del job  # an idle thread must not keep the call's bytes alive
            with self._lock:
                self._free += 1

    def _next(self) -> Job[Any] | None:
        while True:
            with suppress(Empty):
                return self._jobs.get(timeout=_IDLE)
            with self._lock:
                if self._free > 0:  # else a call is about to be queued
                    self._threads -= 1
                    self._free -= 1
                    return None


async def in_daemon_thread(work: Callable[[], T]) -> T:
    """Run `work` in a thread of its own, which does not delay the interpreter's exit, and return its result.

    For what may wait for somebody else: a producer, or a reader who takes nothing. In asyncio's default executor,
    whose few threads all operations share, some such calls would hold up all others, also the one waited for.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()
    arguments = loop, done, work
    thread = threading.Thread(target=_outcomes.of(loop).run, args=arguments, name="fsbackup-stream", daemon=True)
    thread.start()
    try:
        return await done
    finally:
        if not done.cancelled():
            thread.join()  # at its end already: what it was given and what it made is to be kept by it no longer


def _cancelled() -> NoReturn:
    raise CallCancelledError


def _raisable(error: BaseException) -> BaseException:
    """Return what a coroutine can raise: for a `StopIteration` a `RuntimeError`, as a generator does (PEP 479).

    A future refuses it, and whoever awaits that would wait for ever.
    """
    if not isinstance(error, StopIteration):
        return error
    raised = RuntimeError("StopIteration was raised where no iterator is read")
    raised.__cause__ = error
    return raised
