"""`status` and `ls`: what listings suffice for, which keys are queried, and what each costs."""

from __future__ import annotations

import os
import time
from datetime import timedelta

import pytest

from fsbackup import LocalStorage, ReplicatedStorage
from fsbackup.replication.classify import classify_listed
from fsbackup.replication.status import SetStatus
from fsbackup.replication.walk import KeyEntry, ReplicaEntry
from fsbackup.stores.base import ObjectStat
from tests.replication.raw_replicas import MARKER, RawDisk, manifest_name, mark
from tests.replication.rig import ReplicaRig
from tests.servers.faults import Refuse

NAMES = ("local", "r2", "b2")
KEYS = ("backups/full/a", "backups/full/b", "backups/tenants/one/a", "wal/1", "top")


@pytest.fixture
def stored(rig: ReplicaRig) -> ReplicaRig:
    """Return a world with five objects of ten bytes everywhere, its record of requests empty."""
    path = rig.file(b"0123456789")
    assert all(rig.store().replicate_many([(path, key) for key in KEYS]))
    for proxy in rig.proxies.values():
        proxy.forget()
    return rig


def states(status: SetStatus) -> dict[str, dict[str, str]]:
    """Return the incomplete objects' states."""
    return {entry.key: dict(entry.states) for entry in status.incomplete}


def test_a_sound_set_costs_two_listings(stored: ReplicaRig) -> None:
    """Objects and manifests, and nothing is asked; all of it is counted by backend."""
    status = stored.store().status()
    assert (status.status, status.objects, status.complete, status.deleted) == ("complete", 5, 5, 0)
    for name, each in status.backends.items():
        assert (each.objects, each.bytes, dict(each.states), each.error) == (5, 50, {"present": 5}, None), name
    for name, proxy in stored.proxies.items():
        assert [record.operation for record in proxy.requests] == ["list", "list"], name


def test_groups(stored: ReplicaRig) -> None:
    """By the segments below the prefix: objects, bytes of one copy each, and the newest."""
    store = stored.store()
    groups = {group.prefix: (group.objects, group.bytes) for group in store.status().groups}
    assert groups == {"": (1, 10), "backups/": (3, 30), "wal/": (1, 10)}
    assert [group.prefix for group in store.status("backups").groups] == ["backups/full/", "backups/tenants/"]
    assert [group.prefix for group in store.status(depth=3).groups] == [
        "",
        "backups/full/",
        "backups/tenants/one/",
        "wal/",
    ]
    assert [group.prefix for group in store.status(depth=0).groups] == [""]
    newest = store.status("wal").newest
    assert newest is not None
    assert newest.key == "wal/1"
    assert abs(newest.modified - time.time()) < 120


def test_a_backup_that_stopped_is_a_failure(stored: ReplicaRig) -> None:
    """The newest object of any group older than asked, or nothing at all; the source's own age does not count."""
    store, day = stored.store(), timedelta(hours=26)
    old = stored.file(b"x")
    os.utime(old, (1, 1))
    assert store.replicate(old, "wal/2")
    assert store.status(max_age=day).status == "complete"
    for key in ("wal/1", "wal/2"):
        os.utime(stored.base / manifest_name(key), (1, 1))
    status = store.status(max_age=day)
    assert (status.status, [group.prefix for group in status.too_old]) == ("failed", ["wal/"])
    assert store.status().status == "complete"
    assert store.status("backups", max_age=day).status == "complete"
    assert store.status("nothing", max_age=day).status == "failed"
    assert store.status("nothing").status == "complete"


def test_a_copy_that_was_put_there_today_does_not_make_a_backup_younger(stored: ReplicaRig) -> None:
    """The replica that has had it longest says when it was stored, not the one that was mended last."""
    os.utime(stored.base / manifest_name("wal/1"), (1000, 1000))
    newest = stored.store().status("wal").newest
    assert newest is not None
    assert newest.modified == 1000


