"""What one operation on one small object asks of each service, exactly."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fsbackup import ReplicatedStorage
from tests.replication.rig import ReplicaRig, make_rig
from tests.servers.endpoint import S3Endpoint
from tests.servers.s3 import StrictEndpoint

KEY = "d/key"


@pytest.fixture
def cloud(second_bucket: S3Endpoint, strict_b2: StrictEndpoint, tmp_path: Path) -> Iterator[ReplicaRig]:
    """Return two services that answer at once: R2's rules need no more than S3's here, B2 keeps versions."""
    strict_b2.control.reset()
    strict_b2.control.configure(unavailable_every=0)
    with make_rig(second_bucket, strict_b2, tmp_path, proxied=True) as made:
        yield made
    strict_b2.control.reset()


def opened(cloud: ReplicaRig, names: tuple[str, ...]) -> ReplicatedStorage:
    """Return a set over these services that has looked at them."""
    storage = cloud.store(names=names)
    assert storage.replicate(cloud.file(b"other"), f"other/{secrets.token_hex(4)}")
    forget(cloud)
    return storage


def forget(cloud: ReplicaRig) -> None:
    for proxy in cloud.proxies.values():
        proxy.forget()


def asked(cloud: ReplicaRig, name: str = "r2") -> list[str]:
    """Return what a service was asked since the last time, in order; what concerns a tombstone is marked."""
    requests = [
        f"{each.operation} tombstone" if ".fsbackup/tombstones/" in each.key else each.operation
        for each in cloud.proxies[name].requests
    ]
    cloud.proxies[name].forget()
    return requests


def assert_gone(cloud: ReplicaRig) -> None:
    for raw in cloud.raw_replicas.values():
        assert not [each for each in raw.names() if each.endswith(KEY)]


def put(cloud: ReplicaRig, storage: ReplicatedStorage, data: bytes, **options: Any) -> None:
    assert storage.replicate(cloud.file(data), KEY, **options).status == "complete"


@pytest.mark.parametrize(
    ("name", "create", "remove"),
    [
        ("r2", ["head", "put_object"], ["head", "delete"]),
        # It refuses no overwrite: the list of versions tells who came first. These are removed one by one.
        ("b2", ["head", "put_object", "list_versions"], ["head", "list_versions", "delete", "delete"]),
    ],
)
def test_one_service(cloud: ReplicaRig, name: str, create: list[str], remove: list[str]) -> None:
    storage = opened(cloud, (name,))
    put(cloud, storage, b"1")
    assert asked(cloud, name) == create
    put(cloud, storage, b"22", overwrite=True)
    assert asked(cloud, name) == ["head", "put_object"]
    assert storage.read(KEY) == b"22"
    assert asked(cloud, name) == ["get"], "with the bytes comes what proves them"
    assert storage.exists(KEY) is True
    assert storage.exists("no/such") is False
    assert asked(cloud, name) == ["head", "head"]
    put(cloud, storage, b"22", overwrite=True)
    assert asked(cloud, name) == ["head", "list"], (
        "nothing is sent because of what a delete may be about to remove"
    )
    assert storage.remove(KEY).status == "complete"
    assert asked(cloud, name) == remove
    assert_gone(cloud)


def test_two_services(cloud: ReplicaRig) -> None:
    """What is read comes from one; a delete leaves tombstones until all confirmed it and no repair is at work."""
    storage = opened(cloud, ("r2", "b2"))
    put(cloud, storage, b"1")
    assert asked(cloud) == ["head", "put_object"]
    assert asked(cloud, "b2") == ["head", "put_object", "list_versions"]
    assert storage.read(KEY) == b"1"
    assert sorted(asked(cloud) + asked(cloud, "b2")) == ["get", "head"]
    assert storage.remove(KEY).status == "complete"
    assert asked(cloud) == [
        *("head", "put_object tombstone", "head", "delete"),
        *("list", "head tombstone", "delete tombstone"),
    ]
    assert [each for each in asked(cloud, "b2") if each != "list_versions"] == [
        *("head", "put_object tombstone", "delete", "list", "delete tombstone"),
    ]
    assert_gone(cloud)


def test_a_process_lists_the_tombstones_once(cloud: ReplicaRig) -> None:
    storage = cloud.store(names=("r2",))
    put(cloud, storage, b"1")
    assert asked(cloud).count("list") == 1
    put(cloud, storage, b"22", overwrite=True)
    assert "list" not in asked(cloud)


def test_a_filesystem_asks_no_more(cloud: ReplicaRig) -> None:
    storage = opened(cloud, ("r2",))
    fs, path = storage.fs, f"{storage.name}/{KEY}"
    fs.pipe_file(path, b"1")
    assert asked(cloud) == ["head", "put_object"]
    fs.pipe_file(path, b"22")
    assert asked(cloud) == ["head", "put_object"]
    assert fs.cat_file(path) == b"22"
    assert asked(cloud) == ["get"]
    fs.rm_file(path)
    assert asked(cloud) == ["head", "delete"]
    fs.pipe_file(path, b"3")
    forget(cloud)
    fs.rm(path)
    assert asked(cloud) == ["head", "delete"]
    with pytest.raises(FileNotFoundError):
        fs.rm(path)
