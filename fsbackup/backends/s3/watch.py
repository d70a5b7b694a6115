"""Cuts a call in which nothing moves. aiohttp has no timeout of its own while a body is being sent."""

from __future__ import annotations

import asyncio
from types import TracebackType


class Watch:
    """A context that ends with `TimeoutError` when nothing has moved for `silence` seconds."""

    def __init__(self, silence: float) -> None:
        self._silence = silence
        self._timer: asyncio.Timeout | None = None

    async def __aenter__(self) -> Watch:
        self._timer = await asyncio.timeout(self._silence).__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # It knows its task, which will keep the error, which keeps the frame that knows us.
        timer, self._timer = self._timer, None
        if timer is not None:
            await timer.__aexit__(kind, error, trace)

    def moved(self) -> None:
        """Note that something moved. Too late is no error: the transport may go on with a body for a while."""
        if self._timer is not None and not self._timer.expired():
            self._timer.reschedule(asyncio.get_running_loop().time() + self._silence)