def test_keys_that_look_wrong_are_queried_and_no_others(stored: ReplicaRig) -> None:
    """Another size and a missed delete are queried, each replica twice; of a lost copy the listings tell all."""
    stored.raw_replicas["r2"].put("wal/1", b"short")
    stored.raw_replicas["b2"].drop("top")
    stored.proxies["b2"].add(Refuse())
    stored.store(timeout=2).remove("backups/full/a")
    stored.proxies["b2"].clear()
    for proxy in stored.proxies.values():
        proxy.forget()
    status = stored.store(min_copies=2).status()
    assert states(status) == {
        "backups/full/a": {"local": "missing", "r2": "missing", "b2": "deleted elsewhere"},
        "top": {"local": "present", "r2": "present", "b2": "missing"},
        "wal/1": {"local": "present", "r2": "no manifest", "b2": "present"},
    }
    assert (status.status, status.objects, status.complete, status.deleted) == ("degraded", 4, 2, 1)
    assert dict(status.backends["b2"].states) == {"present": 3, "missing": 1, "deleted elsewhere": 1}
    assert status.backends["b2"].bytes == 40
    for proxy in stored.proxies.values():
        asked = {_key_of(record.key) for record in proxy.requests if record.operation != "list"}
        assert asked - {MARKER} == {"backups/full/a", "wal/1"}  # b2 is asked whether it is back
        assert proxy.count("list") == 3, "objects, tombstones below the prefix, and the names of all tombstones"


def _key_of(name: str) -> str:
    """Return the key that a name in a bucket, of data or of a record, is about."""
    below = name.partition("/")[2]
    for place in ("manifests", "tombstones", "pending"):
        below = below.removeprefix(f".fsbackup/{place}/")
    return below


def test_a_new_replica_is_missing_everything_for_no_request(stored: ReplicaRig) -> None:
    """What has neither data nor manifest on a replica that lists well is missing there; nobody is asked."""
    RawDisk(stored.tmp / "new").put(MARKER, mark())
    disk = LocalStorage(stored.tmp / "new", name="new")
    store = ReplicatedStorage([*(stored.backend(name) for name in NAMES), disk], min_copies=2)
    status = store.status()
    assert dict(status.backends["new"].states) == {"missing": 5}
    assert (status.status, status.complete) == ("degraded", 0)
    for proxy in stored.proxies.values():
        assert [record.operation for record in proxy.requests] == ["list", "list"]


def test_manifests_that_are_gone_or_broken(stored: ReplicaRig) -> None:
    """Data without a manifest anywhere has no proven copy; a manifest that was cut off is damaged.

    A manifest inside an object is in no listing: of one that a disk proves and all have, nobody is asked.
    """
    stored.raw_replicas["local"].drop(manifest_name("top"))
    stored.raw_replicas["r2"].drop(manifest_name("backups/full/a"))
    stored.raw_replicas["local"].put(manifest_name("wal/1"), b"{")
    stored.raw_replicas["b2"].put("foreign", b"of others")
    status = stored.store(min_copies=1).status()
    assert states(status) == {
        "foreign": {"local": "missing", "r2": "missing", "b2": "no manifest"},
        "top": {"local": "no manifest", "r2": "present", "b2": "present"},
        "wal/1": {"local": "damaged", "r2": "present", "b2": "present"},
    }
    assert (status.status, status.under_replicated) == ("failed", 1)


def test_a_service_that_missed_a_replacement_of_the_same_size(stored: ReplicaRig) -> None:
    """Two services that make ETags of the content disagree in their listings, and are asked."""
    stored.proxies["b2"].add(Refuse())
    without_b2 = stored.store(min_copies=2, timeout=2)
    assert without_b2.replicate(stored.file(b"9876543210"), "top", overwrite=True)
    stored.proxies["b2"].clear()
    status = stored.store(min_copies=2).status()
    assert states(status) == {"top": {"local": "present", "r2": "present", "b2": "stale"}}


