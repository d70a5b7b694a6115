"""A small object is read by one request, which also brings what proves it; others are asked only to prove it."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import pytest

from fsbackup import ReplicatedStorage
from fsbackup.engine import beginning
from tests.replication.rig import MIB, ReplicaRig, content
from tests.servers.faults import Corrupt, Fault, Stall, Status

KEY = "d/key"
#: Both clouds before the disk: of two copies that are enough, one cloud and the disk prove the other's.
ORDER = ["r2", "b2", "local"]
#: What is read with the record.
FIRST = beginning.LENGTH


def opened(
    rig: ReplicaRig, data: bytes, names: tuple[str, ...] = ("r2", "b2"), **options: Any
) -> ReplicatedStorage:
    """Store the object, and return a set that knows nothing of it, but which tombstones there are."""
    options = {"read_order": [each for each in ORDER if each in names], "min_copies": len(names) - 1, **options}
    storage = rig.store(names=names, **options)
    for key in (KEY, "other"):
        assert storage.replicate(rig.file(data), key).status == "complete"
    assert storage.read("other") == data
    forget(rig)
    return storage


def forget(rig: ReplicaRig) -> None:
    for proxy in rig.proxies.values():
        proxy.forget()


def asked(rig: ReplicaRig) -> dict[str, list[str]]:
    """Return what each service was asked about the object since the last time."""
    found = {name: [str(each.operation) for each in proxy.requests] for name, proxy in rig.proxies.items()}
    forget(rig)
    return found


def test_few_are_asked(rig: ReplicaRig) -> None:
    """Two of three that agree prove what two hold: the third is asked when they do not."""
    storage = opened(rig, b"old", ("local", "r2", "b2"))
    assert storage.read(KEY) == b"old"
    assert asked(rig) == {"r2": ["get"], "b2": []}, "the disk confirms it"
    rig.proxies["r2"].add(Status(403, "AccessDenied"), on="put_object")
    assert storage.replicate(rig.file(b"new"), KEY, overwrite=True).status == "degraded"
    rig.settle()
    forget(rig)
    assert storage.read(KEY) == b"new", "the bytes of the stale replica are thrown away"
    found = {name: [each for each in operations if each != "list"] for name, operations in asked(rig).items()}
    assert found == {"r2": ["get"], "b2": ["head", "get"]}


@pytest.mark.parametrize("size", [0, 1, FIRST, FIRST + 1, 3 * MIB + 5])
def test_nothing_comes_twice(rig: ReplicaRig, size: int, tmp_path: Path) -> None:
    storage, data = opened(rig, content(size)), content(size)
    for read in (
        storage.read,
        lambda key: storage.restore(key, tmp_path / "back") and (tmp_path / "back").read_bytes(),
    ):
        forget(rig)
        assert read(KEY) == data
        gets = [each for proxy in rig.proxies.values() for each in proxy.requests if each.operation == "get"]
        assert sum(each.answer_bytes for each in gets) < size + 2000 * len(gets)
        assert len(gets) == (1 if size <= FIRST else 2)
        heads = sum(proxy.count("head") for proxy in rig.proxies.values())
        assert heads == (1 if size else 2), "nothing has no range"


@pytest.mark.parametrize("fault", [Corrupt(at=77), Status(403, "AccessDenied"), Stall(answer_bytes=1000)])
def test_first_bytes_that_do_not_come(rig: ReplicaRig, fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other replica gives the bytes, and the one that does not give them still says what it has."""
    monkeypatch.setattr(beginning, "_PATIENCE", 0.2)
    storage = opened(rig, content(3000), stall_timeout=0.2)
    rig.proxies["r2"].add(fault, on="get", key=KEY)
    with warnings.catch_warnings(action="error"):
        report = storage.restore(KEY, rig.tmp / "back")
    assert ((rig.tmp / "back").read_bytes(), report.proven, report.replicas["b2"]) == (content(3000), True, 3000)
    assert set(report.failed) == {"r2"}
    assert storage.read(KEY) == content(3000)


def test_who_was_not_asked_serves_when_others_cannot(rig: ReplicaRig) -> None:
    storage = opened(rig, content(3000), ("local", "r2", "b2"), read_order=["r2", "local", "b2"])
    before = (rig.base / KEY).stat()
    (rig.base / KEY).write_bytes(bytes(3000))
    os.utime(rig.base / KEY, ns=(before.st_atime_ns, before.st_mtime_ns))
    rig.proxies["r2"].add(Corrupt(at=77), on="get", key=KEY)
    assert storage.read(KEY) == content(3000)


def test_a_tree_asks_for_each_object_once(rig: ReplicaRig) -> None:
    """What two services have just listed with one ETag is proven by the record of either."""
    storage = opened(rig, b"1")
    assert storage.restore_tree("d", rig.tmp / "tree").status == "complete"
    assert (rig.tmp / "tree" / "key").read_bytes() == b"1"
    found = asked(rig)
    assert sorted(found["r2"] + found["b2"]) == ["get", "list", "list"]
    assert storage.restore_tree("d", rig.tmp / "tree").status == "complete"
    assert "get" not in asked(rig)["r2"] + asked(rig)["b2"], "what is there already is not fetched"


@pytest.mark.parametrize("stall_at", [0, 1000])
def test_first_bytes_of_a_long_object_that_do_not_come(rig: ReplicaRig, stall_at: int) -> None:
    """The other replica is not kept waiting for them, and gives the whole."""
    data = content(20 * MIB)
    storage = opened(rig, data, stall_timeout=0.3)
    rig.proxies["r2"].add(Stall(answer_bytes=stall_at), on="get", key=KEY, times=1)
    report = storage.restore(KEY, rig.tmp / "back")
    assert (set(report.failed), report.replicas["b2"] > 0) == ({"r2"}, True)
    assert (rig.tmp / "back").read_bytes() == data
