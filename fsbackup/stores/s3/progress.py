"""Reports the bytes that a thread moves to the event loop, without waking it for each of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

#: Most bytes of one report, and the least bytes or seconds between two that wake the loop.
_STEP, _BYTES, _SECONDS = 512 * 1024, 256 * 1024, 0.1


class Progress:
    """The progress of one request over all of its attempts.

    Parameters
    ----------
    on_progress
        Called on the loop with the number of bytes moved.
    is_upload
        True: each byte counts once, and 0 is reported while bytes are sent again. False: each attempt starts with
        a report of 0, and all of its bytes count.
    """

    def __init__(self, on_progress: Callable[[int], None], *, is_upload: bool) -> None:
        self._on_progress = on_progress
        self.is_upload = is_upload
        self._loop = asyncio.get_running_loop()
        self._position = self._flushed = self._reported = 0
        self._scheduled_at, self._scheduled_position = 0.0, 0
        self._is_scheduled = False

    def begin(self) -> None:
        """Start an attempt; called on the loop."""
        self._position = self._flushed = self._scheduled_position = 0
        if not self.is_upload:
            self._reported = 0
            self._on_progress(0)

    def advance_to(self, position: int) -> None:
        """Note the number of bytes moved in this attempt; called in the thread."""
        self._position = position
        now = time.monotonic()
        is_due = position - self._scheduled_position >= _BYTES or now - self._scheduled_at >= _SECONDS
        if is_due and not self._is_scheduled:
            self._is_scheduled = True
            self._scheduled_at, self._scheduled_position = now, position
            self._loop.call_soon_threadsafe(self.flush)

    def flush(self) -> None:
        """Report what has not been reported; called on the loop."""
        self._is_scheduled = False
        position, earlier = self._position, self._flushed
        self._flushed = position
        new = position - self._reported
        if new <= 0 and self.is_upload and position > earlier:
            self._on_progress(0)
        while new > 0:
            step = min(new, _STEP)
            self._reported += step
            new -= step
            self._on_progress(step)

    def close(self) -> None:
        """Report nothing any more, also not what a thread has scheduled."""
        self._on_progress = lambda _: None