def test_what_retention_deleted_is_expired_not_missing(stored: ReplicaRig) -> None:
    """`expired` is called with the object's age; the object is then complete without that copy."""
    for key in ("wal/1", "top"):
        stored.raw_replicas["local"].drop(key)
        stored.raw_replicas["local"].drop(manifest_name(key))
    asked: list[tuple[str, str, float]] = []

    def expired(backend: str, key: str, when: float | None) -> bool:
        assert when is not None
        asked.append((backend, key, when))
        return key == "wal/1"

    store = stored.store(min_copies=3)
    status = store.status(expired=expired)
    assert states(status) == {"top": {"local": "missing", "r2": "present", "b2": "present"}}
    assert dict(status.backends["local"].states) == {"present": 3, "expired": 1, "missing": 1}
    assert (status.complete, status.under_replicated) == (4, 1)
    assert {(backend, key) for backend, key, _ in asked} == {("local", "top"), ("local", "wal/1")}
    report = store.verify(expired=expired)
    assert [(each.key, each.backend, each.state) for each in report.problems] == [("top", "local", "missing")]
    assert (report.complete, report.under_replicated) == (4, 1)
    # Whether any age would let it go is asked too, before its manifest is looked at.
    assert all(when == 1 or abs(when - time.time()) < 120 for _, _, when in asked)


def test_ls_tells_a_deleted_object_from_one_that_is_there(stored: ReplicaRig) -> None:
    """It costs nothing while all replicas list the same; a copy that slept through a delete is called that."""
    entries = list(stored.store().ls())
    assert [entry.key for entry in entries] == sorted(KEYS)
    assert all(entry.copies == 3 and not entry.is_deleted for entry in entries)
    for proxy in stored.proxies.values():
        assert [record.operation for record in proxy.requests] == ["list"]
    stored.proxies["b2"].add(Refuse())
    stored.store(timeout=2).remove("backups/full/b")
    stored.proxies["b2"].clear()
    stored.raw_replicas["r2"].drop("wal/1")
    stored.raw_replicas["r2"].drop(manifest_name("wal/1"))
    found = {entry.key: entry for entry in stored.store().ls()}
    assert found["backups/full/b"].is_deleted
    assert dict(found["backups/full/b"].states) == {
        "local": "missing",
        "r2": "missing",
        "b2": "deleted elsewhere",
    }
    assert dict(found["wal/1"].states) == {"local": "present", "r2": "missing", "b2": "present"}
    assert not found["wal/1"].is_deleted
    assert [key for key, entry in found.items() if entry.copies == 3] == ["backups/full/a", *sorted(KEYS)[2:4]]


@pytest.mark.parametrize(
    ("one", "other", "asked"),
    [
        ("d41d8cd98f00b204e9800998ecf8427e", "d41d8cd98f00b204e9800998ecf8427e", False),
        ("d41d8cd98f00b204e9800998ecf8427e", "00000000000000000000000000000000", True),
        ("d41d8cd98f00b204e9800998ecf8427e-2", "00000000000000000000000000000000-2", True),
        ("d41d8cd98f00b204e9800998ecf8427e-2", "00000000000000000000000000000000-3", False),
        ("d41d8cd98f00b204e9800998ecf8427e", "00000000000000000000000000000000-3", False),
        ("d41d8cd98f00b204e9800998ecf8427e", "opaque", False),
        (None, "00000000000000000000000000000000", False),
    ],
)
def test_only_etags_made_alike_are_compared(rig: ReplicaRig, one: str | None, other: str, asked: bool) -> None:
    """Stores that document their ETags, for objects stored in one request or in as many parts."""
    r2, b2, disk = (rig.backend(name).store for name in ("r2", "b2", "local"))
    etags = {"a": one, "b": other}
    entry = KeyEntry(
        "k",
        {name: ReplicaEntry(ObjectStat("k", 1, etag=etag), ObjectStat("m", 500)) for name, etag in etags.items()},
    )
    assert (classify_listed(entry, {"a": r2, "b": r2}, 1) is None) is asked
    in_parts = "-" in other
    assert (classify_listed(entry, {"a": r2, "b": b2}, 1) is None) is (asked and not in_parts)
    assert classify_listed(entry, {"a": r2, "b": disk}, 1) is not None
