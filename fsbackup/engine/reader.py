"""The striped reader: the blocks of one object from all healthy replicas at once, each proven before it counts.

An object is read in *chunks* of a few whole blocks, one request each. Each replica starts with one chunk and gets more
as it proves itself, by its own `AdaptiveWindow`, so that a fast replica carries more. The last chunks are short, so that
no replica is still busy for long when the others have finished. A chunk that fails, stalls or does not match the
manifest is requested from another replica, block by block: a rotten block here and another one there still make a whole
object. An idle replica takes over a chunk that a slower one would take much longer for; the first answer wins.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from fsbackup.aio import cancel_and_wait
from fsbackup.engine import hashing
from fsbackup.engine.pacing import AdaptiveWindow, whole_blocks
from fsbackup.errors import BackendUnavailableError, FsbackupError, IntegrityError, as_backend_error
from fsbackup.record import Manifest
from fsbackup.sizing import BLOCK_SIZE, KIB, MIB
from fsbackup.stores.base import ObjectStore, timeout_error

#: Bytes of the shortest spans, towards the end.
_SHORTEST = 2 * MIB
#: Bytes that are hashed where they arrive: another thread would take longer to wake up.
_AT_ONCE = 256 * KIB
#: Failures in a row, of kinds that may concern a span only, after which a replica is asked last.
_MAX_FAILURES = 3
#: Seconds between two looks at who is late.
_TICK = 0.25
#: How much sooner another replica must have a span for it to be asked as well.
_SOONER = 2.0


@dataclass(eq=False)
class Chunk:
    """Whole blocks from `start` up to `end`; `tried` names the replicas that could not give them."""

    start: int
    end: int
    tried: frozenset[str] = frozenset()
    asked: dict[str, _Call] = field(default_factory=dict)
    done: bool = False


@dataclass(eq=False)
class _Call:
    """A span being read from one replica; `cut` says that it was given up as too late.

    Where the store tells, `moved` is when its last byte came, and `begun` how often it had to begin.
    """

    replica: _Replica
    span: Chunk
    started: float
    moved: float | None = None
    begun: int = 0
    stalled: bool = False
    task: asyncio.Task[None] | None = None


@dataclass(eq=False)
class _Replica:
    """How one replica is doing; a benched one is asked last."""

    store: ObjectStore
    window: AdaptiveWindow
    busy: int = 0
    failures: int = 0
    suspended: bool = False

    def succeeded(self, length: int, seconds: float) -> None:
        self.window.on_success(length, seconds)
        self.failures, self.suspended = 0, False

    def failed(self, error: FsbackupError, *, late: bool) -> None:
        self.window.on_failure()
        self.failures += 1
        # A bad block says little of the others; a store's own error comes after its own retries.
        last = not (late or isinstance(error, IntegrityError))
        self.suspended = last or self.failures >= _MAX_FAILURES


class ParallelReader:
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
        fallback: Sequence[ObjectStore],
        key: str,
        name: str,
        manifest: Manifest | None,
        start: int,
        end: int,
        *,
        into: int | None,
        memory: int,
        stall: float,
        on_failover: Callable[[ObjectStore, FsbackupError], None],
        on_bytes: Callable[[ObjectStore, int], None],
    ) -> None:
        self._key, self._name, self._manifest = key, name, manifest
        block = self._block = manifest.block_size if manifest else BLOCK_SIZE
        self._each = max(1, -(-(end - start) // (into * block))) * block if into else None
        share = memory // max(1, len(stores))
        self._replicas = [
            _Replica(store, AdaptiveWindow(share, block, self._each), suspended=store in fallback)
            for store in (*stores, *fallback)
        ]
        self._retries: list[Chunk] = []
        self._calls: set[_Call] = set()
        self._ready: list[tuple[int, list[bytes]]] = []
        self._front = self._cut = start
        self._end = end
        #: Bytes of spans cut and not yet taken, and how many they may be.
        self._held, self._memory = 0, memory
        self._stall = stall
        self._on_failover, self._on_bytes = on_failover, on_bytes
        self._lost = False
        self._progress = asyncio.Event()
        self._clock = asyncio.get_running_loop().time

    async def ranges(self, *, ordered: bool) -> AsyncGenerator[tuple[int, list[bytes]], None]:
        """Yield (offset, the pieces there) until all is there; by the offsets if `ordered`, else as they come.

        The list of pieces is the taker's until it asks for the next.

        Ends early when some block could be had from no replica: the caller counts bytes, and knows why.
        """
        left = self._end - self._front
        try:
            while left and not self._lost:
                self._dispatch()
                while self._ready and (not ordered or self._ready[0][0] == self._front):
                    offset, pieces = heapq.heappop(self._ready)
                    length = sum(map(len, pieces))
                    self._front = max(self._front, offset + length) if ordered else self._front
                    left -= length
                    yield offset, pieces
                    pieces.clear()  # whoever took them may have kept the list
                    self._held -= length
                    self._dispatch()
                if left and not self._lost:
                    await self._wait()
        finally:
            await cancel_and_wait([call.task for call in self._calls if call.task is not None])

    async def _wait(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_TICK):
                await self._progress.wait()
        self._progress.clear()
        self._cancel_stalled()

    def _dispatch(self) -> None:
        """Give every replica that may have more something to do; those of known speed first, the fastest first."""
        self._lost = self._lost or any(self._exhausted(span) for span in self._retries)
        progress = not self._lost
        while progress:
            progress = False
            for replica in sorted(self._replicas, key=lambda each: -(each.window.speed or 0.0)):
                if replica.busy < replica.window.allowed and (span := self._pick(replica)):
                    self._ask(replica, span)
                    progress = True

    def _exhausted(self, span: Chunk) -> bool:
        return all(each.store.name in span.tried for each in self._replicas)

    def _pick(self, replica: _Replica) -> Chunk | None:
        name = replica.store.name
        for span in self._retries:
            others = [each for each in self._replicas if each is not replica and not each.suspended]
            last_hope = all(each.store.name in span.tried for each in others)
            if name not in span.tried and (last_hope or not replica.suspended):
                self._retries.remove(span)
                return span
        if replica.suspended and not all(each.suspended for each in self._replicas):
            return None
        return self._next_chunk(replica.window.length) or self._hedged_chunk(replica)

    def _next_chunk(self, most: int) -> Chunk | None:
        """Cut the next span of at most so many bytes, and of an even share of what is left to each request."""
        left = self._end - self._cut
        requests = sum(each.window.max_requests for each in self._replicas if not each.suspended) or 1
        length = self._each or min(whole_blocks(max(_SHORTEST, left // requests), self._block), most)
        length = min(length, left)
        if not left or (self._held and self._held + length > self._memory):
            return None
        span = Chunk(self._cut, self._cut + length)
        self._cut += length
        self._held += length
        return span

    def _hedged_chunk(self, replica: _Replica) -> Chunk | None:
        """Return a span that this replica would have much sooner than the one that is reading it."""
        now = self._clock()
        for call in sorted(self._calls, key=lambda each: each.span.start):
            span, own = call.span, replica.window.seconds(call.span.end - call.span.start)
            if own is None or len(span.asked) != 1 or {replica.store.name} & (span.tried | span.asked.keys()):
                continue
            elapsed = now - call.started
            likely = call.replica.window.seconds(span.end - span.start)
            rest = elapsed if likely is None or elapsed > likely else likely - elapsed
            if rest > max(_SOONER * own, _TICK):
                return span
        return None

    def _ask(self, replica: _Replica, span: Chunk) -> None:
        call = _Call(replica, span, self._clock())
        span.asked[replica.store.name] = call
        replica.busy += 1
        self._calls.add(call)
        call.task = asyncio.create_task(self._read(call))

    async def _read(self, call: _Call) -> None:
        store, span = call.replica.store, call.span
        try:
            async with asyncio.timeout(_read_timeout(store, span.end - span.start)):
                hear = partial(self._note_bytes, call)
                pieces = await store.read_buffers(self._name, span.start, span.end, on_progress=hear)
            call.moved, took = None, self._clock() - call.started  # all came: what follows is our own time
            good = await self._proven(pieces, span)
        except FsbackupError as error:
            self._fail(call, error)
        except TimeoutError:
            self._fail(call, timeout_error(store, "download", self._key))
        except asyncio.CancelledError:
            if not call.stalled or span.done:
                raise
            self._fail(call, self._unavailable(call, f"sent no byte for {self._stall:g} s"))
        except Exception as error:  # noqa: BLE001 - what a store raises beyond its contract fails that store only
            self._fail(call, as_backend_error(error, store.name, self._key, "download"))
        else:
            self._accept(call, pieces, good, took)
        finally:
            call.replica.busy -= 1
            self._calls.discard(call)
            call.span.asked.pop(store.name, None)
            self._progress.set()

    async def _proven(self, pieces: list[bytes], span: Chunk) -> list[hashing.ByteRange]:
        given = (pieces, span.start, span.end, self._manifest)
        if span.end - span.start <= _AT_ONCE:
            return hashing.verified_ranges(*given)
        return await asyncio.to_thread(hashing.verified_ranges, *given)

    def _note_bytes(self, call: _Call, amount: int) -> None:
        call.moved = self._clock()
        call.begun += amount == 0

    def _cancel_stalled(self) -> None:
        now = self._clock()
        for call in self._calls:
            if call.moved is not None and now - call.moved > self._stall and call.task is not None:
                call.stalled = True
                call.task.cancel()

    def _accept(self, call: _Call, pieces: list[bytes], good: list[hashing.ByteRange], took: float) -> None:
        span, name = call.span, call.replica.store.name
        bad = hashing.missing_ranges(good, span.start, span.end)
        if bad:
            self._note_failure(call, self._wrong(call.replica.store, bad[0]))
        else:
            call.replica.succeeded(span.end - span.start, took)
        if span.done:
            return  # another replica was first
        span.done = True
        for other in span.asked.values():
            if other is not call:
                self._cancel_slower(other)
        if bad:
            data = b"".join(pieces)
            for start, end in good:
                heapq.heappush(self._ready, (start, [data[start - span.start : end - span.start]]))
        else:
            heapq.heappush(self._ready, (span.start, pieces))
        self._retries += [Chunk(start, end, span.tried | {name}) for start, end in bad]
        self._on_bytes(call.replica.store, sum(end - start for start, end in good))

    def _cancel_slower(self, call: _Call) -> None:
        """End a call whose span another replica has given; a replica that failed or fell silent is named."""
        assert call.task is not None
        call.task.cancel()
        silence = 0.0 if call.moved is None else self._clock() - call.moved
        if silence > _TICK or call.begun > 1:
            call.stalled = True
            why = f"failed {call.begun - 1} times" if call.begun > 1 else f"sent no byte for {silence:.1f} s"
            self._note_failure(call, self._unavailable(call, f"{why}, and another replica was faster"))

    def _fail(self, call: _Call, error: FsbackupError) -> None:
        self._note_failure(call, error)
        span = call.span
        span.tried |= {call.replica.store.name}
        if not span.done and len(span.asked) == 1:
            self._retries.append(span)

    def _note_failure(self, call: _Call, error: FsbackupError) -> None:
        call.replica.failed(error, late=call.stalled)
        self._on_failover(call.replica.store, error)

    def _unavailable(self, call: _Call, why: str) -> FsbackupError:
        return BackendUnavailableError(why, backend=call.replica.store.name, operation="download", key=self._key)

    def _wrong(self, store: ObjectStore, bad: hashing.ByteRange) -> FsbackupError:
        return IntegrityError(
            f"bytes {bad[0]} to {bad[1]} are not the ones that were stored",
            backend=store.name,
            operation="download",
            key=self._key,
            hint="run verify, then repair",
        )


def _read_timeout(store: ObjectStore, length: int) -> float:
    """Return how long one read may take: its store's silence, and time for the bytes at a crawl (16 KiB/s)."""
    return store.hard_timeout + length / 16_384
