"""`cp` and `mv` of what lies in one bucket: the service copies it, and only bytes that are the recorded ones."""

from __future__ import annotations

import secrets
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fsbackup import ReplicatedStorage
from fsbackup.filesystem import FsbackupFileSystem
from tests.matrix import matrix
from tests.replication.raw_replicas import proves
from tests.replication.rig import PART, ReplicaRig, content, make_rig
from tests.servers import s3
from tests.servers.endpoint import S3Endpoint
from tests.servers.faults import Hold, LoseResponse, Status, fault_proxy

SMALL, LARGE = content(100, seed=1), content(2 * PART + 100, seed=2)
CLOUDS = ("r2", "b2")


@pytest.fixture(
    params=[("strict_r2", "strict_b2"), matrix(("moto", "seaweedfs")), matrix(("seaweedfs", "moto"))], ids="+".join
)
def clouds(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ReplicaRig]:
    """Return a disk and two buckets behind proxies."""
    r2, b2 = (request.getfixturevalue(each) for each in request.param)
    for each in (r2, b2):
        if isinstance(each, s3.StrictEndpoint):
            each.control.reset()
    with make_rig(r2, b2, tmp_path, proxied=True) as made:
        yield made


def opened(storage: ReplicatedStorage) -> FsbackupFileSystem:
    return FsbackupFileSystem(config=storage, skip_instance_cache=True)


def stored(rig: ReplicaRig, data: bytes, name: str = "a", **options: Any) -> FsbackupFileSystem:
    """Store an object, and return a filesystem over the set; what it asks for from now on is counted."""
    storage = rig.store(**options)
    storage.replicate(rig.file(data), name)
    for proxy in rig.proxies.values():
        proxy.forget()
    return opened(storage)


def sent(rig: ReplicaRig, name: str, key: str) -> int:
    """Return how many bytes of an object a backend was sent."""
    asked = [each for each in rig.proxies[name].requests if each.key == f"{rig.prefix}/{key}"]
    return sum(each.request_bytes for each in asked if each.operation != "complete")


def gets_of(rig: ReplicaRig, name: str, key: str) -> int:
    return rig.proxies[name].count("get", f"{rig.prefix}/{key}")


def assert_not_sent(rig: ReplicaRig, name: str, key: str, data: bytes) -> None:
    """Assert that a backend has copied; SeaweedFS gives copied parts an ETag that is no MD5 and proves nothing."""
    must_send = rig.endpoints[name].name == "seaweedfs" and len(data) > PART
    assert (sent(rig, name, key) > 0) == must_send


def assert_stored(rig: ReplicaRig, key: str, data: bytes, names: tuple[str, ...] = ("local", *CLOUDS)) -> None:
    """Assert that each replica has exactly these bytes, and a manifest of this key that proves them."""
    manifests = []
    for name in names:
        record = rig.raw_replicas[name].manifest(key)
        assert rig.raw_replicas[name].get(key) == data, name
        assert record is not None
        assert record["key"] == key
        assert proves(record, data), name
        manifests.append((record["generation"], record["write_id"], record["content_etag"]))
    assert len(set(manifests)) == 1


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["one part", "three parts"])
def test_no_byte_goes_through_this_machine(clouds: ReplicaRig, data: bytes) -> None:
    """The buckets copy, the disk reads its own copy; the result is that of an upload."""
    fs = stored(clouds, data)
    (name,) = fs.sets.names()
    fs.cp_file(f"{name}/a", f"{name}/b")
    for name in CLOUDS:
        assert gets_of(clouds, name, "a") == 0
        assert_not_sent(clouds, name, "b", data)
        assert clouds.raw_replicas[name].unfinished() == []
    assert_stored(clouds, "a", data)
    assert_stored(clouds, "b", data)
    assert fs.last_report is not None
    assert fs.last_report.status == "complete"


def test_requests_of_a_move(clouds: ReplicaRig) -> None:
    """One request to copy, one to delete; the others look, or are of the tombstone. Of parts, one for each."""
    fs = stored(clouds, SMALL, names=("r2",), min_copies=1)
    (name,) = fs.sets.names()
    fs.mv(f"{name}/a", f"{name}/b")
    assert clouds.proxies["r2"].count("copy_object") == 1
    assert clouds.raw_replicas["r2"].get("a") is None
    assert_stored(clouds, "b", SMALL, ("r2",))
    clouds.store(names=("r2",), min_copies=1).replicate(clouds.file(LARGE), "c")
    clouds.proxies["r2"].forget()
    fs.mv(f"{name}/c", f"{name}/d")
    if clouds.endpoints["r2"].name != "seaweedfs":
        asked = Counter(each.operation for each in clouds.proxies["r2"].requests if each.status == 200)
        assert (asked["create_multipart"], asked["upload_part"], asked["complete"]) == (1, 3, 1)
    assert_not_sent(clouds, "r2", "d", LARGE)


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["one part", "three parts"])
def test_a_rotten_copy_is_not_copied(clouds: ReplicaRig, data: bytes) -> None:
    """That replica gets the right bytes; the other one copies for itself."""
    rotten = bytes([data[0] ^ 1]) + data[1:]
    fs = stored(clouds, data)
    (name,) = fs.sets.names()
    clouds.raw_replicas["r2"].rot("a", rotten)
    fs.cp_file(f"{name}/a", f"{name}/b")
    assert_stored(clouds, "b", data)
    assert gets_of(clouds, "b2", "a") == 0
    assert_not_sent(clouds, "b2", "b", data)
    assert sent(clouds, "r2", "b") >= len(data)


