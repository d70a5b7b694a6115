"""`remove_many`: exactly these keys, by few requests, and on each what one removal of it leaves."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.replication.raw_replicas import manifest_name, tombstone_name
from tests.replication.rig import PART, ReplicaRig, content
from tests.servers.faults import Drop, Status

KEYS = [f"dir/{number:02}" for number in range(11)]


def fill(rig: ReplicaRig) -> ReplicaRig:
    """Store an object under each key, one of them of two parts, and one more."""
    items = [(rig.file(content(100 if key != KEYS[3] else PART + 1), key[4:]), key) for key in KEYS]
    assert all(each.report for each in rig.store().replicate_many([*items, (items[0][0], "other")]))
    for proxy in rig.proxies.values():
        proxy.forget()
    return rig


def test_many_go_by_two_requests_for_a_thousand(rig: ReplicaRig) -> None:
    """The data by one, the tombstones by another when all have confirmed; a listing before each compares them."""
    reports = list(fill(rig).store().remove_many([*KEYS, "absent", *KEYS]))
    assert [(each.key, each.status) for each in reports] == [(key, "complete") for key in [*KEYS, "absent"]]
    rig.clean("other")
    for name, proxy in rig.proxies.items():
        seen = Counter(one.operation for one in proxy.requests)
        listings = {"list": 4} if name == "r2" else {"list": 2, "list_versions": 3}
        seen.pop("head_bucket", None)  # a new store may ask when it first misses something
        # Of each: a look, its tombstone, and where versions are not removed one by one another look; the object of
        # two parts has a manifest of its own, which is read as often, and removed after the data.
        looks = 2 if name == "r2" else 1
        asked = {"head": looks * 11 + 1, "get": looks, "put_object": 11}
        assert seen == {**asked, **listings, "delete_objects": 2, "delete": 1}


@pytest.mark.parametrize("records", ["inside", "beside"])
def test_a_replica_that_refuses_keeps_tombstones_on_the_others(rig: ReplicaRig, records: str) -> None:
    places = fill(rig if records == "inside" else rig.beside())
    places.proxies["r2"].add(Status(403, "AccessDenied"), on="delete")
    places.proxies["r2"].add(Status(403, "AccessDenied"), on="delete_objects")
    reports = list(places.store().remove_many(KEYS))
    assert {each.status for each in reports} == {"failed"}
    assert {name for each in reports for name, result in each.replicas.items() if not result.ok} == {"r2"}
    for name in ("local", "b2"):
        assert places.raw_replicas[name].names() == {*map(tombstone_name, KEYS), "other", manifest_name("other")}
    assert set(KEYS) <= places.raw_replicas["r2"].names()
    places.settle()
    assert {each.status for each in places.store().remove_many(KEYS)} == {"complete"}
    places.clean("other")


def test_a_dead_replica_is_not_waited_for_again_and_again(rig: ReplicaRig) -> None:
    proxy = fill(rig).proxies["b2"]
    proxy.add(Drop())
    places = rig.store(timeout=1)
    next(iter(places.remove_many([KEYS[0]])))
    once = proxy.count()
    proxy.forget()
    assert [each.replicas["r2"].ok for each in places.remove_many(KEYS)] == [True] * 11
    assert proxy.count() <= 16 * once
