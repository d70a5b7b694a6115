"""Who knows of a tombstone, from when on, and what it costs: one listing for a process and some seconds."""

from __future__ import annotations

import asyncio
import io
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from fsbackup import ReplicatedStorage
from fsbackup.engine import tombstones
from fsbackup.errors import AccessDeniedError, BackendError, BackendUnavailableError
from fsbackup.loop import run
from fsbackup.record import Tombstone
from fsbackup.stores.base import ObjectStat
from tests.replication.memory import MemoryStore, backend
from tests.replication.prune_helpers import Disks
from tests.replication.raw_replicas import TOMBSTONES, manifest_name, tombstone_name

KEY = "d/key"


class Process(MemoryStore):
    """One process's view of a place; it counts what it asks about tombstones."""

    def __init__(self, place: MemoryStore, process: str, *, error: BackendError | None = None) -> None:
        super().__init__(place.name)
        self.objects, self.process, self.error = place.objects, process, error
        self.asked: Counter[str] = Counter()
        self.away = False

    @property
    def location(self) -> str:
        return f"{self.process}@{self.name}://"

    async def stat(self, name: str) -> ObjectStat | None:
        self._answer()
        return await super().stat(name)

    async def read(self, name: str, start: int = 0, end: int | None = None, **options: object) -> bytes:
        self._answer()
        self.asked["read"] += name.startswith(TOMBSTONES)
        return await super().read(name, start, end, **options)

    async def list(self, prefix: str = "", start_after: str = "") -> AsyncIterator[ObjectStat]:
        self._answer()
        self.asked["list"] += prefix == TOMBSTONES
        if self.error is not None and prefix == TOMBSTONES:
            raise self.error
        async for stat in super().list(prefix, start_after):
            yield stat

    def _answer(self) -> None:
        if self.away:
            raise BackendUnavailableError("away", backend=self.name)


@pytest.fixture
def places() -> list[MemoryStore]:
    return [MemoryStore(name) for name in "abc"]


def process(places: list[MemoryStore], name: str, **options: Any) -> tuple[ReplicatedStorage, list[Process]]:
    """Return the set as a process sees it that knows nothing yet."""
    stores = [Process(each, name, **options) for each in places]
    return ReplicatedStorage([backend(each) for each in stores], min_copies=2), stores


def put(storage: ReplicatedStorage, data: bytes = b"1", *, overwrite: bool = False) -> Any:
    return storage.replicate(io.BytesIO(data), KEY, overwrite=overwrite)


def kill_in_a_delete(places: list[MemoryStore], generation: int) -> None:
    """Leave what a delete leaves that is killed when it has written its tombstones."""
    other, stores = process(places, "killed")
    for store in stores:
        run(tombstones.write(store, Tombstone(KEY, generation, "2026-01-01T00:00:00+00:00")))
    del other


def test_a_repair_completes_a_delete_that_was_killed_just_before(places: list[MemoryStore]) -> None:
    """It knows of all tombstones that there were when it began, however recently this process listed them."""
    storage, _ = process(places, "p")
    report = put(storage)
    kill_in_a_delete(places, report.generation)
    assert storage.repair().done == {"delete": 3, "forget delete": 1}
    assert not any(each.stored for each in places)


