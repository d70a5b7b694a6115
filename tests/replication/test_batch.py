"""Many small files at once: few requests, one wait for an unreachable replica, and no leftovers."""

from __future__ import annotations

import io
import json
import os
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest

from fsbackup import GenericStorage, ReplicatedStorage
from fsbackup.backends import SingleBackend
from fsbackup.engine import breaker
from fsbackup.replication.batch import LIST_FROM, ItemResult
from fsbackup.stores.base import ObjectStat
from fsbackup.testing import RawAccess
from tests.contract.raw_access import memory_access
from tests.integration.cli_helpers import wait_until
from tests.replication.memory import MemoryStore, backend
from tests.replication.prune_helpers import record
from tests.replication.raw_replicas import manifest_name, sealed
from tests.replication.rig import ReplicaRig, connect
from tests.servers.faults import FaultProxy, Hold, Refuse, Stall

#: More than it takes for listings to be cheaper than a query for each.
COUNT = LIST_FROM + 10


@pytest.fixture
def many(rig: ReplicaRig) -> list[tuple[Path, str]]:
    """Return small files with different content, in a directory of the batch's own."""
    folder = rig.tmp / "many"
    folder.mkdir()
    items = []
    for number in range(COUNT):
        path = folder / f"{number:04}.bin"
        path.write_bytes(f"content of {number}".encode() * (number % 7))
        items.append((path, f"batch/{number % 5}/{number:04}.bin"))
    return items


def operations(proxy: FaultProxy) -> Counter[str]:
    """Return how often each operation was asked of a server."""
    return Counter(record.operation for record in proxy.requests)


def assert_stored(rig: ReplicaRig, items: list[tuple[Path, str]], names: tuple[str, ...]) -> None:
    """Check with the independent eye that the named replicas hold every file, each manifest and nothing else."""
    wanted = {each for _, key in items for each in (key, manifest_name(key))}
    for name in names:
        raw = rig.raw_replicas[name]
        assert raw.names() == wanted, name
        for path, key in items[::37]:
            assert raw.provable(key) == path.read_bytes(), (name, key)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("size", [1000, (1 << 20) + 5])
def test_an_unchanged_file_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, *, overwrite: bool
) -> None:
    """Also where it may be replaced, and so is compared before anything is sent; a changed one is sent."""
    path = tmp_path / "file"
    path.write_bytes(secrets.token_bytes(size))
    store = ReplicatedStorage([backend(MemoryStore(name)) for name in "ab"])
    store.replicate(path, "file")
    read, pread = [0], os.pread

    def counting(descriptor: int, length: int, offset: int) -> bytes:
        data = pread(descriptor, length, offset)
        read[0] += len(data)
        return data

    monkeypatch.setattr(os, "pread", counting)
    progress = fsspec.Callback()
    [result] = store.replicate_many([(path, "file")], overwrite=overwrite, callback=lambda *_: progress)
    assert result.report is not None
    assert result.report.already
    assert read[0] == progress.value == result.report.size == size
    path.write_bytes(secrets.token_bytes(size))
    [result] = store.replicate_many([(path, "file")], overwrite=True)
    assert result.report is not None
    assert result.report.status == "complete"
    assert not result.report.already
    assert read[0] <= 3 * size


def test_a_fresh_batch_asks_nothing_twice(rig: ReplicaRig, many: list[tuple[Path, str]]) -> None:
    """R2: a PUT per file, two listings, a marker. B2, which refuses no overwrite, looks before and after each."""
    outcomes = list(rig.store().replicate_many(many))
    assert len(outcomes) == COUNT
    assert all(outcome.report and outcome.report.status == "complete" for outcome in outcomes)
    assert_stored(rig, many, ("local", "r2", "b2"))
    asked = operations(rig.proxies["r2"])
    assert asked.keys() <= {"put_object", "list", "get"}, asked
    assert asked["put_object"] == COUNT
    assert (asked["list"], asked["get"]) <= (2, 1)
    asked = operations(rig.proxies["b2"])
    assert asked.keys() <= {"put_object", "list", "head", "get"}, asked
    assert asked["put_object"] == COUNT
    assert (asked["list"], asked["get"]) <= (2, 1)
    # To meet another writer: a HEAD before the data, since the listing may be old, and one after it.
    assert asked["head"] <= 2 * COUNT


def test_the_same_batch_again_writes_nothing(rig: ReplicaRig, many: list[tuple[Path, str]]) -> None:
    """All is there: each object is asked for once, and nothing is sent."""
    assert all(rig.store().replicate_many(many))
    for proxy in rig.proxies.values():
        proxy.forget()
    outcomes = list(rig.store().replicate_many(many))
    assert all(outcome.report and outcome.report.already for outcome in outcomes)
    for proxy in rig.proxies.values():
        asked = operations(proxy)
        assert asked.keys() <= {"list", "get", "head"}, asked
        assert asked["list"] <= 2
        assert asked["get"] <= COUNT
        assert asked["head"] <= COUNT


