"""The shared window: parts read once, handed to every lane, in bounded memory.

A *lane* is one store's way through the parts. Lanes take parts at their own pace. A part stays in the window
while a lane is sending it and while a lane in step still wants it. A lane so slow that another one starves
loses that claim: it *falls behind*, and its parts are read again from the source when it gets to them, so a
slow store holds up no other and costs no memory. A source that cannot be read again slows to the slowest.

Every lane may hold a bounded number of parts, together fewer than there are slots, so there is always a slot
in which the fastest can go on: no lane can starve another for ever.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import cache

from fsbackup.engine.source import Source
from fsbackup.errors import BackendError
from fsbackup.sizing import MIB
from fsbackup.stores.base import Part

#: Seconds that a starving lane waits for the others before they fall behind. Short, since reading a part
#: again costs little beside the time a slow store takes for it; not zero, so that stores of like speed share.
LAG_TIMEOUT = 0.5


#: The most parts in memory per upload: more would not be sent any faster.
MAX_SLOTS = 16


def slot_count(memory: int, part_size: int, lanes: int) -> int:
    """Return how many parts fit `memory` bytes; at least one for each lane, and one to go on with."""
    return max(lanes + 1, 3, min(MAX_SLOTS, memory // part_size))


def max_in_flight(wanted: int, lanes: int, slots: int) -> int:
    """Return how many parts one lane may hold: `wanted`, but never so many that the others fill the window."""
    return max(1, min(wanted, (slots - 2) // max(1, lanes - 1)))


@dataclass(eq=False)
class Consumer:
    """One store's position: `next` is the number it takes next; `behind` says that it reads for itself."""

    next: int = 1
    lagging: bool = False
    closed: bool = False

    def wants(self, number: int) -> bool:
        return not self.closed and self.next <= number


