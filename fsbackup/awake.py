"""An event loop whose clock stands still while the process does.

Ctrl-Z, a paused virtual machine or a machine that swaps can keep a process from running for longer than any
service may be silent. What arrived meanwhile waits in the sockets, and must not be taken for silence afterwards.
"""

from __future__ import annotations

import asyncio
import logging
import selectors
import time

log = logging.getLogger("fsbackup.loop")

#: Seconds of one wait: a standstill is told from a long wait as far as it is longer than this.
_SLICE = 1.0
#: Seconds that a busy machine may keep us waiting; and those from which on somebody may want to know.
_HITCH, _NOTEWORTHY = 1.0, 5.0


class AwakeLoop(asyncio.SelectorEventLoop):
    """A selector loop; deadlines set by its clock allow for standstills."""

    def __init__(self) -> None:
        self._waiting = _Waiting()
        super().__init__(self._waiting)

    def time(self) -> float:
        """Return the seconds of a clock that stops while this process does."""
        return time.monotonic() - self._waiting.lost


class _Waiting(selectors.DefaultSelector):
    """The waiting of a loop; adds up what it took longer than it should, and what passed between two waits."""

    def __init__(self) -> None:
        super().__init__()
        #: Seconds of all standstills.
        self.lost = 0.0
        self._since = time.monotonic()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._account(0.0)
        if timeout is not None:
            timeout = min(timeout, _SLICE)
        ready = super().select(timeout)
        if timeout is None:  # nobody waits for a moment in time
            self._since = time.monotonic()
        else:
            self._account(max(timeout, 0.0))
        return ready

    def _account(self, due: float) -> None:
        now = time.monotonic()
        excess, self._since = now - self._since - due, now
        if excess > _HITCH:
            self.lost += excess
            log.log(
                logging.WARNING if excess > _NOTEWORTHY else logging.DEBUG,
                "this process stood still for %.1f s, which counts as nobody's silence: was it stopped?",
                excess,
            )
