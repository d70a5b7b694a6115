"""How much one replica is asked for: spans as long, and as many at once, as its speed makes worth while.

Each request costs a round trip. Where that is what takes the time, several spans at once hide it; where a span
comes in no time, a longer one saves requests and processor time. Memory pays for both: there is one or the other.
"""

from __future__ import annotations

from fsbackup.sizing import MIB

#: Spans that one replica may have on their way at once, in the end.
MAX_REQUESTS = 4
#: Bytes of the first spans, and of the longest.
_FIRST, _LONGEST = 8 * MIB, 32 * MIB
#: Seconds: a span that takes fewer is worth being longer, one that takes more is cut shorter again.
_QUICK, _SLOW = 0.05, 1.0
#: A replica's speed is that of its last few spans.
_MEMORY_OF_SPEED = 0.5


class AdaptiveWindow:
    """One replica's pace.

    Parameters
    ----------
    share
        Bytes that the replica may have on their way at once.
    block
        Bytes of a block; spans are of whole ones.
    length
        Bytes of every span, None: by the speed.

    Attributes
    ----------
    length
        Bytes of the next span.
    allowed
        How many spans it may have at once by now.
    speed
        Bytes per second of one span, None before anything is known.
    """

    def __init__(self, share: int, block: int, length: int | None) -> None:
        self._share = share
        self._first = length or whole_blocks(min(_FIRST, share // MAX_REQUESTS), block)
        self._longest = length or max(self._first, whole_blocks(min(_LONGEST, share), block))
        self.length = self._first
        self.allowed = 1
        self.speed: float | None = None

    @property
    def max_requests(self) -> int:
        """How many spans of the present length it may come to have at once."""
        return max(1, min(MAX_REQUESTS, self._share // self.length))

    def seconds(self, length: int) -> float | None:
        """Return how long it is likely to take for so many bytes, None before anything is known."""
        return None if self.speed is None else length / self.speed

    def on_success(self, length: int, seconds: float) -> None:
        """Hear that a span of so many bytes took so long."""
        speed = length / max(seconds, 1e-6)
        self.speed = speed if self.speed is None else self.speed + _MEMORY_OF_SPEED * (speed - self.speed)
        usual = self.length / self.speed
        if usual < _QUICK:
            self.length = min(2 * self.length, self._longest)
        elif usual > _SLOW:
            self.length = max(self.length // 2, self._first)
        if usual >= _QUICK:
            self.allowed *= 2
        self.allowed = min(self.allowed, self.max_requests)

    def on_failure(self) -> None:
        """Hear that a span failed: begin anew, at the speed that is known."""
        self.length, self.allowed = self._first, 1


def whole_blocks(length: int, block: int) -> int:
    """Return the bytes of as many blocks as fit `length`, but at least one."""
    return max(1, length // block) * block
