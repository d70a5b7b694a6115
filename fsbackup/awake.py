"""An event loop whose clock stands still while the process does.

Ctrl-Z, a paused virtual machine, a machine that swaps or a disk that hangs can keep a loop from running for longer
than any service may be silent. What arrived meanwhile waits in the sockets, and must not be taken for silence
afterwards.
"""

from __future__ import annotations

import asyncio
import logging
import math
import selectors
import threading
import time

log = logging.getLogger("fsbackup.loop")

#: Seconds of one wait: a standstill is told from a long wait as far as it is longer than this.
_SLICE = 1.0
#: Seconds that a busy machine may keep us waiting; and those from which on somebody may want to know.
_HITCH, _NOTEWORTHY = 1.0, 5.0


class AwakeLoop(asyncio.SelectorEventLoop):
    """A selector loop; deadlines set by its clock allow for standstills."""

    def __init__(self) -> None:
        self._clock = _Clock()
        super().__init__(_Waiting(self._clock))

    def time(self) -> float:
        """Return the seconds of a clock that stops while this process does; any thread may ask."""
        return self._clock.read()


class _Clock:
    """Finds out about a standstill whenever it is read, so that nobody sees a leap; it never goes back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lost = 0.0
        #: The moment up to which all is well: the latest that was seen, or when the loop is to be back at work.
        self._due = time.monotonic()

    def read(self, wait: float | None = None) -> float:
        """Return the seconds; the loop says how long it may be away from now on (`wait`)."""
        with self._lock:
            now = time.monotonic()
            excess = now - self._due
            if excess > _HITCH:
                self._lost += excess
            self._due = max(self._due, now) if wait is None else now + wait
            seconds = now - self._lost
        if excess > _HITCH:
            log.log(
                logging.WARNING if excess > _NOTEWORTHY else logging.DEBUG,
                "this process stood still for %.1f s, which counts as nobody's silence: was it stopped?",
                excess,
            )
        return seconds


class _Waiting(selectors.DefaultSelector):
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