class PartBuffer:
    """Parts of one source for many lanes.

    Parameters
    ----------
    source
        Read in order, each part once.
    part_size
        Bytes.
    slots
        The most parts in memory.
    md5
        Compute each part's MD5 while it is hashed.
    on_read
        Called with the bytes of each part when it is first read.
    """

    def __init__(
        self,
        source: Source,
        part_size: int,
        *,
        slots: int,
        md5: bool = False,
        on_read: Callable[[int], None] | None = None,
    ) -> None:
        self._source = source
        self._part_size = part_size
        self._slots = slots
        self._md5 = md5
        self._on_read = on_read
        self._consumers: list[Consumer] = []
        self._parts: dict[int, Part] = {}
        self._pins: Counter[int] = Counter()
        self._reading: dict[int, asyncio.Task[Part]] = {}
        self._seen: list[bytes] = []
        self._total: int | None = None
        self._broken: Exception | None = None
        self._change = asyncio.Event()

    def add_consumer(self) -> Consumer:
        """Add a lane; all are added before the first part is taken."""
        lane = Consumer()
        self._consumers.append(lane)
        return lane

    async def take(self, consumer: Consumer) -> Part | None:
        """Return the lane's next part, None when the object has no more. Give each one back when it is sent.

        Raises
        ------
        SourceError
            What reading the source raised, for every lane alike.
        """
        number = consumer.next
        consumer.next += 1
        if consumer.lagging and number > len(self._seen):
            consumer.lagging = False
        # Pinned before it is there: nobody may drop it between its arrival and this lane's turn.
        self._pins[number] += 1
        try:
            part = await self._find(consumer, number)
        except BaseException:
            self._unpin(number)
            raise
        if part is None:
            self._unpin(number)
        return part

    def release(self, part: Part) -> None:
        """Say that a lane has sent `part`."""
        self._unpin(part.number)

    def close(self, consumer: Consumer) -> None:
        """Say that a lane takes no more parts."""
        consumer.closed = True
        self._notify()

    async def drain(self) -> None:
        """Read whatever of the source no lane has asked for, so that its digest is that of the whole."""
        lane = self.add_consumer()
        lane.next = len(self._seen) + 1
        while (part := await self.take(lane)) is not None:
            self.release(part)
        self.close(lane)

    async def stop(self) -> None:
        """End all reading, or wait for it where it cannot be given up, and drop all parts."""
        if self._source.interruptible:
            for task in self._reading.values():
                task.cancel()
        await asyncio.gather(*self._reading.values(), return_exceptions=True)
        self._parts.clear()

    async def _find(self, consumer: Consumer, number: int) -> Part | None:
        patience = asyncio.get_running_loop().time() + LAG_TIMEOUT
        while self._total is None or number <= self._total:
            change = self._change
            if number in self._parts:
                return self._parts[number]
            if number == 1 and (ready := self._source.ready_part()) is not None:
                self._parts[number] = self._accept(ready)
            elif number in self._reading:
                await asyncio.shield(self._reading[number])
            elif number <= len(self._seen) + 1 and self._make_room():
                self._start_reading(number)
            elif not await _wait_until(change, patience) and number == len(self._seen) + 1:
                self._mark_lagging(consumer)
        return None

    def _start_reading(self, number: int) -> None:
        work = self._read_again(number) if number <= len(self._seen) else self._read_next()
        task = self._reading[number] = asyncio.create_task(self._read(number, work))
        # A read whose takers were all cancelled has nobody left to hear how it ended.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _read(self, number: int, work: Coroutine[None, None, Part]) -> Part:
        try:
            part = self._parts[number] = await work
        finally:
            del self._reading[number]
            self._notify()
        return part

    async def _read_next(self) -> Part:
        if self._broken is not None:
            raise self._broken
        try:
            return self._accept(await self._source.next_part(self._part_size, md5=self._needs_md5))
        except Exception as error:
            self._broken = error
            raise

    @property
    def _needs_md5(self) -> bool:
        """Where a lane may fall behind, the MD5 proves that what is read again is what was read first."""
        return self._md5 or len(self._consumers) > 1

    def _accept(self, part: Part) -> Part:
        self._seen.append(part.md5 if self._needs_md5 else b"")
        if part.last:
            self._total = part.number
        if self._on_read:
            self._on_read(len(part.data))
        return part

    async def _read_again(self, number: int) -> Part:
        offset = (number - 1) * self._part_size
        data = await self._source.reread(offset, self._part_size)
        if data is None:
            raise BackendError(
                f"fell behind the others, and {self._source.label} cannot be read again",
                operation="upload",
                hint="give the replication set a spool, or a local replica",
            )
        part = Part(number, offset, data, last=number == self._total)
        if await asyncio.to_thread(lambda: part.md5) != self._seen[number - 1]:
            # The others have what was read first, proven unchanged then; only this store cannot have it any more.
            raise BackendError(
                f"{self._source.label} changed before this slow store got to its end",
                operation="upload",
                hint="run the same again",
            )
        return part

    def _make_room(self) -> bool:
        """Free a slot if one can be had: a part that nobody sends and no lane in step still wants."""
        while len(self._parts) + len(self._reading) >= self._slots:
            free = [number for number in self._parts if not self._is_needed(number)]
            if not free:
                return False
            del self._parts[min(free)]
        return True

    def _is_needed(self, number: int) -> bool:
        """Say whether a part must stay: being sent, or wanted by a lane that could not have it otherwise."""
        kept = self._parts[number].offset + len(self._parts[number].data) <= self._source.replayable_bytes
        return self._pins[number] > 0 or any(
            lane.wants(number) and not (lane.lagging and kept) for lane in self._consumers
        )

    def _mark_lagging(self, front: Consumer) -> None:
        """Let every lane that is not in front read for itself, as far as the source can be read again."""
        for lane in self._consumers:
            if lane is not front and lane.next <= len(self._seen):
                lane.lagging = True

    def _unpin(self, number: int) -> None:
        self._pins[number] -= 1
        if not self._pins[number]:
            del self._pins[number]
        self._notify()

    def _notify(self) -> None:
        self._change.set()
        self._change = asyncio.Event()


async def _wait_until(event: asyncio.Event, deadline: float) -> bool:
    """Wait for `event` until `deadline` on the loop's clock (always a moment), and say whether it came."""
    try:
        async with asyncio.timeout_at(max(deadline, asyncio.get_running_loop().time() + 0.05)):
            await event.wait()
    except TimeoutError:
        return False
    return True


#: `mallopt` parameter of glibc: blocks from this size on are mapped by themselves and given back when freed.
_M_MMAP_THRESHOLD = -3
#: The user's own settings go first (glibc manual, "Malloc Tunable Parameters" and "Tunables").
_USERS_OWN = ("MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


@cache
def tune_malloc() -> None:
    """Have freed parts given back to the system at once, from now on and for the whole process.

    Left alone, glibc raises its threshold when the first part is freed; later parts come from arenas, one per
    thread, which keep what they have. Peak memory then depends on which thread read which part: 165 to 237 MiB
    were seen for one and the same upload, against 147 MiB with the threshold fixed.
    """
    if any(name in os.environ for name in _USERS_OWN) or not _is_glibc():
        return
    import ctypes

    ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, MIB)


def _is_glibc() -> bool:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (AttributeError, OSError, ValueError):
        return False
