"""What a set holds: three listings merged, whatever the keys, the differences and the outages."""

from __future__ import annotations

import asyncio
import io
import unicodedata
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path

import pytest

from fsbackup import LocalStorage, ReplicatedStorage, S3Storage
from fsbackup.engine.records import CopyState
from fsbackup.errors import NoHealthyReplicaError
from fsbackup.loop import run
from fsbackup.replication.classify import IsExpired
from fsbackup.replication.ls import SetListing
from fsbackup.retention import Retention
from tests.replication.memory import MemoryStore, backend
from tests.replication.prune_helpers import record
from tests.replication.raw_replicas import MARKER, mark
from tests.replication.rig import ReplicaRig, make_rig
from tests.servers import s3
from tests.servers.endpoint import S3Endpoint, fresh_bucket
from tests.servers.faults import Refuse, Status

NAMES = ("local", "r2", "b2")
#: Keys and the names that they are stored under, in the order of the names' bytes.
ODD = {
    "odd/#hash": "odd/#hash",
    "odd/+plus&and=": "odd/+plus&and=",
    "odd/100%": "odd/100%25",
    "odd/100%25": "odd/100%2525",
    "odd/a b": "odd/a b",
    "odd/a.b": "odd/a.b",
    "odd/a/b": "odd/a/b",
    "odd/a/bc": "odd/a/bc",
    "odd/a0": "odd/a0",
    unicodedata.normalize("NFD", "odd/é"): "odd/e%CC%81",
    "odd/star*?[x]": "odd/star%2A%3F%5Bx%5D",
    "odd/é": "odd/é",
}
MANY = 1010
#: Where so many are: storing them takes longer than all tests of listings.
FULL = ("local", "b2")


@pytest.fixture
def odd(moto: S3Endpoint, strict_b2: S3Endpoint, tmp_path: Path) -> Iterator[ReplicaRig]:
    """Return a world that holds objects with odd keys everywhere, on servers that list in the order of names."""
    with make_rig(moto, strict_b2, tmp_path, proxied=True) as rig:
        path = rig.file(b"12345")
        assert all(rig.store().replicate_many([(path, key) for key in ODD]))
        yield rig


@pytest.fixture(scope="module")
def filled(
    moto: S3Endpoint, seaweedfs: S3Endpoint, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ReplicaRig]:
    """Return a world with more objects than a page has; only the disk proves them."""
    servers = fresh_bucket(moto), fresh_bucket(seaweedfs)  # which stay as they are: nobody else lists them
    with make_rig(*servers, tmp_path_factory.mktemp("many"), proxied=True) as rig:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda n: s3.put_bytes(servers[1], f"{rig.prefix}/many/{n:05}", b"x"), range(MANY)))
        for number in range(MANY):
            rig.raw_replicas["local"].put(f"many/{number:05}", b"x")
            rig.raw_replicas["local"].set_manifest(f"many/{number:05}", record(f"many/{number:05}", b"x", 1e9))
        yield rig


@pytest.fixture
def many(filled: ReplicaRig) -> Iterator[ReplicaRig]:
    """Return that world, which no test changes, without faults."""
    yield filled
    for proxy in filled.proxies.values():
        proxy.clear()


def test_odd_keys_are_stored_under_their_names_and_listed_in_order(odd: ReplicaRig) -> None:
    """Every key comes back as it was given, once, with three copies; its name is the documented one everywhere."""
    for name in NAMES:
        assert {each for each in odd.raw_replicas[name].names() if not each.startswith(".fsbackup/")} == set(
            ODD.values()
        )
    entries = list(odd.store().ls())
    assert [entry.key for entry in entries] == list(ODD)
    assert {(entry.size, entry.copies) for entry in entries} == {(5, 3)}
    assert odd.store().status().status == "complete"


PREFIXES = {
    "odd/a": ["odd/a/b", "odd/a/bc"],
    "odd/a/": ["odd/a/b", "odd/a/bc"],
    "odd/a/b": ["odd/a/b"],
    "odd/a/b/": [],
    "odd/100%": ["odd/100%"],
    "odd": list(ODD),
    "od": [],
    "nothing/here": [],
    unicodedata.normalize("NFD", "odd/é"): [unicodedata.normalize("NFD", "odd/é")],
}


def test_a_prefix_is_whole_segments(odd: ReplicaRig) -> None:
    """`a/b` is that key and what is below it, never `a/bc`; our own records are never among them."""
    store = odd.store()
    for prefix, keys in PREFIXES.items():
        assert [entry.key for entry in store.ls(prefix)] == keys, prefix
        status = store.status(prefix)
        assert (status.status, status.objects) == ("complete", len(keys)), prefix


