"""Keys with segments that no disk can store as they are: every method works on them, and listings tell the key."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from fsbackup.cli import main
from fsbackup.filesystem import FsbackupFileSystem
from fsbackup.loop import run
from fsbackup.replication.repair import RepairOptions, repair
from tests.matrix import matrix
from tests.replication.prune_helpers import Disks, content, days, prune_later
from tests.replication.raw_replicas import MANIFESTS, pending_name
from tests.replication.rig import ReplicaRig, make_rig
from tests.replication.rig import content as large_content
from tests.servers import s3
from tests.servers.endpoint import S3Endpoint

#: Segments about as long as a name may be, and much longer; several bytes per letter, and per letter of a name.
SEGMENTS = [
    *("n" * length for length in (240, 241, 1000)),
    *("é" * length for length in (120, 121)),
    *("日" * length for length in (80, 81)),
    *("%" * length for length in (80, 81)),
    "cafe\u0301" * 60,
    "last" * 100,
]
KEYS = sorted([f"{number:02}/{segment}/{number}.gz" for number, segment in enumerate(SEGMENTS)] + SEGMENTS[-1:])
LONG = "backups/" + "n" * 300 + "/db-2025-10-05.sql"
#: Too long for the metadata of an object in a bucket: its manifest is an object of its own.
OTHER = "backups/" + "n" * 1700 + "/db-2025-10-05.sql"


def test_every_method_works_on_a_disk(disks: Disks) -> None:
    """Store, look, list, read, verify, repair what is lost, and delete."""
    store = disks.store({}, min_copies=2)
    results = list(store.replicate_many([(io.BytesIO(content(key)), key) for key in KEYS]))
    assert all(result.report is not None and result.report.status == "complete" for result in results)
    assert sorted(entry.key for entry in store.ls()) == KEYS
    assert [entry.key for entry in store.ls(f"00/{SEGMENTS[0]}")] == [f"00/{SEGMENTS[0]}/0.gz"]
    assert [entry.key for entry in store.ls(f"02/{SEGMENTS[2]}/")] == [f"02/{SEGMENTS[2]}/2.gz"]
    assert (store.status().status, store.status().objects) == ("complete", len(KEYS))
    for name in disks.raw_replicas["b"].names():
        disks.raw_replicas["b"].drop(name)
    assert {problem.key for problem in store.verify().problems} == set(KEYS)
    assert store.repair().done == {"refill": len(KEYS)}
    assert store.verify(deep=True).status == "complete"
    for key in KEYS:
        assert store.read(key) == content(key)
        assert store.stat(key).is_complete
    assert all(store.remove_many(KEYS))
    assert {name for raw in disks.raw_replicas.values() for name in raw.names()} == set()


@pytest.fixture
def rig(moto: S3Endpoint, strict_b2: S3Endpoint, tmp_path: Path) -> Iterator[ReplicaRig]:
    with make_rig(moto, strict_b2, tmp_path, proxied=False) as made:
        yield made


@pytest.mark.parametrize("beside", [False, matrix(True)])
def test_every_method_works_on_buckets(rig: ReplicaRig, *, beside: bool) -> None:
    """With the manifest inside, in an object of its own, and beside."""
    rig = rig.beside() if beside else rig
    store, sizes = rig.store(min_copies=2), {LONG: 100, OTHER: 101}
    for key, size in sizes.items():
        assert store.replicate(rig.file(large_content(size)), key).status == "complete"
    assert {entry.key for entry in store.ls("backups")} == set(sizes)
    in_objects = s3.list_keys(rig.endpoints["r2"], f"{rig.prefix}/.fsbackup/records/")
    assert len(in_objects) == (0 if beside else 1)
    raw = rig.raw_replicas["r2"]
    raw.drop(next(name for name in raw.names() if name.startswith("backups/")))
    (problem,) = {(each.key, each.state) for each in store.verify().problems}
    assert problem[0] in sizes
    assert problem[1] == "missing"
    assert store.repair().status == "complete"
    assert store.verify(deep=True).status == "complete"
    assert store.read(OTHER) == large_content(sizes[OTHER])
    assert all(store.remove_many(sizes))
    assert [each.names() for each in rig.raw_replicas.values()] == [set()] * 3


def test_retention_knows_their_series(disks: Disks) -> None:
    """By the keys, which only the manifests tell: the older version of a series goes."""
    names = ["n" * 300, "é" * 150]
    for number in (1, 2):
        for name in names:
            disks.store({}).replicate(io.BytesIO(content(name)), f"{name}/2025-01-0{number}.gz")
    store = disks.store({"a": days(30)})
    report = prune_later(store, {"a": days(30)})
    assert {step.key for step in report.steps if step.outcome == "deleted"} == {
        f"{each}/2025-01-01.gz" for each in names
    }
    assert {entry.key for entry in store.ls()} == {f"{each}/2025-01-0{day}.gz" for each in names for day in "12"}


def test_a_name_whose_key_no_record_tells(disks: Disks) -> None:
    """It is shown under that name, as damaged or without a manifest, is not adopted, and stays."""
    store = disks.store({})
    assert store.replicate(io.BytesIO(b"data"), LONG)
    raw, name = disks.raw_replicas["a"], next(each for each in disks.keys("a"))
    for each in disks.raw_replicas.values():
        each.put(MANIFESTS + name, b"{")
    before = disks.snapshot()
    problems = store.verify().problems
    assert {(each.key, each.state) for each in problems} == {(name, "damaged")}
    assert [entry.key for entry in store.ls()] == [name]
    assert store.repair(adopt=True).status == "failed"
    assert disks.snapshot() == before
    for each in disks.raw_replicas.values():
        each.drop(MANIFESTS + name)
    report = store.repair(adopt=True)
    assert ["no record says" in step.action.reason for step in report.steps] == [True]
    assert raw.names() == {name}


def test_another_replicas_record_tells_the_key(disks: Disks) -> None:
    """Where the first one's is unreadable; and what a crash left of a replacement is found."""
    store = disks.store({}, min_copies=2)
    assert store.replicate(io.BytesIO(b"data"), LONG)
    name = next(each for each in disks.keys("a"))
    disks.raw_replicas["a"].put(MANIFESTS + name, b"{")
    assert [(each.key, each.backend) for each in store.verify().problems] == [(LONG, "a")]
    manifest = disks.raw_replicas["b"].get(MANIFESTS + name)
    assert manifest is not None
    disks.raw_replicas["b"].put(pending_name(name), manifest)
    report = run(repair(store.replica_set, RepairOptions("backups", safe_age=0.0)))
    assert (report.objects, report.done) == (1, {"write manifest": 1, "clear intent": 1})
    assert store.verify(deep=True).status == "complete"


