"""What one operation works on: the stores of a set, its rule, and the memory and spool it may use."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from fsbackup.sizing import MIB
from fsbackup.stores.base import ObjectStore

#: Eight parts of the default size.
DEFAULT_MEMORY = 64 * MIB
#: Seconds without a byte after which a reader asks another replica: far more than any healthy service needs, and
#: little enough for somebody who waits.
DEFAULT_STALL = 10.0


@dataclass(frozen=True, slots=True)
class Spool:
    """Where a stream's bytes may be kept for a replica that falls behind: a directory, and how many bytes."""

    directory: Path
    max_bytes: int


@dataclass(frozen=True, slots=True)
class ReplicaSet:
    """Stores that hold the same objects.

    Parameters
    ----------
    stores
        In reading order: the first healthy one is read from.
    min_copies
        How many confirmed copies make success.
    part_size
        Bytes per part, None to let it follow the object's size.
    memory
        Bytes of parts that one upload may hold, whatever the file's size and the number of stores.
    spool
        None: a stream waits for its slowest replica, unless a local one keeps its bytes.
    stall
        Seconds without a byte after which a reader asks another replica.
    """

    stores: tuple[ObjectStore, ...]
    min_copies: int
    part_size: int | None = None
    memory: int = DEFAULT_MEMORY
    spool: Spool | None = None
    stall: float = DEFAULT_STALL


class MemoryBudget:
    """Bytes that uploads side by side may hold in parts, handed out in order of asking.

    Parameters
    ----------
    total
        Bytes; an upload that wants more than all of it gets all of it.
    """

    def __init__(self, total: int = DEFAULT_MEMORY) -> None:
        self._total = total
        self._free = total
        self._queue: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def reserve(self, wanted: int) -> AsyncIterator[None]:
        """Hold `wanted` bytes while the block runs."""
        amount = min(max(wanted, 1), self._total)
        await self._acquire(amount)
        try:
            yield
        finally:
            self._free += amount
            self._serve()

    async def _acquire(self, amount: int) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((amount, turn))
        self._serve()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._free += amount
            self._serve()
            raise

    def _serve(self) -> None:
        while self._queue and (self._queue[0][1].cancelled() or self._queue[0][0] <= self._free):
            amount, turn = self._queue.popleft()
            if not turn.cancelled():
                self._free -= amount
                turn.set_result(None)
