"""An event loop with virtual time, on which nothing but the schedule decides what comes next.

When no callback is ready, the loop asks `Idle` for the next step; calls in threads are made at once, in place.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
import secrets
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar, TypeVarTuple
from unittest import mock

from fsbackup.engine import records, restore, versions

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

#: When every simulation begins, in seconds since the epoch.
BEGIN = 1_790_000_000


class Clock:
    """The time of the simulated world, in nanoseconds since the epoch."""

    def __init__(self) -> None:
        self.now = BEGIN * 1_000_000_000

    def seconds(self) -> float:
        return self.now / 1e9

    def nanoseconds(self) -> int:
        return self.now

    def since_begin(self) -> float:
        return self.seconds() - BEGIN

    def advance(self, seconds: float) -> None:
        self.now += round(seconds * 1e9)

    def text(self) -> str:
        """Return the time as records have it."""
        return datetime.fromtimestamp(self.now // 1_000_000_000, UTC).isoformat(timespec="seconds")


class Idle(Protocol):
    """Is asked for the next step when no callback is ready."""

    def __call__(self, timeout: float | None) -> None:
        """Do one step; `timeout` is the time until the next timer in seconds, None without one."""


class _Selector:
    """Stands where a loop waits for its sockets."""

    def __init__(self, idle: Idle) -> None:
        self._idle = idle

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None or timeout > 0:
            self._idle(timeout)
        return []

    def close(self) -> None:
        pass


class SimLoop(asyncio.BaseEventLoop):
    """See the module's docstring."""

    def __init__(self, clock: Clock, idle: Idle) -> None:
        super().__init__()
        self._clock = clock
        self._clock_resolution = 1e-9
        self._selector = _Selector(idle)

    def time(self) -> float:
        return self._clock.since_begin()

    def run_in_executor(
        self,
        executor: Executor | None,  # noqa: ARG002 - the call is made at once
        func: Callable[[*Ts], T],
        *args: *Ts,
    ) -> asyncio.Future[T]:
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - it is raised where the call is awaited
            future.set_exception(error)
        return future

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    def _process_events(self, event_list: list[Any]) -> None:
        pass


async def _in_place(work: Callable[[], T]) -> T:
    """Do what a thread would do: nothing on this loop waits for threads."""
    return work()


@contextmanager
def simulated_time(clock: Clock, seed: int) -> Iterator[None]:
    """Let all clocks follow `clock`, make random identifiers from `seed`, and keep the log silent."""
    numbers = random.Random(seed)
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    with (
        mock.patch.object(time, "time", clock.seconds),
        mock.patch.object(time, "time_ns", clock.nanoseconds),
        mock.patch.object(time, "monotonic", clock.since_begin),
        mock.patch.object(versions, "utc_now", clock.text),
        mock.patch.object(secrets, "token_hex", lambda size=16: numbers.randbytes(size).hex()),
        mock.patch.object(records, "_new_ids", []),  # drawn before
        mock.patch.object(restore, "in_daemon_thread", _in_place),
    ):
        try:
            yield
        finally:
            logging.disable(before)