def test_commands_and_the_filesystem(
    disks: Disks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They show the key, never the name."""
    backends = {name: {"type": "local", "path": name} for name in "abc"}
    config = {"version": 1, "backends": backends, "replication": {"set": {"backends": [*"abc"]}}}
    (tmp_path / "fsbackup.yaml").write_text(json.dumps(config))
    (tmp_path / "source").write_bytes(b"data")
    monkeypatch.chdir(tmp_path)
    commands: list[list[str]] = [
        ["put", "source", LONG],
        ["ls"],
        ["stat", LONG],
        ["get", LONG, "target"],
        ["verify"],
    ]
    for command in commands:
        assert main(command) == 0, command
        printed = capsys.readouterr().out
        assert "%7E" not in printed
        assert LONG in printed or command[0] in ("get", "verify")
    fs = FsbackupFileSystem(config="fsbackup.yaml", skip_instance_cache=True)
    assert fs.find("set") == [f"set/{LONG}"]
    assert fs.ls("set/backups", detail=False) == ["set/backups/" + "n" * 300]
    assert fs.cat(f"set/{LONG}") == b"data"
    fs.mv(f"set/{LONG}", f"set/{OTHER}")
    assert fs.find("set") == [f"set/{OTHER}"]
    fs.rm("set/backups", recursive=True)
    assert disks.keys("a") == set()
