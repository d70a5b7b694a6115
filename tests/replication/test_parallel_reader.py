"""The parallel reader: all replicas at once, and a failure of one of them never costs the bytes."""

from __future__ import annotations

import asyncio
import io
import itertools
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fsbackup import ReplicatedStorage
from fsbackup.engine.download import locate
from fsbackup.errors import ConfigError, IntegrityError, NoHealthyReplicaError, ObjectNotFoundError
from fsbackup.loop import run
from tests.matrix import matrix
from tests.replication.memory import MemoryStore, backend
from tests.replication.rig import MIB, ReplicaRig, content, make_rig
from tests.servers.endpoint import S3Endpoint
from tests.servers.faults import Drop, Fault, Hold, Refuse, Stall, Status, Throttle, fault_proxy

KEY = "backups/db.dump"
SIZE = 40 * MIB + 321
#: Of an object that a test has stored for itself.
OWN_SIZE = 20 * MIB + 321
CLOUDS = ("r2", "b2")


@pytest.fixture(scope="module")
def once(
    second_bucket: S3Endpoint, seaweedfs: S3Endpoint, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ReplicaRig]:
    """Return three replicas that hold one object, which took a while to store."""
    with make_rig(second_bucket, seaweedfs, tmp_path_factory.mktemp("once"), proxied=False) as made:
        assert made.store().replicate(made.file(content(SIZE)), KEY).status == "complete"
        yield made


@pytest.fixture
def stored(once: ReplicaRig, tmp_path: Path) -> Iterator[ReplicaRig]:
    """Return these replicas, which no test may change, behind proxies of the test's own."""
    with ExitStack() as stack:
        proxies = {name: stack.enter_context(fault_proxy(each)) for name, each in once.endpoints.items()}
        endpoints = {name: proxy.endpoint for name, proxy in proxies.items()}
        yield replace(once, proxies=proxies, endpoints=endpoints, tmp=tmp_path)


@pytest.fixture
def own(rig: ReplicaRig) -> ReplicaRig:
    """Return three replicas of the test's own that hold a shorter object, with the requests so far forgotten."""
    assert rig.store().replicate(rig.file(content(OWN_SIZE)), KEY).status == "complete"
    for proxy in rig.proxies.values():
        proxy.forget()
    return rig


def flip(rig: ReplicaRig, name: str, *positions: int) -> None:
    """Flip a bit of a replica's data at each position."""
    data = bytearray(rig.raw_replicas[name].get(KEY) or b"")
    for position in positions:
        data[position] ^= 1
    rig.raw_replicas[name].rot(KEY, bytes(data))


def data_gets(rig: ReplicaRig, name: str) -> int:
    """Return how many requests for data a replica has seen."""
    return rig.proxies[name].count("get", key=f"{rig.prefix}/{KEY}")


def test_all_replicas_share_the_work(stored: ReplicaRig) -> None:
    target = stored.tmp / "back"
    report = stored.store().restore(KEY, target)
    assert target.read_bytes() == content(SIZE)
    assert report.replicas["local"] > 0
    # Whose copy of a chunk comes first depends on the moment: the disk takes over what a busy server is late with.
    assert all(data_gets(stored, name) > 0 for name in CLOUDS)
    assert sum(report.replicas.values()) == SIZE


def test_a_faster_replica_carries_more(stored: ReplicaRig) -> None:
    stored.proxies["r2"].add(Throttle(down=2 * MIB), on="any")
    report = stored.store(names=CLOUDS).restore(KEY, stored.tmp / "back")
    assert report.replicas["b2"] > 3 * report.replicas.get("r2", 0)
    assert (stored.tmp / "back").read_bytes() == content(SIZE)
    assert not report.failed  # a slow replica has not failed


@pytest.mark.parametrize(("length", "requests"), [(2 * MIB, 1), (16 * MIB, 2)])
def test_a_read_of_some_length_is_few_requests(stored: ReplicaRig, length: int, requests: int) -> None:
    """A short read goes to one replica, a longer one is shared: each request costs money and time."""
    assert stored.store(names=CLOUDS).read(KEY, 0, length) == content(SIZE)[:length]
    # A replica that is much slower at this moment causes a hedged request.
    assert requests <= sum(data_gets(stored, name) for name in CLOUDS) <= requests + 1


