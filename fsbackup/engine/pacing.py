"""Adaptive concurrency: how large one replica's chunks are, and how many it reads at once.

Each request costs a round trip. Where the round trip takes most of the time, several requests at once hide it;
where a chunk arrives in no time, a larger chunk saves requests and processor time. Both cost memory, so one
replica's chunk size times its concurrency stays within its share.
"""

from __future__ import annotations

from fsbackup.sizing import MIB

#: Most chunks that one replica may have in flight.
MAX_REQUESTS = 4
#: Bytes of the first chunks, and of the largest.
_FIRST_CHUNK, _MAX_CHUNK = 8 * MIB, 32 * MIB
#: Seconds per chunk: the chunk size doubles below the first value and halves above the second.
_GROW_BELOW, _SHRINK_ABOVE = 0.05, 1.0
#: Weight of the last chunk in the moving average of the speed.
_SPEED_WEIGHT = 0.5


class AdaptiveWindow:
    """The window of one replica.

    Parameters
    ----------
    share
        Bytes that the replica may have in flight at once.
    block
        Bytes of a block; chunks are whole blocks.
    chunk_size
        Bytes of every chunk, None: adapted to the speed.

    Attributes
    ----------
    chunk_size
        Bytes of the next chunk.
    concurrency
        How many chunks the replica may have in flight at present.
    speed
        Bytes per second of one request (moving average), None before the first.
    """

    def __init__(self, share: int, block: int, chunk_size: int | None) -> None:
        self._share = share
        self._first = chunk_size or whole_blocks(min(_FIRST_CHUNK, share // MAX_REQUESTS), block)
        self._largest = chunk_size or max(self._first, whole_blocks(min(_MAX_CHUNK, share), block))
        self.chunk_size = self._first
        self.concurrency = 1
        self.speed: float | None = None

    @property
    def max_concurrency(self) -> int:
        """The upper limit of `concurrency` at the present chunk size."""
        return max(1, min(MAX_REQUESTS, self._share // self.chunk_size))

    def seconds(self, length: int) -> float | None:
        """Return the expected seconds for `length` bytes, None before the first measurement."""
        return None if self.speed is None else length / self.speed

    def on_success(self, length: int, seconds: float) -> None:
        """Adapt to a request that read `length` bytes in `seconds`."""
        speed = length / max(seconds, 1e-6)
        self.speed = speed if self.speed is None else self.speed + _SPEED_WEIGHT * (speed - self.speed)
        expected = self.chunk_size / self.speed
        if expected < _GROW_BELOW:
            self.chunk_size = min(2 * self.chunk_size, self._largest)
        elif expected > _SHRINK_ABOVE:
            self.chunk_size = max(self.chunk_size // 2, self._first)
        if expected >= _GROW_BELOW:
            self.concurrency *= 2
        self.concurrency = min(self.concurrency, self.max_concurrency)

    def on_failure(self) -> None:
        """Start again with one first chunk after a failed request; the measured speed is kept."""
        self.chunk_size, self.concurrency = self._first, 1


def whole_blocks(length: int, block: int) -> int:
    """Return the bytes of as many blocks as fit into `length`, but at least one."""
    return max(1, length // block) * block
