"""`read_order`: a later backend is read only when no earlier one has the object, or can deliver it."""

from __future__ import annotations

import io
import time

import pytest

from fsbackup import ReplicatedStorage
from fsbackup.errors import ConfigError
from tests.replication.rig import MIB, ReplicaRig, content
from tests.servers.faults import Drop, Throttle

KEY = "backups/db.dump"
SIZE = 20 * MIB + 5
#: Reads of the data itself; HEADs of others prove that it is the newest version.
LOCAL_FIRST = ["local", ["r2", "b2"]]


@pytest.fixture
def stored(rig: ReplicaRig) -> ReplicaRig:
    """Return three replicas that hold one object, with the requests so far forgotten."""
    assert rig.store().replicate(rig.file(content(SIZE)), KEY)
    for proxy in rig.proxies.values():
        proxy.forget()
    return rig


def downloads(rig: ReplicaRig) -> dict[str, int]:
    """Return how often each cloud was asked for the data."""
    return {name: proxy.count("get", key=f"{rig.prefix}/{KEY}") for name, proxy in rig.proxies.items()}


def test_a_disk_spares_the_clouds(stored: ReplicaRig) -> None:
    """Whole restores, streams, ranges, and many short reads at the same time."""
    store = stored.store(read_order=LOCAL_FIRST)
    report = store.restore(KEY, stored.tmp / "back")
    assert report.replicas == {"local": SIZE}
    with (stored.tmp / "stream").open("wb") as stream:
        store.restore(KEY, stream)
    assert store.read(KEY, 5, 3 * MIB) == content(SIZE)[5 : 3 * MIB]
    assert downloads(stored) == {"r2": 0, "b2": 0}


def test_a_group_shares_the_work(stored: ReplicaRig) -> None:
    """When the disk has lost the object, both clouds deliver it, and the disk is not the last resort."""
    stored.raw_replicas["local"].drop(KEY)
    report = stored.store(read_order=LOCAL_FIRST).restore(KEY, stored.tmp / "back")
    assert (stored.tmp / "back").read_bytes() == content(SIZE)
    assert report.replicas.keys() == {"r2", "b2"}


def test_what_an_earlier_one_cannot_deliver(stored: ReplicaRig) -> None:
    """A rotten block comes from the next in order, not from the last; who fails is followed by the next."""
    rotten = bytearray(content(SIZE))
    rotten[7 * MIB] ^= 1
    stored.raw_replicas["r2"].rot(KEY, bytes(rotten))
    report = stored.store(read_order=["r2", "b2", "local"]).restore(KEY, stored.tmp / "back")
    assert (stored.tmp / "back").read_bytes() == content(SIZE)
    assert report.replicas["r2"] > 0
    assert report.replicas["b2"] > 0
    assert "local" not in report.replicas
    stored.raw_replicas["r2"].rot(KEY, content(SIZE))
    stored.proxies["b2"].add(Drop(), on="get")
    store = stored.store(names=("r2", "b2"), read_order=["b2", "r2"], timeout=1)
    assert store.restore(KEY, stored.tmp / "again").replicas["r2"] == SIZE


def test_who_stood_in_for_one_block_stays_in_reserve(stored: ReplicaRig) -> None:
    """The rest comes from the earlier one, which has only this block rotten."""
    rotten = bytearray(content(SIZE))
    rotten[0] ^= 1
    stored.raw_replicas["r2"].rot(KEY, bytes(rotten))
    for target in (stored.tmp / "back", io.BytesIO()):
        store = stored.store(read_order=["r2", ["b2", "local"]], memory=4 * MIB)
        report = store.restore(KEY, target)
        spare = {name: length for name, length in report.replicas.items() if name != "r2"}
        assert sum(spare.values()) == SIZE - report.replicas["r2"] <= MIB, report.replicas
    assert (stored.tmp / "back").read_bytes() == content(SIZE)


def test_without_an_order_all_share_the_work(stored: ReplicaRig) -> None:
    report = stored.store(names=("r2", "b2")).restore(KEY, stored.tmp / "back")
    assert report.replicas["r2"] > 0
    assert report.replicas["b2"] > 0


@pytest.mark.parametrize("order", [["local"], ["local", ["local", "r2"], "b2"], [["local", "r2"], "c3"]])
def test_it_names_each_backend_once(rig: ReplicaRig, order: list[str | list[str]]) -> None:
    backends = [rig.backend(name) for name in ("local", "r2", "b2")]
    with pytest.raises(ConfigError, match="read_order must name each of local, r2, b2 once"):
        ReplicatedStorage(backends, read_order=order)


@pytest.mark.parametrize("size", [1000, 3 * MIB])
def test_an_earlier_one_whose_bytes_trickle_does_not_hold_up_a_reader(rig: ReplicaRig, size: int) -> None:
    """It is not silent, so that nothing ever times out."""
    assert rig.store().replicate(rig.file(content(size)), KEY)
    crawl = rig.proxies["r2"].add(Throttle(down=10), on="get", key=f"{rig.prefix}/{KEY}")
    store = rig.store(read_order=["r2", "b2", "local"], stall_timeout=3.0)
    started = time.monotonic()
    assert store.read(KEY) == content(size)
    assert crawl.hits
    assert time.monotonic() - started < 15
