"""The striped reader: the blocks of one object from all healthy replicas at once, each proven before it counts.

An object is read in *spans* of a few whole blocks, long ones first: each is a request, which costs time. The last
ones are short, so that no replica is left with much when the others are done. Each replica begins with one span
and gets more at once as it proves itself, so a fast one carries more. What fails, stalls or is not what the
manifest says is asked of another replica, block by block: a rotten block here and another one there still make a
whole object. A replica that has nothing left to do takes over a span that a slower one would take much longer for;
whoever is first wins.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from fsbackup.errors import BackendUnavailableError, FsbackupError, IntegrityError
from fsbackup.manifest import Manifest
from fsbackup.objects import ObjectStore
from fsbackup.sizing import BLOCK_SIZE, KIB, MIB
from fsbackup.transfer import proof, records
from fsbackup.transfer.lane import as_backend_error

#: Spans that one replica may have on their way at once, in the end.
_MOST = 4
#: Bytes of the longest spans and, towards the end, of the shortest.
_LONGEST, _SHORTEST = 8 * MIB, 2 * MIB
#: Bytes that are hashed where they arrive: another thread would take longer to wake up.
_AT_ONCE = 256 * KIB
#: Failures in a row, of kinds that may concern a span only, after which a replica is asked last.
_STRIKES = 3
#: Seconds between two looks at who is late.
_TICK = 0.25
#: How much sooner another replica must have a span for it to be asked as well.
_SOONER = 2.0
#: A replica's speed is that of its last few spans.
_MEMORY_OF_SPEED = 0.5


@dataclass(eq=False)
class Span:
    """Whole blocks from `start` up to `end`; `tried` names the replicas that could not give them."""

    start: int
    end: int
    tried: frozenset[str] = frozenset()
    asked: dict[str, _Call] = field(default_factory=dict)
    settled: bool = False


@dataclass(eq=False)
class _Call:
    """A span being read from one replica; `cut` says that it was given up as too late.

    Where the store tells, `moved` is when its last byte came, and `begun` how often it had to begin.
    """

    replica: _Replica
    span: Span
    started: float
    moved: float | None = None
    begun: int = 0
    cut: bool = False
    task: asyncio.Task[None] | None = None


@dataclass(eq=False)
class _Replica:
    """How one replica is doing: how many spans it may have at once, its speed in bytes per second."""

    store: ObjectStore
    allowed: int = 1
    busy: int = 0
    strikes: int = 0
    benched: bool = False
    speed: float | None = None

    def seconds(self, length: int) -> float | None:
        """Return how long it is likely to take for so many bytes, None before anything is known."""
        return None if self.speed is None else length / self.speed

    def succeeded(self, length: int, seconds: float) -> None:
        speed = length / max(seconds, 1e-6)
        self.speed = speed if self.speed is None else self.speed + _MEMORY_OF_SPEED * (speed - self.speed)
        self.strikes, self.benched = 0, False
        self.allowed = min(_MOST, self.allowed * 2)

    def failed(self, error: FsbackupError, *, late: bool) -> None:
        self.allowed = 1
        self.strikes += 1
        # A bad block says little of the others; a store's own error comes after its own retries.
        last = not (late or isinstance(error, IntegrityError))
        self.benched = last or self.strikes >= _STRIKES


class Stripes:
    """One walk over a range of an object's bytes.

    Parameters
    ----------
    stores, spare
        To read from, best first; the spare ones only what no other can give.
    key, name
        The object, and its name in the stores.
    manifest
        Proves the blocks; None: only lengths are checked.
    start, end
        The range, `start` at a block's beginning.
    into
        How many spans to read it in, None: as many as make it fast.
    memory
        Bytes that may be held at once: being read, or read and not yet taken.
    stall
        Seconds without a byte after which a span is asked of another replica.
    passed_over, taken
        Hear of a replica's failure, and of proven bytes it gave.
    """

    def __init__(
        self,
        stores: Sequence[ObjectStore],
        spare: Sequence[ObjectStore],
        key: str,
        name: str,
        manifest: Manifest | None,
        start: int,
        end: int,
        *,
        into: int | None,
        memory: int,
        stall: float,
        passed_over: Callable[[ObjectStore, FsbackupError], None],
        taken: Callable[[ObjectStore, int], None],
    ) -> None:
        self._key, self._name, self._manifest = key, name, manifest
        block = manifest.block_size if manifest else BLOCK_SIZE
        lanes = _MOST * max(1, len(stores))
        longest = _whole(min(_LONGEST, memory // lanes), block)
        shortest = _SHORTEST
        if into:
            shortest = longest = max(1, -(-(end - start) // (into * block))) * block
        self._fresh = _cut(start, end, block, lanes, shortest, longest)
        self._next: Span | None = next(self._fresh, None)
        self._again: list[Span] = []
        self._calls: set[_Call] = set()
        self._ready: list[tuple[int, list[bytes]]] = []
        self._replicas = [*map(_Replica, stores), *(_Replica(store, benched=True) for store in spare)]
        self._front, self._end = start, end
        self._slots = max(2, memory // longest)
        self._window = self._slots * longest
        self._stall = stall
        self._passed_over, self._taken = passed_over, taken
        self._lost = False
        self._news = asyncio.Event()
        self._clock = asyncio.get_running_loop().time

    async def runs(self, *, ordered: bool) -> AsyncGenerator[tuple[int, list[bytes]], None]:
        """Yield (offset, the pieces there) until all is there; by the offsets if `ordered`, else as they come.

        Ends early when some block could be had from no replica: the caller counts bytes, and knows why.
        """
        left = self._end - self._front
        try:
            while left and not self._lost:
                self._dispatch(ordered=ordered)
                while self._ready and (not ordered or self._ready[0][0] == self._front):
                    offset, pieces = heapq.heappop(self._ready)
                    length = sum(map(len, pieces))
                    self._front = max(self._front, offset + length) if ordered else self._front
                    left -= length
                    yield offset, pieces
                    del pieces
                    self._dispatch(ordered=ordered)
                if left and not self._lost:
                    await self._wait()
        finally:
            await self._stop()

    async def _wait(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_TICK):
                await self._news.wait()
        self._news.clear()
        self._cut_stalled()

    async def _stop(self) -> None:
        tasks = [call.task for call in self._calls if call.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _dispatch(self, *, ordered: bool) -> None:
        """Give every replica that may have more something to do; those of known speed first, the fastest first."""
        self._lost = self._lost or any(self._hopeless(span) for span in self._again)
        progress = not self._lost
        while progress:
            progress = False
            for replica in sorted(self._replicas, key=lambda each: -(each.speed or 0.0)):
                if replica.busy < replica.allowed and (span := self._pick(replica, ordered=ordered)):
                    self._ask(replica, span)
                    progress = True

    def _hopeless(self, span: Span) -> bool:
        return all(each.store.name in span.tried for each in self._replicas)

    def _pick(self, replica: _Replica, *, ordered: bool) -> Span | None:
        name = replica.store.name
        for span in self._again:
            others = [each for each in self._replicas if each is not replica and not each.benched]
            last_hope = all(each.store.name in span.tried for each in others)
            if name not in span.tried and (last_hope or not replica.benched):
                self._again.remove(span)
                return span
        if replica.benched and not all(each.benched for each in self._replicas):
            return None
        fresh = self._next
        if fresh is not None and self._has_room(fresh, ordered=ordered):
            self._next = next(self._fresh, None)
            return fresh
        return self._late_span(replica)

    def _has_room(self, span: Span, *, ordered: bool) -> bool:
        if ordered:
            return span.start < self._front + self._window
        return len(self._calls) + len(self._ready) + len(self._again) < self._slots

    def _late_span(self, replica: _Replica) -> Span | None:
        """Return a span that this replica would have much sooner than the one that is reading it."""
        now = self._clock()
        for call in sorted(self._calls, key=lambda each: each.span.start):
            span, own = call.span, replica.seconds(call.span.end - call.span.start)
            if own is None or len(span.asked) != 1 or {replica.store.name} & (span.tried | span.asked.keys()):
                continue
            elapsed = now - call.started
            likely = call.replica.seconds(span.end - span.start)
            rest = elapsed if likely is None or elapsed > likely else likely - elapsed
            if rest > max(_SOONER * own, _TICK):
                return span
        return None

    def _ask(self, replica: _Replica, span: Span) -> None:
        call = _Call(replica, span, self._clock())
        span.asked[replica.store.name] = call
        replica.busy += 1
        self._calls.add(call)
        call.task = asyncio.create_task(self._read(call))

    async def _read(self, call: _Call) -> None:
        store, span = call.replica.store, call.span
        try:
            async with asyncio.timeout(_patience(store, span.end - span.start)):
                hear = partial(self._note_bytes, call)
                pieces = await store.read_pieces(self._name, span.start, span.end, moved=hear)
            call.moved = None  # all came: what follows is our own time
            good = await self._proven(pieces, span)
        except FsbackupError as error:
            self._fail(call, error)
        except TimeoutError:
            self._fail(call, records.unanswered(store, "download", self._key))
        except asyncio.CancelledError:
            if not call.cut or span.settled:
                raise
            self._fail(call, self._unavailable(call, f"sent no byte for {self._stall:g} s"))
        except Exception as error:  # noqa: BLE001 - what a store raises beyond its contract fails that store only
            self._fail(call, as_backend_error(error, store.name, self._key, "download"))
        else:
            self._accept(call, pieces, good)
        finally:
            call.replica.busy -= 1
            self._calls.discard(call)
            call.span.asked.pop(store.name, None)
            self._news.set()

    async def _proven(self, pieces: list[bytes], span: Span) -> list[proof.Run]:
        given = (pieces, span.start, span.end, self._manifest)
        if span.end - span.start <= _AT_ONCE:
            return proof.right_runs(*given)
        return await asyncio.to_thread(proof.right_runs, *given)

    def _note_bytes(self, call: _Call, amount: int) -> None:
        call.moved = self._clock()
        call.begun += amount == 0

    def _cut_stalled(self) -> None:
        now = self._clock()
        for call in self._calls:
            if call.moved is not None and now - call.moved > self._stall and call.task is not None:
                call.cut = True
                call.task.cancel()

    def _accept(self, call: _Call, pieces: list[bytes], good: list[proof.Run]) -> None:
        span, name = call.span, call.replica.store.name
        bad = proof.gaps(good, span.start, span.end)
        if bad:
            self._note_failure(call, self._wrong(call.replica.store, bad[0]))
        else:
            call.replica.succeeded(span.end - span.start, self._clock() - call.started)
        if span.settled:
            return  # another replica was first
        span.settled = True
        for other in span.asked.values():
            if other is not call:
                self._overtake(other)
        if bad:
            data = b"".join(pieces)
            for start, end in good:
                heapq.heappush(self._ready, (start, [data[start - span.start : end - span.start]]))
        else:
            heapq.heappush(self._ready, (span.start, pieces))
        self._again += [Span(start, end, span.tried | {name}) for start, end in bad]
        self._taken(call.replica.store, sum(end - start for start, end in good))

    def _overtake(self, call: _Call) -> None:
        """End a call whose span another replica has given; a replica that failed or fell silent is named."""
        assert call.task is not None
        call.task.cancel()
        silence = 0.0 if call.moved is None else self._clock() - call.moved
        if silence > _TICK or call.begun > 1:
            call.cut = True
            why = f"failed {call.begun - 1} times" if call.begun > 1 else f"sent no byte for {silence:.1f} s"
            self._note_failure(call, self._unavailable(call, f"{why}, and another replica was faster"))

    def _fail(self, call: _Call, error: FsbackupError) -> None:
        self._note_failure(call, error)
        span = call.span
        span.tried |= {call.replica.store.name}
        if not span.settled and len(span.asked) == 1:
            self._again.append(span)

    def _note_failure(self, call: _Call, error: FsbackupError) -> None:
        call.replica.failed(error, late=call.cut)
        self._passed_over(call.replica.store, error)

    def _unavailable(self, call: _Call, why: str) -> FsbackupError:
        return BackendUnavailableError(why, backend=call.replica.store.name, operation="download", key=self._key)

    def _wrong(self, store: ObjectStore, bad: proof.Run) -> FsbackupError:
        return IntegrityError(
            f"bytes {bad[0]} to {bad[1]} are not the ones that were stored",
            backend=store.name,
            operation="download",
            key=self._key,
            hint="run verify, then repair",
        )


def _whole(length: int, block: int) -> int:
    """Return the bytes of as many blocks as fit `length`, but at least one."""
    return max(1, length // block) * block


def _cut(start: int, end: int, block: int, lanes: int, shortest: int, longest: int) -> Iterator[Span]:
    """Yield the spans: each an even share of what is left, within the limits."""
    while start < end:
        share = max(shortest, (end - start) // lanes)
        stop = min(start + min(_whole(share, block), longest), end)
        yield Span(start, stop)
        start = stop


def _patience(store: ObjectStore, length: int) -> float:
    """Return how long one read may take: its store's silence, and time for the bytes at a crawl (16 KiB/s)."""
    return store.timeout + records.BACKSTOP + length / 16_384