def test_differences_are_reported_for_each_replica(odd: ReplicaRig) -> None:
    """Missing here, other data there, only on the third: each entry and each count says which."""
    odd.raw_replicas["r2"].drop("odd/a b")
    odd.raw_replicas["local"].drop("odd/a b")
    odd.raw_replicas["r2"].put("odd/a0", b"longer than that")
    odd.raw_replicas["r2"].put("foreign", b"of others")
    entries = {entry.key: dict(entry.states) for entry in odd.store().ls()}
    assert entries["odd/a b"] == {"local": "missing", "r2": "missing", "b2": "present"}
    assert entries["odd/a0"] == {"local": "present", "r2": "no manifest", "b2": "present"}
    assert entries["foreign"] == {"local": "missing", "r2": "present", "b2": "missing"}
    status = odd.store(min_copies=2).status()
    assert status.backends["r2"].states["no manifest"] == 2  # what another program put there
    assert (status.objects, status.complete, status.under_replicated) == (len(ODD) + 1, len(ODD) - 2, 2)
    assert {name: (each.missing, each.differing) for name, each in status.backends.items()} == {
        "local": (2, 0),
        "r2": (1, 0),
        "b2": (1, 0),
    }
    assert status.status == "failed"
    assert [entry.key for entry in status.incomplete] == ["foreign", "odd/a b", "odd/a0"]


def test_a_replica_that_is_down_is_unknown_not_empty(odd: ReplicaRig) -> None:
    """What a dead replica has is unknown; the set is degraded, and nothing counts as missing."""
    odd.proxies["r2"].add(Refuse())
    store = odd.store(min_copies=2, timeout=2)
    entries = list(store.ls())
    assert [entry.key for entry in entries] == list(ODD)
    assert {entry.states["r2"] for entry in entries} == {"unknown"}
    status = store.status()
    assert (status.status, status.under_replicated, status.backends["r2"].missing) == ("degraded", 0, 0)
    assert "r2" in str(status.backends["r2"].error)


def test_a_server_that_lists_by_directories_is_merged_in_the_order_of_names(
    seaweedfs: S3Endpoint, tmp_path: Path
) -> None:
    """SeaweedFS lists the directory `a/` before `a b`; as a server of unknown kind it is sorted first."""
    there = fresh_bucket(seaweedfs)
    server = S3Storage(
        there.bucket,
        endpoint_url=there.endpoint_url,
        access_key_id=there.access_key_id,
        secret_access_key=there.secret_access_key,
    )
    store = ReplicatedStorage([LocalStorage(tmp_path / "disk"), server])
    path = tmp_path / "five"
    path.write_bytes(b"12345")
    keys = ["x/a b", "x/a-old/b", "x/a/b"]
    assert all(store.replicate(path, key) for key in reversed(keys))
    entries = list(store.ls("x"))
    assert [entry.key for entry in entries] == keys
    assert all(entry.copies == 2 for entry in entries)


@pytest.mark.parametrize("ask", ["ls", "status"])
def test_all_down_is_an_error_not_an_empty_set(odd: ReplicaRig, ask: str) -> None:
    """When no replica can be listed there is no answer: never "no objects"."""
    odd.base.rename(odd.tmp / "away")
    odd.base.write_bytes(b"in the way")
    for proxy in odd.proxies.values():
        proxy.add(Refuse())
    store = odd.store(timeout=2)
    with pytest.raises(NoHealthyReplicaError) as caught:
        list(store.ls()) if ask == "ls" else store.status()
    assert all(name in str(caught.value) for name in NAMES)


def test_a_listing_takes_one_request_per_thousand_keys(many: ReplicaRig) -> None:
    """1,010 objects: two LISTs per replica (`status`: one more, of the manifests) and nothing else, in order.

    Retention costs nothing while nothing is missing.
    """
    proxy = many.proxies["b2"]
    proxy.forget()
    rules = {"local": Retention(max_age=timedelta(days=30))}
    assert [entry.key for entry in many.store(names=FULL, retention=rules).ls()] == [
        f"many/{number:05}" for number in range(MANY)
    ]
    assert [record.operation for record in proxy.requests] == 2 * ["list"]
    proxy.forget()
    assert many.store(names=FULL).status().objects == MANY
    assert [record.operation for record in proxy.requests] == 3 * ["list"]


