"""A buffer of parts: read once from the source, handed to every consumer, in bounded memory.

A `Consumer` is the position of one replica's upload; consumers take parts at their own pace. A part stays in the
buffer while a consumer sends it, and while a consumer that is not lagging still needs it. When the buffer is full
and the fastest consumer has waited for `LAG_TIMEOUT`, all consumers behind it become *lagging*: parts that only
they need are dropped, and read again from the source when they get there. So a slow store delays no other and
costs no memory. Where the source cannot be read again, parts stay and the fastest waits for the slowest.

A store that keeps pace may pause: each slot that came in time leaves what was not waited of `LAG_TIMEOUT` for
later ones, up to `LONGEST_WAIT`. One that crawls has nothing left.

Each consumer may hold a bounded number of parts (`max_in_flight`), all others together fewer than there are slots.
So there is always a slot in which the fastest can go on, and no consumer starves another for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass

from fsbackup.aio import retrieve_error
from fsbackup.engine.source import Source
from fsbackup.errors import BackendError
from fsbackup.lazy import cached_property
from fsbackup.stores.base import Part, content_etag

#: Seconds that the fastest consumer waits for a slot before the others become lagging. Short, since reading a part
#: again costs little beside the time a slow store takes to send it; not zero, so that stores of similar speed
#: share parts.
LAG_TIMEOUT = 0.5
#: Seconds that the fastest waits at most for one that has kept pace so far: for a consumer that lags once, parts
#: are mostly read again until the end, and reading and checking a part again takes as much CPU time as sending it.
LONGEST_WAIT = 2.0
#: The most parts in memory per upload: more would not be sent any faster.
MAX_SLOTS = 16


def slot_count(memory: int, part_size: int, consumers: int) -> int:
    """Return how many parts fit in `memory` bytes; at least one for each consumer and one more."""
    return max(consumers + 1, 3, min(MAX_SLOTS, memory // part_size))


def max_in_flight(wanted: int, consumers: int, slots: int) -> int:
    """Return how many parts one consumer may hold: `wanted`, but so few that all others cannot fill the buffer."""
    return max(1, min(wanted, (slots - 2) // max(1, consumers - 1)))


@dataclass(eq=False)
class Consumer:
    """The position of one upload: `next` is the number of the part that it takes next.

    A lagging consumer has no claim on parts that can be read again. One that is `absent` has not begun, because
    its replica has not answered yet, and no other waits for it: when the buffer is full of parts that it needs and
    that cannot be read again, it is closed, and `dropped` is set.
    """

    next: int = 1
    lagging: bool = False
    closed: bool = False
    absent: bool = False

    @cached_property
    def dropped(self) -> asyncio.Event:
        """Set when it is closed while it is absent."""
        return asyncio.Event()

    def needs(self, number: int) -> bool:
        return not self.closed and self.next <= number


class PartBuffer:
    """Parts of one source for many consumers.

    Parameters
    ----------
    source
        Read in order, each part once, except for lagging consumers.
    part_size
        Bytes.
    slots
        The most parts in memory.
    md5
        Compute each part's MD5 while it is hashed.
    on_read
        Called with the number of bytes of each part when it is read for the first time.
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
        #: Consumers that wait for or send a part, by its number.
        self._pins: dict[int, int] = {}
        self._reading: dict[int, asyncio.Task[Part]] = {}
        #: The MD5 of each part read so far, b"" where none is computed.
        self._md5s: list[bytes] = []
        self._total: int | None = None
        self._source_error: Exception | None = None
        #: Set at the next change; None while no consumer waits for one.
        self._change: asyncio.Event | None = None
        #: When the fastest began to wait for a slot, None while it does not; and how long it waits.
        self._full_since: float | None = None
        self._patience = LAG_TIMEOUT

    def add_consumer(self, *, absent: bool = False) -> Consumer:
        """Return a new consumer, at the first part. Add all consumers before the first part is taken."""
        consumer = Consumer(lagging=absent, absent=absent)
        self._consumers.append(consumer)
        return consumer

    async def take(self, consumer: Consumer) -> Part | None:
        """Return the consumer's next part, None when the object has no more. `release` each part after sending it.

        Raises
        ------
        SourceError
            When reading the source fails; every consumer gets the same error.
        BackendError
            When this consumer lags, and the source cannot be read again or has changed.
        """
        number = consumer.next
        consumer.next += 1
        if consumer.lagging and number > len(self._md5s):
            consumer.lagging = False
        # Pinned before it is read, so that it is not dropped between its arrival and this consumer's turn to run.
        self._pins[number] = self._pins.get(number, 0) + 1
        try:
            part = await self._wait_for_part(consumer, number)
        except BaseException:
            self._unpin(number)
            raise
        if part is None:
            self._unpin(number)
        return part

    def release(self, part: Part) -> None:
        """Release a part that `take` returned, after it was sent."""
        self._unpin(part.number)

    def close(self, consumer: Consumer) -> None:
        """End a consumer: it takes no more parts."""
        consumer.closed = True
        self._full_since = None
        self._notify()

    @property
    def content_etag(self) -> str | None:
        """What S3 services call the ETag of the whole; None before it was read, and where no MD5s are computed."""
        is_known = self._total is not None and all(self._md5s)
        return content_etag(self._md5s) if is_known else None

    async def drain(self) -> None:
        """Read the source to its end, so that its digest is that of the whole."""
        consumer = self.add_consumer()
        consumer.next = len(self._md5s) + 1
        while (part := await self.take(consumer)) is not None:
            self.release(part)
        self.close(consumer)

    async def stop(self) -> None:
        """Cancel all reads, or wait for them where the source is not interruptible, and drop all parts."""
        if self._source.interruptible:
            for task in self._reading.values():
                task.cancel()
        if self._reading:
            await asyncio.gather(*self._reading.values(), return_exceptions=True)
        self._parts.clear()

    async def _wait_for_part(self, consumer: Consumer, number: int) -> Part | None:
        while self._total is None or number <= self._total:
            if number in self._parts:
                return self._parts[number]
            if number == 1 and (ready := self._source.ready_part()) is not None:
                self._parts[number] = self._accept(ready)
            elif number in self._reading:
                await asyncio.shield(self._reading[number])
            elif number <= len(self._md5s) + 1 and self._make_room():
                self._start_reading(number)
            elif number != len(self._md5s) + 1:
                await self._next_change().wait()
            elif not await _wait_until(self._next_change(), self._deadline()):
                self._mark_others_lagging(consumer)
        return None

    def _deadline(self) -> float:
        """Return until when the fastest waits for a slot, by the loop's clock."""
        if self._full_since is None:
            self._full_since = asyncio.get_running_loop().time()
        return self._full_since + self._patience

    def _end_wait(self) -> None:
        """A slot is free for the next part: what was not waited for it may be waited for a later one."""
        if self._full_since is not None:
            waited = asyncio.get_running_loop().time() - self._full_since
            self._patience = min(max(0.0, self._patience - waited) + LAG_TIMEOUT, LONGEST_WAIT)
            self._full_since = None

    def _start_reading(self, number: int) -> None:
        if number > len(self._md5s):
            self._end_wait()
        work = self._read_again(number) if number <= len(self._md5s) else self._read_next()
        task = self._reading[number] = asyncio.create_task(self._read(number, work))
        task.add_done_callback(retrieve_error)  # its consumers may all be cancelled

    async def _read(self, number: int, work: Coroutine[None, None, Part]) -> Part:
        try:
            part = self._parts[number] = await work
        finally:
            del self._reading[number]
            self._notify()
        return part

    async def _read_next(self) -> Part:
        if self._source_error is not None:
            raise self._source_error
        try:
            return self._accept(await self._source.next_part(self._part_size, md5=self._needs_md5))
        except Exception as error:
            self._source_error = error
            raise

    @property
    def _needs_md5(self) -> bool:
        """Whether to compute MD5s: for the stores, or to compare a part that is read again with the first read."""
        return self._md5 or len(self._consumers) > 1

    def _accept(self, part: Part) -> Part:
        self._md5s.append(part.md5 if self._needs_md5 else b"")
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
                f"too slow for the other replicas, and {self._source.label} cannot be read again",
                operation="upload",
                hint="add a spool or a local replica to the replication set",
            )
        part = Part(number, offset, data, last=number == self._total)
        if not await asyncio.to_thread(self._is_same, part):
            # Only this replica fails: the others were sent the first read, during which the source did not change.
            raise BackendError(
                f"{self._source.label} changed before this slow replica had read it to the end",
                operation="upload",
                hint="run the upload again",
            )
        return part

    def _is_same(self, part: Part) -> bool:
        """Return whether a part that was read again is what was read first; runs in a thread.

        BLAKE3 takes an eighth of MD5's time: where the blocks say it, the MD5 is that of the first read.
        """
        md5, is_same = self._md5s[part.number - 1], self._source.matches(part.offset, part.data)
        if is_same is None:
            return part.md5 == md5
        if is_same:
            vars(part)["md5"] = md5  # the cached property
        return is_same

    def _make_room(self) -> bool:
        """Free slots by dropping parts that no consumer needs; return whether a slot is free."""
        while len(self._parts) + len(self._reading) >= self._slots:
            unneeded = [number for number in self._parts if not self._is_needed(number)]
            if not unneeded:
                return False
            del self._parts[min(unneeded)]
        return True

    def _is_needed(self, number: int) -> bool:
        """Return whether a part must stay: it is being sent, or needed by a consumer that cannot read it again."""
        part = self._parts[number]
        replayable = part.offset + len(part.data) <= self._source.replayable_bytes
        return number in self._pins or any(
            consumer.needs(number) and not (consumer.lagging and replayable) for consumer in self._consumers
        )

    def _mark_others_lagging(self, fastest: Consumer) -> None:
        """Mark every consumer as lagging that has parts to take which were read already."""
        for consumer in self._consumers:
            if consumer is not fastest and consumer.next <= len(self._md5s):
                consumer.lagging = True
                if consumer.absent and not consumer.closed:
                    consumer.closed = True
                    consumer.dropped.set()

    def _unpin(self, number: int) -> None:
        self._pins[number] -= 1
        if not self._pins[number]:
            del self._pins[number]
        self._notify()

    def _next_change(self) -> asyncio.Event:
        if self._change is None:
            self._change = asyncio.Event()
        return self._change

    def _notify(self) -> None:
        if self._change is not None:
            self._change.set()
            self._change = None


async def _wait_until(event: asyncio.Event, deadline: float) -> bool:
    """Wait for `event` until `deadline` on the loop's clock, at least 50 ms; return whether it was set."""
    try:
        async with asyncio.timeout_at(max(deadline, asyncio.get_running_loop().time() + 0.05)):
            await event.wait()
    except TimeoutError:
        return False
    return True
