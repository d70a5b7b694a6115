"""The parallel reader: one range of an object from all healthy replicas at once, each block verified.

A range is read in *chunks* of a few whole blocks, one request each. Each replica starts with one chunk and gets
more as it succeeds, by its own `AdaptiveWindow`, so that a faster replica reads more. The last chunks are short,
so that no replica is still busy for long when the others have finished.

`ParallelReader.ranges` runs the loop: `_dispatch` gives chunks to replicas with free concurrency, one task
`_read`s each, `_accept` or `_fail` takes its result. A chunk that fails, stalls or does not match the manifest is
requested from another replica, block by block: replicas with different corrupt blocks still give a whole object.
An idle replica also requests a chunk that a slower one would take much longer for (hedged request); the first
answer wins. In a short read no replica has a measured speed: there the bytes that have arrived of the chunk say
whether the rest will take longer than the stall timeout, and a second attempt without a byte says the same.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncGenerator, Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from fsbackup.aio import cancel_and_wait
from fsbackup.engine import hashing
from fsbackup.engine.malloc import tune_malloc
from fsbackup.engine.pacing import AdaptiveWindow, whole_blocks
from fsbackup.engine.read_plan import ReadLog, ReadPlan
from fsbackup.engine.selector import ReplicaSelector
from fsbackup.errors import BackendUnavailableError, FsbackupError, IntegrityError, as_backend_error
from fsbackup.keys import encode_key
from fsbackup.sizing import BLOCK_SIZE, KIB, MIB
from fsbackup.stores.base import ObjectStore, timeout_error

if TYPE_CHECKING:
    from fsbackup.buffers import Buffers

#: Up to so many bytes a range is one request to one replica, chosen by its latency.
SHORT_READ = 4 * MIB
#: Up to so many bytes a range is one request to each replica: a usual read of an application, where every further
#: request costs money.
MEDIUM_READ = 16 * MIB
#: Bytes of the shortest chunks, towards the end.
_MIN_CHUNK = 2 * MIB
#: Bytes that are hashed on the loop: to wake up another thread would take longer.
_HASH_INLINE = 256 * KIB
#: Failures in a row, of kinds that may concern one chunk only, after which a replica is suspended.
_MAX_FAILURES = 3
#: Seconds between two checks for stalled requests.
_CHECK_INTERVAL = 0.25
#: How many times sooner another replica must be expected to deliver a chunk for a hedged request.
_HEDGE_FACTOR = 2.0
#: Seconds after which the bytes that have arrived say how fast a request is, and silence says that it has stalled.
_PATIENCE = 1.0


@dataclass(eq=False)
class _Chunk:
    """Whole blocks from `start` to `end`.

    `failed` names the replicas that could not deliver them, `requests` holds those in flight by replica.
    """

    start: int
    end: int
    failed: frozenset[str] = frozenset()
    requests: dict[str, _Request] = field(default_factory=dict)
    done: bool = False

    @property
    def length(self) -> int:
        return self.end - self.start


@dataclass(eq=False)
class _Request:
    """One chunk being read from one replica; `stalled` says that it was cancelled because it took too long.

    Where the store reports it, `last_byte` is the time of the last byte, `attempts` counts the store's tries, and
    `received` the bytes of the last of them.
    """

    replica: _Replica
    chunk: _Chunk
    started: float
    last_byte: float | None = None
    attempts: int = 0
    received: int = 0
    stalled: bool = False
    task: asyncio.Task[None] | None = None


@dataclass(eq=False)
class _Replica:
    """The state of one replica.

    A suspended one gets only chunks that no other replica can deliver. One of a later `group` is in reserve: it
    gets only chunks that the replicas of all earlier groups have failed to deliver, or that are left when these
    are suspended.
    """

    store: ObjectStore
    window: AdaptiveWindow
    group: int = 0
    in_flight: int = 0
    failures: int = 0
    suspended: bool = False

    def on_success(self, length: int, seconds: float) -> None:
        self.window.on_success(length, seconds)
        self.failures, self.suspended = 0, False

    def on_failure(self, error: FsbackupError, *, stalled: bool) -> None:
        self.window.on_failure()
        self.failures += 1
        # A corrupt block or a stall may concern one chunk only; a store's own error comes after its own retries.
        one_chunk = stalled or isinstance(error, IntegrityError)
        self.suspended = not one_chunk or self.failures >= _MAX_FAILURES


def _new_buffers() -> Buffers:
    """Return memory to read into; imported for long ranges alone."""
    from fsbackup.buffers import Buffers

    return Buffers()


class ParallelReader:
    """Reads one range of an object once.

    Parameters
    ----------
    plan
        The object and its replicas. Those with an entry in `read_log.failed` begin suspended.
    read_log
        Gets the failures and the bytes read from each replica.
    selector
        Chooses the replica for a short read.
    start, end
        The range in bytes; `start` is the beginning of a block.
    reuse_memory
        Read a long range into memory that is used again as soon as nothing refers to a piece: the pieces are views
        then, where the store can do that.
    """

    def __init__(
        self,
        plan: ReadPlan,
        read_log: ReadLog,
        selector: ReplicaSelector,
        start: int,
        end: int,
        *,
        reuse_memory: bool = False,
    ) -> None:
        self._plan, self._read_log, self._selector = plan, read_log, selector
        self._name = encode_key(plan.key)
        self._block = plan.manifest.block_size if plan.manifest else BLOCK_SIZE
        healthy = [store for store in plan.stores if store.name not in read_log.failed]
        begun = next((each for each in healthy if plan.beginning and plan.beginning.begins(each, start)), None)
        self._is_begun = begun is not None
        self._first = (begun or selector.pick(healthy)) if end - start <= SHORT_READ else None
        self._chunk_size = self._fixed_chunk_size(end - start, len(healthy))
        if self._chunk_size is None:
            tune_malloc()
        self._buffers = _new_buffers() if reuse_memory and self._chunk_size is None else None
        self._replicas = self._order(healthy, begun or self._first)
        self._retries: list[_Chunk] = []
        self._requests: set[_Request] = set()
        self._ready: list[tuple[int, list[bytes]]] = []
        #: Where the next pieces start if they are consumed in order, and where the next new chunk starts.
        self._next_offset = self._next_chunk_start = start
        self._end = end
        #: Bytes of chunks in flight or not yet consumed.
        self._held = 0
        self._unreadable = False
        self._changed = asyncio.Event()
        self._clock = asyncio.get_running_loop().time

    def _fixed_chunk_size(self, length: int, healthy: int) -> int | None:
        """Return the bytes of each chunk of a short or medium range, None for a long one, whose chunks adapt."""
        if length > min(MEDIUM_READ, self._plan.memory // 2):
            return None
        chunks = 1 if self._first else max(1, healthy)
        return max(1, -(-length // (chunks * self._block))) * self._block

    def _order(self, healthy: list[ObjectStore], first: ObjectStore | None) -> list[_Replica]:
        share = self._plan.memory // max(1, len(healthy))
        ordered = sorted(healthy, key=lambda store: store is not first)
        groups = ((*ordered, *(each for each in self._plan.stores if each not in healthy)), *self._plan.reserve)
        failed = self._read_log.failed
        return [
            _Replica(
                store, AdaptiveWindow(share, self._block, self._chunk_size), group, suspended=store.name in failed
            )
            for group, stores in enumerate(groups)
            for store in stores
        ]

    async def ranges(self, *, ordered: bool) -> AsyncGenerator[tuple[int, list[bytes]], None]:
        """Yield (offset, pieces of bytes there) of the whole range: by offset if `ordered`, else as they arrive.

        The list of pieces is cleared when the next is requested.

        Raises
        ------
        IntegrityError
            When replicas answered, but none with the right bytes.
        NoHealthyReplicaError
            When no replica could be read.
        """
        # How long bytes took that have come with the record is known.
        with self._selector.track(self._first) if self._first and not self._is_begun else nullcontext():
            try:
                remaining = self._end - self._next_offset
                while remaining and not self._unreadable:
                    self._dispatch()
                    while self._ready and (not ordered or self._ready[0][0] == self._next_offset):
                        offset, pieces = heapq.heappop(self._ready)
                        length = sum(map(len, pieces))
                        self._next_offset = offset + length if ordered else self._next_offset
                        remaining -= length
                        yield offset, pieces
                        pieces.clear()  # the consumer may have kept the list
                        self._held -= length
                        self._dispatch()
                    if remaining and not self._unreadable:
                        await self._wait()
            finally:
                await cancel_and_wait([each.task for each in self._requests if each.task is not None])
            if remaining:
                raise self._read_log.failure()

    async def _wait(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_CHECK_INTERVAL):
                await self._changed.wait()
        self._changed.clear()
        self._cancel_stalled()

    def _dispatch(self) -> None:
        """Start requests until no replica may have another one; replicas of known speed first, fastest first."""
        self._unreadable = self._unreadable or any(
            all(replica.store.name in chunk.failed for replica in self._replicas) for chunk in self._retries
        )
        started = not self._unreadable
        while started:
            started = False
            for replica in sorted(self._replicas, key=lambda each: -(each.window.speed or 0.0)):
                if replica.in_flight < replica.window.concurrency and (chunk := self._pick(replica)):
                    self._start(replica, chunk)
                    started = True

    def _pick(self, replica: _Replica) -> _Chunk | None:
        """Return the chunk to request from `replica` next: a failed one, a new one, or a hedged one."""
        name = replica.store.name
        before = self._before(replica)
        for chunk in self._retries:
            if name not in chunk.failed and all(each.store.name in chunk.failed for each in before):
                self._retries.remove(chunk)
                return chunk
        if before:
            return None if replica.suspended else self._hedged_chunk(replica, only_crawling=True)
        return self._new_chunk(replica.window.chunk_size) or self._hedged_chunk(replica)

    def _before(self, replica: _Replica) -> list[_Replica]:
        """Return the replicas that are to deliver what they can, before `replica` is asked for it."""
        others = [each for each in self._replicas if each is not replica and not each.suspended]
        return others if replica.suspended else [each for each in others if each.group < replica.group]

    def _new_chunk(self, most: int) -> _Chunk | None:
        """Return the next chunk, of at most `most` bytes and an even share of the rest for every request."""
        rest = self._end - self._next_chunk_start
        active = [each for each in self._replicas if not each.suspended]
        group = min((each.group for each in active), default=0)
        requests = sum(each.window.max_concurrency for each in active if each.group == group) or 1
        length = self._chunk_size or min(whole_blocks(max(_MIN_CHUNK, rest // requests), self._block), most)
        length = min(length, rest)
        if not rest or (self._held and self._held + length > self._plan.memory):
            return None
        chunk = _Chunk(self._next_chunk_start, self._next_chunk_start + length)
        self._next_chunk_start += length
        self._held += length
        return chunk

    def _hedged_chunk(self, replica: _Replica, *, only_crawling: bool = False) -> _Chunk | None:
        """Return a chunk that `replica` is expected to deliver much sooner than the replica that is reading it.

        With `only_crawling` one that this will hardly deliver: `replica` comes later in the reading order.
        """
        now = self._clock()
        for request in sorted(self._requests, key=lambda each: each.chunk.start):
            chunk = request.chunk
            own = None if only_crawling else replica.window.seconds(chunk.length)
            known = chunk.failed | chunk.requests.keys()
            if chunk.done or len(chunk.requests) != 1 or replica.store.name in known:
                continue
            elapsed = now - request.started
            if own is None:
                if self._is_crawling(request, elapsed):
                    return chunk
                continue
            expected = request.replica.window.seconds(chunk.length)
            rest = elapsed if expected is None or elapsed > expected else expected - elapsed
            if rest > max(_HEDGE_FACTOR * own, _CHECK_INTERVAL):
                return chunk
        return None

    def _is_crawling(self, request: _Request, elapsed: float) -> bool:
        """Tell whether the rest of a request is expected to take longer than the stall timeout.

        Of one that the store has had to begin again, without a byte, nothing better is expected: the store tries
        until its own timeout. One in its first attempt is not slow but silent (`_cancel_stalled`).
        """
        if elapsed < min(_PATIENCE, self._plan.stall):
            return False
        if not request.received:
            return request.attempts > 1
        return elapsed * (request.chunk.length / request.received - 1) > self._plan.stall

    def _start(self, replica: _Replica, chunk: _Chunk) -> None:
        request = _Request(replica, chunk, self._clock())
        chunk.requests[replica.store.name] = request
        replica.in_flight += 1
        self._requests.add(request)
        request.task = asyncio.create_task(self._read(request))
        # A task that is cancelled before its first step never comes to its `finally`.
        request.task.add_done_callback(lambda _: self._finish(request))

    def _finish(self, request: _Request) -> None:
        """Note, once or twice, that a request has ended: its replica may have another one."""
        if request in self._requests:
            self._requests.discard(request)
            request.replica.in_flight -= 1
            request.chunk.requests.pop(request.replica.store.name, None)
            self._changed.set()

    async def _read(self, request: _Request) -> None:
        """Run one request to its end; an error fails the request and its replica, never the reader."""
        store, chunk = request.replica.store, request.chunk
        try:
            async with asyncio.timeout(read_timeout(store, chunk.length)):
                on_bytes = partial(self._on_bytes, request)
                pieces = await self._receive(store, chunk, on_bytes)
            # The verification that follows is no time of the replica's.
            request.last_byte, seconds = None, self._clock() - request.started
            verified = await self._verify(pieces, chunk)
        except FsbackupError as error:
            self._fail(request, error)
        except TimeoutError:
            self._fail(request, timeout_error(store, "download", self._plan.key))
        except asyncio.CancelledError:
            assert request.task is not None
            if chunk.done or (request.task.cancelling() and not request.stalled):
                raise
            # What a store awaits may be cancelled without this request: its chunk is to be read all the same.
            reason = f"sent no byte for {self._plan.stall:g} s" if request.stalled else "its request was cancelled"
            self._fail(request, self._unavailable(request, reason))
        except Exception as error:  # noqa: BLE001 - what a store raises beyond its contract fails that store only
            self._fail(request, as_backend_error(error, store.name, self._plan.key, "download"))
        else:
            self._accept(request, pieces, verified, seconds)
        finally:
            self._finish(request)

    async def _receive(self, store: ObjectStore, chunk: _Chunk, on_bytes: Callable[[int], None]) -> list[bytes]:
        beginning = self._plan.beginning
        if beginning is not None and beginning.begins(store, chunk.start):
            return await beginning.read(chunk.end, on_bytes, self._buffers)
        return await store.read_buffers(
            self._name, chunk.start, chunk.end, on_progress=on_bytes, buffers=self._buffers
        )

    async def _verify(self, pieces: list[bytes], chunk: _Chunk) -> list[hashing.ByteRange]:
        arguments = (pieces, chunk.start, chunk.end, self._plan.manifest)
        if chunk.length <= _HASH_INLINE:
            return hashing.verified_ranges(*arguments)
        return await asyncio.to_thread(hashing.verified_ranges, *arguments)

    def _on_bytes(self, request: _Request, amount: int) -> None:
        """Note that bytes arrived; the store reports 0 bytes when it begins another attempt."""
        request.last_byte = self._clock()
        request.attempts += amount == 0
        request.received = request.received + amount if amount else 0

    def _cancel_stalled(self) -> None:
        now = self._clock()
        for request in self._requests:
            stalled = request.last_byte is not None and now - request.last_byte > self._plan.stall
            if stalled and request.task is not None:
                request.stalled = True
                request.task.cancel()

    def _accept(
        self, request: _Request, pieces: list[bytes], verified: list[hashing.ByteRange], seconds: float
    ) -> None:
        """Hand the verified bytes of a request to the consumer; its corrupt blocks are requested elsewhere."""
        chunk, store = request.chunk, request.replica.store
        corrupt = hashing.missing_ranges(verified, chunk.start, chunk.end)
        if corrupt:
            self._on_failure(request, self._mismatch(store, corrupt[0]))
        else:
            request.replica.on_success(chunk.length, seconds)
            if self._first not in (None, store):
                self._selector.observe(store, seconds)
        if chunk.done:
            return  # another replica was faster
        chunk.done = True
        for other in chunk.requests.values():
            if other is not request:
                self._cancel_slower(other)
        if corrupt:
            data = b"".join(pieces)
            for start, end in verified:
                heapq.heappush(self._ready, (start, [data[start - chunk.start : end - chunk.start]]))
        else:
            heapq.heappush(self._ready, (chunk.start, pieces))
        self._retries += [_Chunk(start, end, chunk.failed | {store.name}) for start, end in corrupt]
        self._read_log.bytes_read[store.name] += sum(end - start for start, end in verified)

    def _cancel_slower(self, request: _Request) -> None:
        """Cancel a request whose chunk another replica delivered; it counts as failed if it failed or stalled."""
        assert request.task is not None
        request.task.cancel()
        silence = 0.0 if request.last_byte is None else self._clock() - request.last_byte
        if silence > _PATIENCE or request.attempts > 1:
            request.stalled = True
            failures = request.attempts - 1
            reason = f"failed {failures} times" if failures > 0 else f"sent no byte for {silence:.1f} s"
            self._on_failure(request, self._unavailable(request, f"{reason}; another replica was faster"))

    def _fail(self, request: _Request, error: FsbackupError) -> None:
        """Request the chunk from another replica, unless one is reading it already."""
        self._on_failure(request, error)
        chunk = request.chunk
        chunk.failed |= {request.replica.store.name}
        if not chunk.done and len(chunk.requests) == 1:
            self._retries.append(chunk)

    def _on_failure(self, request: _Request, error: FsbackupError) -> None:
        request.replica.on_failure(error, stalled=request.stalled)
        self._read_log.on_failover(request.replica.store, error)

    def _unavailable(self, request: _Request, why: str) -> FsbackupError:
        store = request.replica.store
        return BackendUnavailableError(why, backend=store.name, operation="download", key=self._plan.key)

    def _mismatch(self, store: ObjectStore, corrupt: hashing.ByteRange) -> FsbackupError:
        return IntegrityError(
            f"bytes {corrupt[0]} to {corrupt[1]} do not match the manifest",
            backend=store.name,
            operation="download",
            key=self._plan.key,
            hint="run verify, then repair",
        )


def read_timeout(store: ObjectStore, length: int) -> float:
    """Return the longest seconds that reading `length` bytes may take: the store's limit, plus 1 s per 16 KiB."""
    return store.hard_timeout + length / (16 * KIB)