def test_a_listing_that_breaks_off_is_unknown_from_there(many: ReplicaRig) -> None:
    """The second page of one replica is refused: the keys of that page are unknown there, not missing."""
    many.proxies["b2"].add(Status(403, "AccessDenied"), on="list", first=2)
    store = many.store(names=FULL, min_copies=1)
    entries = list(store.ls())
    assert len(entries) == MANY
    assert {entry.states["b2"] for entry in entries[:999]} == {"present"}
    assert {entry.states["b2"] for entry in entries[1000:]} == {"unknown"}
    many.proxies["b2"].clear()
    many.proxies["b2"].add(Status(403, "AccessDenied"), on="list", first=2)
    status = store.status()
    assert (status.backends["b2"].missing, bool(status.backends["b2"].error)) == (0, True)
    assert (status.status, status.under_replicated) == ("degraded", 0)


@pytest.mark.parametrize("ask", ["ls", "stat"])
def test_expired_is_found_out_without_waiting_for_an_unreachable_replica_again(odd: ReplicaRig, ask: str) -> None:
    odd.raw_replicas["local"].drop("odd/a b")
    odd.proxies["b2"].add(Status(403, "AccessDenied"))
    tries = []
    for rules in ({}, {"local": Retention(max_age=timedelta(days=30))}):
        odd.proxies["b2"].forget()
        store = odd.store(timeout=2, retention=rules)
        found = (
            store.stat("odd/a b") if ask == "stat" else next(each for each in store.ls() if each.key == "odd/a b")
        )
        assert [getattr(each, "state", each) for each in found.states.values()] == [
            "missing",
            "present",
            "unknown",
        ]
        tries.append(len(odd.proxies["b2"].requests))
    assert tries[0] == tries[1] > 0


def test_one_object_can_be_looked_at_where_nothing_may_be_listed(odd: ReplicaRig) -> None:
    odd.raw_replicas["b2"].drop("odd/a b")
    for proxy in odd.proxies.values():
        proxy.add(Status(403, "AccessDenied"), on="list")
    store = odd.store(names=("r2", "b2"), retention={"b2": Retention(max_age=timedelta(days=30))})
    assert [each.state for each in store.stat("odd/a b").replicas.values()] == ["present", "missing"]


class Crowd(MemoryStore):
    """A store that answers reads of manifests only when so many wait at the same time."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.wanted = 0
        self._asking = 0
        self._enough = asyncio.Event()

    async def read(self, name: str, start: int = 0, end: int | None = None, **options: object) -> bytes:
        if not name.startswith(".fsbackup/manifests/"):
            return await super().read(name, start, end, **options)
        self._asking += 1
        if self._asking >= self.wanted:
            self._enough.set()
        await self._enough.wait()
        return await super().read(name, start, end, **options)

    def ask_for(self, wanted: int) -> None:
        """Answer no read until so many more wait."""
        self.wanted, self._asking, self._enough = wanted, 0, asyncio.Event()


def test_a_listing_queries_many_objects_at_once_and_cancels_the_rest() -> None:
    """Expired keys are found out once; when the listing is closed early, its queries are cancelled."""
    empty, full = MemoryStore("empty"), Crowd("full")
    alone = ReplicatedStorage([backend(full)], errors="raise")
    for number in range(40):
        assert alone.replicate(io.BytesIO(b"x"), f"k/{number:02}").status == "complete"
    empty.place(MARKER, mark())
    both = ReplicatedStorage([backend(empty), backend(full)], errors="raise")
    asked = []

    async def find_expired(unreachable: object) -> IsExpired | None:
        asked.append(unreachable)
        return lambda *_: True

    async def first_states() -> tuple[list[CopyState], int]:
        before = asyncio.all_tasks()
        full.ask_for(16)
        async with (
            asyncio.timeout(60),
            aclosing(SetListing(both.replica_set, "", find_expired=find_expired).entries()) as all_,
        ):
            first = await anext(all_)
            full.ask_for(1000)
            second = await anext(all_)  # it was among the sixteen; those who come after it ask in vain
        states = [first.states["empty"], second.states["empty"]]
        return states, len(asyncio.all_tasks() - before)

    assert run(first_states()) == (["expired", "expired"], 0)
    assert asked == [{}]


def test_a_listing_closed_early_ends(many: ReplicaRig) -> None:
    """Reading only the first entry costs its page, and the one that is read ahead."""
    for proxy in many.proxies.values():
        proxy.forget()
    entries = many.store().ls()
    assert next(entries).key == "many/00000"
    entries.close()  # type: ignore[attr-defined]
    assert all(1 <= proxy.count("list") <= 2 for proxy in many.proxies.values())