@pytest.mark.parametrize("harm", ["missing", "stale", "no manifest", "refused"])
def test_who_cannot_copy_gets_the_bytes(clouds: ReplicaRig, harm: str) -> None:
    raw, old = clouds.raw_replicas["r2"], content(100, seed=7)
    fs = stored(clouds, old if harm == "stale" else SMALL)
    (name,) = fs.sets.names()
    if harm == "stale":
        before = raw.get("a"), raw.manifest("a")
        clouds.store(names=("local", "b2"), min_copies=2).replicate(clouds.file(SMALL, "new"), "a", overwrite=True)
        assert (raw.get("a"), raw.manifest("a")) == before
    elif harm == "missing":
        raw.drop("a")
    elif harm == "no manifest":
        raw.drop(".fsbackup/manifests/a")
    else:
        clouds.proxies["r2"].add(Status(403, "AccessDenied"), on="copy_object")
    fs.cp_file(f"{name}/a", f"{name}/b")
    assert_stored(clouds, "b", SMALL)
    assert (sent(clouds, "r2", "b") >= len(SMALL), sent(clouds, "b2", "b")) == (True, 0)


def test_a_source_that_is_replaced_meanwhile(clouds: ReplicaRig) -> None:
    """What was chosen is copied, where it is still to be had, and nothing else is stored under its name."""
    fs = stored(clouds, SMALL, names=("r2",), min_copies=1)
    (name,) = fs.sets.names()
    hold = clouds.proxies["r2"].add(Hold(), on="copy_object")
    outcome: list[Exception | None] = []

    def copy() -> None:
        try:
            outcome.append(fs.cp_file(f"{name}/a", f"{name}/b"))
        except Exception as error:  # noqa: BLE001 - looked at below
            outcome.append(error)

    thread = threading.Thread(target=copy)
    thread.start()
    hold.wait_reached(30)
    clouds.store(names=("r2",), min_copies=1).replicate(clouds.file(LARGE, "new"), "a", overwrite=True)
    hold.release()
    thread.join()
    assert isinstance(outcome[0], Exception), "the version is not to be had any more"
    assert clouds.raw_replicas["r2"].get("b") is None


def test_a_lost_answer_is_settled(clouds: ReplicaRig) -> None:
    fs = stored(clouds, SMALL)
    (name,) = fs.sets.names()
    clouds.proxies["r2"].add(LoseResponse(), on="copy_object", times=1)
    fs.cp_file(f"{name}/a", f"{name}/b")
    assert_stored(clouds, "b", SMALL)
    assert sent(clouds, "r2", "b") == 0


def test_a_copy_replaces_what_is_there(clouds: ReplicaRig) -> None:
    """Also what is the same already: a copy is a version of its own."""
    fs = stored(clouds, SMALL)
    (name,) = fs.sets.names()
    for data in (LARGE, SMALL):
        fs.pipe_file(f"{name}/b", data)
        before = fs.info(f"{name}/b")["generation"]
        fs.cp_file(f"{name}/a", f"{name}/b")
        assert fs.info(f"{name}/b")["generation"] > before
        assert_stored(clouds, "b", SMALL)
    assert clouds.proxies["r2"].count("copy_object") >= 2, "R2 takes one write a second of a key"


def test_between_prefixes_of_one_bucket(strict_r2: S3Endpoint) -> None:
    """Of two sets, whose backends differ in nothing but their prefix."""
    top = secrets.token_hex(4)
    with fault_proxy(strict_r2) as proxy:
        backends = {name: {**proxy.endpoint.backend, "prefix": f"{top}/{name}"} for name in ("one", "two")}
        sets = {name: {"backends": [name], "min_copies": 1} for name in backends}
        fs = FsbackupFileSystem(config={"version": 1, "backends": backends, "replication": sets})
        fs.pipe_file("one/a", LARGE)
        proxy.forget()
        fs.mv("one/a", "two/b/c")
        assert (proxy.count("upload_part"), proxy.count("get", "one/a")) == (2, 0)
        assert fs.find("one") == []
        assert fs.cat_file("two/b/c") == LARGE
        fs.pipe_file("one/a", SMALL)
        fs.cp_file("one/a", "two/a")
        assert proxy.count("copy_object") == 1