class TestAListing:
    def test_one_tells_of_every_key(self, places: list[MemoryStore]) -> None:
        storage, stores = process(places, "p")
        assert all(storage.replicate(io.BytesIO(b"1"), f"k/{number}") for number in range(5))
        assert not storage.exists("no/such")
        assert [each.asked for each in stores] == [Counter(list=1)] * 3

    def test_is_made_again_after_some_seconds(
        self, places: list[MemoryStore], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        storage, stores = process(places, "p")
        assert put(storage)
        monkeypatch.setattr(tombstones, "LIFETIME", 0.0)
        assert storage.exists(KEY)
        assert [each.asked["list"] for each in stores] == [2] * 3

    def test_those_who_ask_at_the_same_time_share_it(self, places: list[MemoryStore]) -> None:
        store = process(places, "p")[1][0]

        async def ask() -> None:
            since = tombstones.recently()
            await asyncio.gather(*(tombstones.find(store, f"k/{each}", since=since) for each in range(20)))

        run(ask())
        assert store.asked == Counter(list=1)

    def test_its_failure_is_that_of_the_look_up(self, places: list[MemoryStore]) -> None:
        assert put(process(places, "p")[0])
        storage, stores = process(places, "q", error=BackendUnavailableError("it does not answer"))
        assert not put(storage)
        for store in stores:
            store.error = None
        assert put(process(places, "r")[0])

    @pytest.mark.parametrize("why", ["too many", "not allowed"])
    def test_without_it_each_key_is_asked_for(
        self, places: list[MemoryStore], monkeypatch: pytest.MonkeyPatch, why: str
    ) -> None:
        """Not again for each of them."""
        kill_in_a_delete(places, 1)
        error = AccessDeniedError("not allowed") if why == "not allowed" else None
        if error is None:
            monkeypatch.setattr(tombstones, "MOST", 0)
        storage, stores = process(places, "p", error=error)
        assert all(storage.replicate(io.BytesIO(b"1"), f"k/{number}") for number in range(3))
        for store in stores:
            assert store.asked["list"] == 1
            assert store.asked["read"] >= 3
        assert not storage.exists(KEY)


class TestWhatAnotherProcessDeletedJustNow:
    """This process has listed the tombstones a moment before."""

    def test_is_not_stored_already(self, places: list[MemoryStore]) -> None:
        """The data is still there; a repair would complete the delete, and take what was called stored."""
        storage, _ = process(places, "p")
        first = put(storage)
        kill_in_a_delete(places, first.generation)
        report = put(storage)
        assert (report.status, report.already) == ("complete", False)
        assert report.generation > first.generation
        assert storage.repair(allow_many=True).status == "complete"
        assert storage.read(KEY) == b"1"

    @pytest.mark.parametrize("data", [b"1", b"other"])
    def test_is_not_brought_back_and_stands_in_nobodys_way(self, places: list[MemoryStore], data: bytes) -> None:
        """A replica slept through the delete, and has what the others lost."""
        storage, _ = process(places, "p")
        first = put(storage)
        other, stores = process(places, "q")
        stores[2].away = True
        assert other.remove(KEY).status == "degraded"
        with pytest.raises(FileNotFoundError):
            storage.restore(KEY, io.BytesIO())
        assert storage.exists(KEY) is False
        report = put(storage, data)
        assert report.status == "complete", report.as_dict()
        assert report.generation > first.generation
        assert process(places, "r")[0].read(KEY) == data

    def test_has_a_lower_generation_than_what_is_stored_while_a_replica_is_away(
        self, places: list[MemoryStore]
    ) -> None:
        """Though the clock of who stored it was ahead."""
        storage, stores = process(places, "p")
        assert storage.replicate(io.BytesIO(b"1"), "other")
        ahead = 1 << 50
        kill_in_a_delete(places, ahead)
        stores[2].away = True
        assert put(storage).generation > ahead


def test_what_this_process_deletes_is_known_to_all_its_stores(places: list[MemoryStore]) -> None:
    one, stores = process(places, "p")
    two, others = process(places, "p")
    assert put(one)
    assert two.read(KEY) == b"1"
    stores[2].away = True
    assert one.remove(KEY).status == "degraded"
    assert two.exists(KEY) is False
    assert [each.asked["list"] for each in others] == [1, 1, 1], "nobody listed them again"
    stores[2].away = False
    assert one.remove(KEY).status == "complete"
    assert put(two).status == "complete"
    assert [each.asked["list"] for each in others][:2] == [1, 1]


class TestBesideAManifest:
    def test_the_higher_version_counts(self, disks: Disks) -> None:
        for name in "abc":
            disks.put(name, KEY, 0)
        generation = disks.raw_replicas["a"].manifest(KEY)["generation"]  # type: ignore[index]
        for name in "abc":
            disks.raw_replicas[name].set_tombstone(KEY, generation=generation - 1)
        store = disks.store({}, min_copies=2)
        assert store.exists(KEY) is True
        assert store.repair().status == "complete"
        assert all(raw.tombstone(KEY) is None for raw in disks.raw_replicas.values()), "it is garbage"
        for name in "abc":
            disks.raw_replicas[name].set_tombstone(KEY, generation=generation)
        assert store.exists(KEY) is False
        assert store.repair(allow_many=True).status == "complete"
        assert all(raw.names() == set() for raw in disks.raw_replicas.values())

    def test_a_delete_writes_over_none(self, disks: Disks) -> None:
        """Whoever takes the tombstone back has the object again, without reading it from anywhere."""
        disks.put("a", KEY, 0)
        before = disks.raw_replicas["a"].everything()
        disks.raw_replicas["a"].set_tombstone(KEY, generation=1 << 50)
        assert disks.store({}).exists(KEY) is False
        disks.raw_replicas["a"].drop(tombstone_name(KEY))
        assert disks.raw_replicas["a"].everything() == before

    def test_a_manifest_that_a_killed_delete_left_does_not_count_and_goes(self, disks: Disks) -> None:
        """Between the data and the manifest: when the tombstone goes, no lost object is left."""
        for name in "abc":
            disks.put(name, KEY, 0)
            disks.raw_replicas[name].set_tombstone(KEY, generation=1 << 50)
            disks.raw_replicas[name].drop(KEY)
        assert all(manifest_name(KEY) in raw.names() for raw in disks.raw_replicas.values())
        store = disks.store({}, min_copies=2)
        assert store.exists(KEY) is False
        assert store.repair().status == "complete"
        assert all(raw.names() == set() for raw in disks.raw_replicas.values())