def requested_ranges(rig: ReplicaRig, *names: str) -> list[tuple[int, int]]:
    """Return the ranges of data requested from the replicas, ordered by start."""
    requests = [each for name in names for each in rig.proxies[name].requests if each.key.endswith(KEY)]
    data = [each for each in requests if each.operation == "get" and ".fsbackup" not in each.key]
    ranges = [dict(each.headers)["Range"].removeprefix("bytes=").split("-") for each in data]
    return sorted((int(first), int(last) + 1) for first, last in ranges)


def test_chunks_are_long_at_first_and_short_at_the_end(stored: ReplicaRig) -> None:
    """Few requests, and no replica is busy for long when the others are done."""
    for name in CLOUDS:
        stored.proxies[name].add(Throttle(down=20 * MIB), on="any")
    stored.store(names=CLOUDS).restore(KEY, stored.tmp / "back")
    chunks = dict(requested_ranges(stored, *CLOUDS))
    first = chunks.pop(0)  # has come with the record, and the chunk goes on behind it
    lengths = [end - start for start, end in {0: chunks.pop(first), **chunks}.items()]
    assert sum(lengths) == SIZE
    assert (lengths[0], lengths[-1]) == (5 * MIB, SIZE % MIB or MIB)
    assert lengths == sorted(lengths, reverse=True)
    assert len(lengths) <= 17


class DelayedStore(MemoryStore):
    """A store that takes `seconds` for any read; counts the bytes and the concurrent reads."""

    def __init__(self, name: str, seconds: float) -> None:
        super().__init__(name)
        self._seconds = seconds
        self.forget()

    def forget(self) -> None:
        """Begin to count again."""
        self.lengths: list[int] = []
        self.delivered = self.in_flight = self.most_in_flight = 0

    async def read(self, name: str, start: int = 0, end: int | None = None, **options: object) -> bytes:
        if name != KEY or end is None:
            return await super().read(name, start, end, **options)
        self.lengths.append(end - start)
        self.delivered += end - start
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        await asyncio.sleep(self._seconds)
        self.in_flight -= 1
        return await super().read(name, start, end, **options)


class CountingStream(io.BytesIO):
    """Counts the bytes written, and the most bytes that the stores had delivered beyond these."""

    def __init__(self, *stores: DelayedStore) -> None:
        super().__init__()
        self._stores = stores
        self.taken = self.most_ahead = 0

    def write(self, data: Any) -> int:
        self.most_ahead = max(self.most_ahead, sum(store.delivered for store in self._stores) - self.taken)
        self.taken += len(data)
        return len(data)


def delayed_stores(seconds: float, size: int, memory: int) -> tuple[list[DelayedStore], ReplicatedStorage]:
    """Return two stores that hold one object of `size` zeros, and their set."""
    stores = [DelayedStore(name, seconds) for name in ("one", "other")]
    both = ReplicatedStorage([backend(store) for store in stores], errors="raise", memory=memory)
    assert both.replicate(io.BytesIO(bytes(size)), KEY).status == "complete"
    for store in stores:  # the upload has read back what it stored
        store.forget()
    return stores, both


def test_a_replica_of_high_latency_gets_more_concurrent_chunks() -> None:
    """Where the round trip takes most of the time, chunks are read concurrently, and none is long."""
    stores, both = delayed_stores(0.1, 128 * MIB, memory=64 * MIB)
    both.restore(KEY, target := CountingStream(*stores))
    assert target.taken == 128 * MIB
    assert {max(store.lengths) for store in stores} == {8 * MIB}
    # On a busy machine a chunk may be requested once more (hedged).
    assert max(store.most_in_flight for store in stores) >= 4


@pytest.mark.parametrize(("size", "tuned"), [(64 * MIB, True), (4 * MIB, False)])
def test_a_long_read_has_freed_memory_given_back(monkeypatch: pytest.MonkeyPatch, size: int, tuned: bool) -> None:
    """Else the C library keeps more than twice of it, in the arenas of the threads that read."""
    calls: list[bool] = []
    monkeypatch.setattr("fsbackup.engine.reader.tune_malloc", lambda: calls.append(True))
    stores, both = delayed_stores(0.0, size, memory=24 * MIB)
    both.restore(KEY, CountingStream(*stores))
    assert bool(calls) == tuned


