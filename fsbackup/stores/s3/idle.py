"""A timeout for requests in which no byte moves; aiohttp has none while it sends a body."""

from __future__ import annotations

import asyncio
from types import TracebackType


class IdleTimeout:
    """A context that raises `TimeoutError` when `reset` has not been called for `seconds`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._last = self._loop.time()
        self._timeout: asyncio.Timeout | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> IdleTimeout:
        self._timeout = await asyncio.timeout(None).__aenter__()
        self._last = self._loop.time()
        self._timer = self._loop.call_at(self._last + self._seconds, self._check)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        # Breaks a reference cycle: timeout, task, error, frame, this object.
        timeout, self._timeout = self._timeout, None
        if timeout is not None:
            await timeout.__aexit__(kind, error, trace)

    def reset(self) -> None:
        """Record that bytes moved. The transport may still call this after the context has ended."""
        self._last = self._loop.time()

    def _check(self) -> None:
        due = self._last + self._seconds
        if due > self._loop.time():
            self._timer = self._loop.call_at(due, self._check)
        elif self._timeout is not None:
            self._timeout.reschedule(due)