def test_of_many_stored_objects_only_those_of_the_batch_are_listed(tmp_path: Path) -> None:
    """So that each slice of a large job costs listings of its own objects, and not of all."""

    class Counting(MemoryStore):
        listed = 0

        async def list(self, prefix: str = "", start_after: str = "") -> AsyncIterator[ObjectStat]:
            async for stat in super().list(prefix, start_after):
                self.listed += 1
                yield stat

    stores = [Counting(name) for name in "ab"]
    replicas = ReplicatedStorage([backend(store) for store in stores])
    path = tmp_path / "file"
    path.write_bytes(b"content")
    items = [(path, f"{folder}/{number:04}") for folder in "kl" for number in range(2 * COUNT)]
    assert all(replicas.replicate_many(items))
    for store in stores:
        store.listed = 0
    assert all(replicas.replicate_many(items[COUNT : 2 * COUNT]))
    assert [store.listed for store in stores] == [2 * COUNT] * 2


def test_a_batch_with_one_file_more_sends_one_file(rig: ReplicaRig, many: list[tuple[Path, str]]) -> None:
    """What is new among what is there is found, and only it is sent."""
    assert all(rig.store().replicate_many(many[1:]))
    for proxy in rig.proxies.values():
        proxy.forget()
    assert all(rig.store().replicate_many(many))
    for proxy in rig.proxies.values():
        assert operations(proxy)["put_object"] == 1
    assert_stored(rig, many, ("local", "r2", "b2"))


def place(rig: ReplicaRig, kind: str) -> tuple[SingleBackend, RawAccess]:
    """Return a backend of a kind, and raw access to it."""
    if kind == "memory":
        root = secrets.token_hex(8)
        return GenericStorage(f"memory://{root}"), memory_access(root)
    role = "r2" if kind == "s3" else kind
    raw = rig.raw_replicas[role]
    made = connect("s3", rig.endpoints[role], rig.prefix) if kind == "s3" else rig.backend(role)
    return made, RawAccess(put=raw.put, get=raw.get, names=raw.names)


@pytest.mark.each_choice
@pytest.mark.parametrize("recorded", [False, True], ids=["foreign", "recorded"])
@pytest.mark.parametrize("kind", ["local", "memory", "r2", "s3", "b2"])
def test_what_came_after_the_listing_is_not_replaced(
    rig: ReplicaRig, many: list[tuple[Path, str]], kind: str, recorded: bool
) -> None:
    """Another writer stores a key after a batch listed it as absent: the batch has a conflict, its bytes stay."""
    replica, raw = place(rig, kind)
    path, contested = many[3]
    other = bytes(path.stat().st_size)

    def another_writes(_: object, key: str) -> None:
        if key == contested:
            raw.put(key, other)
            if recorded:
                raw.put(manifest_name(key), json.dumps(sealed(record(key, other, time.time()))).encode())

    store = ReplicatedStorage([replica])
    outcomes = {
        outcome.item.key: outcome for outcome in store.replicate_many(many[:LIST_FROM], callback=another_writes)
    }
    report = outcomes.pop(contested).report
    assert report is not None
    assert report.replicas[replica.name].error_type == "ConflictError"
    assert raw.get(contested) == other
    assert len(outcomes) == LIST_FROM - 1
    assert all(outcomes.values())


@pytest.mark.parametrize("fault", [Refuse, Stall])
def test_a_dead_replica_costs_one_timeout_not_one_per_file(
    rig: ReplicaRig, many: list[tuple[Path, str]], fault: type[Refuse | Stall]
) -> None:
    """A replica that is down from the start is tried a few times and then left alone; every file says so."""
    struck = rig.proxies["r2"].add(fault())
    outcomes = list(rig.store(min_copies=2, timeout=2).replicate_many(many))
    assert {outcome.report.status for outcome in outcomes if outcome.report} == {"degraded"}
    assert len(outcomes) == COUNT
    for outcome in outcomes:
        assert outcome.report is not None
        assert outcome.report.replicas["r2"].error_type == "BackendUnavailableError"
    assert struck.hits <= 20
    assert_stored(rig, many, ("local", "b2"))