@pytest.mark.parametrize("seconds", [0.0, 0.1])
@pytest.mark.parametrize("memory", [8 * MIB, 24 * MIB])
def test_bytes_in_flight_or_unconsumed_stay_within_the_memory(seconds: float, memory: int) -> None:
    """On a busy machine each chunk may be requested twice (hedged), and counts twice for a moment."""
    stores, both = delayed_stores(seconds, 64 * MIB, memory)
    both.restore(KEY, target := CountingStream(*stores))
    assert target.taken == 64 * MIB
    assert memory // 2 < target.most_ahead <= 2 * memory


def test_replicas_with_different_corrupt_blocks_make_a_whole_object(own: ReplicaRig) -> None:
    """No replica is intact, and no block is corrupt everywhere, also within one chunk."""
    flip(own, "local", 5, 9 * MIB)
    flip(own, "r2", MIB + 5, 19 * MIB)
    flip(own, "b2", 2 * MIB + 5, OWN_SIZE - 1)
    target = own.tmp / "back"
    report = own.store().restore(KEY, target)
    assert target.read_bytes() == content(OWN_SIZE)
    assert sum(report.replicas.values()) == OWN_SIZE
    assert set(report.failed) <= {"local", *CLOUDS}
    assert report.failed
    stream = io.BytesIO()
    own.store().restore(KEY, stream)
    assert stream.getvalue() == content(OWN_SIZE)


def test_one_block_corrupt_everywhere_is_an_integrity_error(own: ReplicaRig) -> None:
    for name in own.raw_replicas:
        flip(own, name, 17 * MIB + 3)
    with pytest.raises(IntegrityError, match="bytes 17825792 to 18874368"):
        own.store().restore(KEY, own.tmp / "back")
    assert not (own.tmp / "back").exists()


def test_a_silent_replica_is_replaced_after_the_stall_timeout(stored: ReplicaRig) -> None:
    """The slow replica takes over from the silent one, long before the timeout of the backend."""
    stored.proxies["b2"].add(Throttle(down=8 * MIB), on="any")
    stored.proxies["r2"].add(Stall(answer_bytes=100_000), on="get", key=f"{stored.prefix}/{KEY}")
    store = stored.store(names=CLOUDS, timeout=300, stall_timeout=0.5)
    target = stored.tmp / "back"
    report = store.restore(KEY, target)
    assert target.read_bytes() == content(SIZE)
    assert "sent no byte" in report.failed["r2"]


@pytest.mark.parametrize("rate", [1, 20_000])
def test_a_crawling_replica_does_not_hold_up_short_reads(stored: ReplicaRig, rate: int) -> None:
    """Its bytes never stop coming. The other one is asked as soon as that shows, and first from then on."""
    store, proxy = stored.store(names=("r2", "local"), timeout=300, stall_timeout=1.5), stored.proxies["r2"]
    reader = run(locate(store.replica_set, KEY))
    proxy.add(Throttle(down=rate), on="get", key=f"{stored.prefix}/{KEY}")
    began = time.monotonic()
    reads = [run(reader.range(start * MIB, start * MIB + 300_000)) for start in (5, 6, 7)]
    assert reads == [content(SIZE)[start * MIB : start * MIB + 300_000] for start in (5, 6, 7)]
    assert data_gets(stored, "r2") == 1
    assert time.monotonic() - began < 15, "what one block takes on the slow line, at least"


@pytest.mark.parametrize("fault", [Refuse(), Status(503, "SlowDown")], ids=["refuses", "answers 503"])
def test_a_replica_that_serves_no_data_does_not_hold_up_short_reads(stored: ReplicaRig, fault: Fault) -> None:
    """It answers what is asked about an object, and fails each attempt to read one: its own retries may go on."""
    store, proxy = stored.store(names=("r2", "local"), timeout=20), stored.proxies["r2"]
    reader = run(locate(store.replica_set, KEY))
    proxy.add(fault, on="get", key=f"{stored.prefix}/{KEY}")
    began = time.monotonic()
    reads = [run(reader.range(start * MIB, start * MIB + 300_000)) for start in (5, 6, 7)]
    assert reads == [content(SIZE)[start * MIB : start * MIB + 300_000] for start in (5, 6, 7)]
    assert time.monotonic() - began < 10, "half the backend's timeout"


def test_a_replica_that_keeps_failing_is_suspended(stored: ReplicaRig) -> None:
    """After three failed chunks the other ten are not requested from it."""
    stored.proxies["r2"].add(Status(403, "AccessDenied"), on="get", key=f"{stored.prefix}/{KEY}")
    report = stored.store(names=CLOUDS).restore(KEY, stored.tmp / "back")
    assert (stored.tmp / "back").read_bytes() == content(SIZE)
    assert data_gets(stored, "r2") <= 3
    assert "AccessDenied" in report.failed["r2"]


def test_a_replica_of_corrupt_blocks_only_is_suspended(own: ReplicaRig) -> None:
    own.raw_replicas["r2"].put(KEY, content(OWN_SIZE, seed=9))
    report = own.store(names=CLOUDS).restore(KEY, own.tmp / "back")
    assert (own.tmp / "back").read_bytes() == content(OWN_SIZE)
    assert "r2" not in report.replicas
    assert data_gets(own, "r2") <= 3


def test_no_data_is_requested_from_a_stale_replica(own: ReplicaRig) -> None:
    """Its own manifest is of another version."""
    own.proxies["r2"].add(Status(503, "ServiceUnavailable"), on="any")
    new = own.file(content(OWN_SIZE, seed=2), "new")
    report = own.store(min_copies=2, timeout=2).replicate(new, KEY, overwrite=True)
    assert report.status == "degraded"
    own.proxies["r2"].clear()
    own.proxies["r2"].forget()
    target = own.tmp / "back"
    own.store(names=CLOUDS).restore(KEY, target)
    assert target.read_bytes() == content(OWN_SIZE, seed=2)
    assert data_gets(own, "r2") == 1, "for its record, with which the first bytes come"


def test_a_replica_that_dies_half_way_is_replaced(stored: ReplicaRig) -> None:
    stored.proxies["r2"].add(Drop(answer_bytes=0), on="get", key=f"{stored.prefix}/{KEY}", first=3)
    report = stored.store(names=CLOUDS, timeout=2).restore(KEY, stored.tmp / "back")
    assert (stored.tmp / "back").read_bytes() == content(SIZE)
    assert report.replicas["b2"] > 0


def test_in_order_a_slow_replica_does_not_hold_up_the_stream(stored: ReplicaRig) -> None:
    """A stream needs its first chunk first; the fast replica gets a hedged request for it."""
    hold = stored.proxies["r2"].add(Hold(), on="get", key=f"{stored.prefix}/{KEY}")
    stream = io.BytesIO()
    stored.store(names=CLOUDS, timeout=60).restore(KEY, stream)
    hold.release()
    assert stream.getvalue() == content(SIZE)


@pytest.mark.parametrize("names", [("local",), matrix(CLOUDS, id="r2+b2"), ("local", *CLOUDS)], ids="+".join)
def test_ranges_are_the_bytes_they_should_be(stored: ReplicaRig, names: tuple[str, ...]) -> None:
    store, data = stored.store(names=names), content(SIZE)
    dice = random.Random(7)
    spots = [0, 1, MIB - 1, MIB, MIB + 1, 4 * MIB, SIZE - 1, SIZE, SIZE + 5]
    pairs = [(a, b) for a in spots for b in spots]
    for start, end in dice.sample(pairs, 25):
        assert store.read(KEY, start, end) == data[start:end], (start, end)
    assert store.read(KEY) == data
    assert store.read(KEY, SIZE - 10) == data[-10:]


def test_a_range_costs_one_get_and_only_its_blocks(stored: ReplicaRig) -> None:
    store = stored.store(names=("r2",))
    assert store.read(KEY, 3 * MIB - 5, 3 * MIB + 5) == content(SIZE)[3 * MIB - 5 : 3 * MIB + 5]
    assert data_gets(stored, "r2") == 1
    assert stored.proxies["r2"].count("list") == 1, "of all tombstones, once in a process"