def test_a_silent_listing_holds_nobody_up(
    rig: ReplicaRig, many: list[tuple[Path, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others have every file before it ends; then the late replica gets them, too, unasked."""
    monkeypatch.setattr(breaker, "GRACE", 0.0)
    hold = rig.proxies["r2"].add(Hold("before"), on="list")
    with ThreadPoolExecutor(1) as pool:
        batch = pool.submit(list, rig.store(min_copies=2).replicate_many(many))
        hold.wait_reached()
        local, b2 = rig.raw_replicas["local"], rig.proxies["b2"]
        wait_until(lambda: len(local.names()) == 2 * COUNT and b2.count("put_object", "batch/") == COUNT)
        assert rig.raw_replicas["r2"].names() == set()
        hold.release()
        outcomes = batch.result(60)
    assert {outcome.report.status for outcome in outcomes if outcome.report} == {"complete"}
    assert_stored(rig, many, ("local", "r2", "b2"))
    assert rig.proxies["r2"].count("head", "batch/") == 0


def test_a_replica_that_dies_on_the_way_is_left_alone(rig: ReplicaRig, many: list[tuple[Path, str]]) -> None:
    """After thirty writes nobody answers any more: what was on its way waits once, the rest not at all."""
    struck = rig.proxies["r2"].add(Stall(), first=30)
    outcomes = list(rig.store(min_copies=2, timeout=2).replicate_many(many))
    assert all(outcomes)
    assert 0 < struck.hits <= 120  # 24 files at once, each with a few tries; not 170 times a few
    assert_stored(rig, many, ("local", "b2"))


def test_a_source_that_cannot_be_read_is_a_result_and_the_rest_go_on(
    rig: ReplicaRig, many: list[tuple[Path, str]]
) -> None:
    """A vanished file, a directory and a closed stream are results with an error; all other files are stored."""
    many[3][0].unlink()
    many[50][0].unlink()
    many[50][0].mkdir()
    closed = io.BytesIO(b"x")
    closed.close()
    outcomes = list(rig.store(names=("local", "r2")).replicate_many([*many, (closed, "batch/closed")]))
    failed = {outcome.item.key: outcome for outcome in outcomes if not outcome}
    assert set(failed) == {many[3][1], many[50][1], "batch/closed"}
    assert type(failed[many[3][1]].error).__name__ == "SourceNotFoundError"
    assert isinstance(failed[many[50][1]].error, ValueError)
    assert str(many[3][0]) in str(failed[many[3][1]].error)
    assert all(outcome.report is None for outcome in failed.values())
    rest = [item for item in many if item[1] not in failed]
    assert_stored(rig, rest, ("local", "r2"))


def test_a_batch_closed_early_leaves_nothing_behind(rig: ReplicaRig, many: list[tuple[Path, str]]) -> None:
    """The caller stops after the first result: unfinished uploads are cleaned up, all others are whole."""
    large = rig.file(bytes(range(256)) * 50_000, "large")
    hold = rig.proxies["r2"].add(Hold(), on="upload_part")
    batch = rig.store().replicate_many([(large, "batch/large"), *many])
    assert isinstance(next(batch), ItemResult)
    hold.wait_reached()
    batch.close()  # type: ignore[attr-defined]
    rig.proxies["r2"].clear()
    for name, raw in rig.raw_replicas.items():
        assert raw.unfinished() == [], name
        assert not [each for each in raw.names() if each.endswith("-tmp")]
        for key in ("batch/large", *(key for _, key in many[::5])):
            raw.provable(key)
    assert rig.raw_replicas["r2"].get("batch/large") is None
    assert all(rig.store().replicate_many([(large, "batch/large"), *many]))
    assert_stored(rig, [(large, "batch/large"), *many], ("local", "r2", "b2"))


def test_one_key_twice_in_a_batch_is_never_hidden(rig: ReplicaRig) -> None:
    """Two files for one key: one is stored everywhere, and the other one's outcome is a conflict."""
    items = [(rig.file(b"one", "one"), "batch/same"), (rig.file(b"two", "two"), "batch/same")]
    outcomes = list(rig.store(names=("local", "r2")).replicate_many(items))
    good = [outcome for outcome in outcomes if outcome]
    assert len(good) <= 1
    for name in ("local", "r2"):
        stored = rig.raw_replicas[name].provable("batch/same")
        for outcome in good:
            assert stored == Path(str(outcome.item.source)).read_bytes()


def test_a_wrong_key_stops_the_batch_before_it_starts() -> None:
    """A key that is not legal is a mistake in the call: `ValueError` before anything is stored."""
    store = MemoryStore("only")
    with pytest.raises(ValueError, match="not allowed"):
        ReplicatedStorage([backend(store)]).replicate_many([(io.BytesIO(b"x"), "good"), (io.BytesIO(), "../bad")])
    assert store.stored == {}


def test_nothing_to_do_is_nothing(tmp_path: Path) -> None:
    """An empty batch ends at once."""
    store = MemoryStore("only")
    assert list(ReplicatedStorage([backend(store)]).replicate_many([])) == []
    assert list(tmp_path.iterdir()) == []