def test_a_corrupt_block_in_the_range_comes_from_another_replica(own: ReplicaRig) -> None:
    flip(own, "r2", 7 * MIB + 7)
    store = own.store(names=CLOUDS, read_order=["r2", "b2"])
    assert store.read(KEY, 7 * MIB + 1, 7 * MIB + 100) == content(OWN_SIZE)[7 * MIB + 1 : 7 * MIB + 100]
    flip(own, "b2", 7 * MIB + 8)
    with pytest.raises(IntegrityError):
        store.read(KEY, 7 * MIB + 1, 7 * MIB + 100)
    assert store.read(KEY, 8 * MIB, 8 * MIB + 9) == content(OWN_SIZE)[8 * MIB : 8 * MIB + 9]


def test_wrong_ranges_and_missing_keys_are_different_errors(stored: ReplicaRig) -> None:
    store = stored.store()
    with pytest.raises(ValueError, match="first byte"):
        store.read(KEY, -5)
    with pytest.raises(ObjectNotFoundError):
        store.read("no/such/key", 0, 5)


def test_a_stall_timeout_must_be_positive(rig: ReplicaRig) -> None:
    with pytest.raises(ConfigError, match="stall_timeout"):
        rig.store(stall_timeout=0)


class BuggyStore(MemoryStore):
    """A third-party store whose reads raise what no store should raise."""

    error: BaseException | None = None

    async def read(self, name: str, start: int = 0, end: int | None = None, **_: object) -> bytes:
        if name == KEY and self.error is not None:
            raise self.error
        return await super().read(name, start, end)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("a mistake in its code"), "ValueError: a mistake in its code"),
        (asyncio.CancelledError(), "its request was cancelled"),
    ],
    ids=["error", "cancelled"],
)
@pytest.mark.timeout(30)
def test_an_error_beyond_the_contract_fails_only_its_store(error: BaseException, reason: str) -> None:
    """An unexpected exception does not leave the reader waiting, nor does a cancellation that was not of it."""
    buggy, fine = BuggyStore("buggy"), MemoryStore("fine")
    both = ReplicatedStorage([backend(buggy), backend(fine)], errors="raise")
    assert both.replicate(io.BytesIO(b"bytes"), KEY).status == "complete"
    buggy.error = error
    assert both.read(KEY) == b"bytes"
    alone = ReplicatedStorage([backend(buggy)], errors="raise")
    with pytest.raises(NoHealthyReplicaError, match=reason):
        alone.read(KEY)


class ScriptedStore(MemoryStore):
    """Before it reads data it does what `before` says."""

    before: Callable[[], Awaitable[None]] | None = None

    async def read(self, name: str, start: int = 0, end: int | None = None, **options: object) -> bytes:
        if name == KEY and self.before is not None:
            await self.before()
        return await super().read(name, start, end, **options)


@pytest.mark.timeout(20)
def test_a_hedged_request_may_be_cancelled_before_it_has_begun(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The chunk comes in the very step of the loop that the request for it from another replica would begin in.

    That replica, which asks for one chunk at a time, gets others all the same: the first one never sends another.
    """
    monkeypatch.setattr("fsbackup.engine.reader._CHECK_INTERVAL", 0.05)
    monkeypatch.setattr("fsbackup.engine.reader._HASH_INLINE", 8 * MIB)
    monkeypatch.setattr("fsbackup.engine.pacing._GROW_BELOW", 20.0)  # longer chunks, never several at once
    slow, quick = ScriptedStore("slow"), ScriptedStore("quick")
    both = ReplicatedStorage([backend(slow), backend(quick)], errors="raise", memory=8 * MIB)
    assert both.replicate(io.BytesIO(bytes(32 * MIB)), KEY).status == "complete"
    first, reads = asyncio.Event(), itertools.count(1)
    held = iter([first])

    async def hold() -> None:
        await next(held, asyncio.Event()).wait()

    async def release() -> None:
        """Have the other one's first read go on after the third of these, with which the memory is full."""
        if next(reads) == 3:
            await asyncio.sleep(0.1)  # now the other one is much slower
            asyncio.get_running_loop().call_soon(first.set)

    slow.before, quick.before = hold, release
    report = both.restore(KEY, tmp_path / "back")
    assert report.replicas == {"slow": MIB, "quick": 31 * MIB}
