"""What a newer version of fsbackup wrote is changed by none of the commands of this one, and each says so."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from fsbackup import ReplicatedStorage
from fsbackup.cli import main
from fsbackup.errors import NewerFormatError
from fsbackup.filesystem import FsbackupFileSystem
from fsbackup.loop import run
from fsbackup.replication.repair import RepairOptions, repair
from tests.matrix import matrix
from tests.replication.prune_helpers import DAY, KEY, NEW, Disks, content, days, record
from tests.replication.raw_replicas import RawReplica, pending_name, sealed, tombstone_name
from tests.replication.rig import PART, ReplicaRig, make_rig
from tests.replication.rig import content as large_content
from tests.servers.endpoint import S3Endpoint

CONFIG = """\
version: 1
backends:
  a: {type: local, path: a, retention: {max_age: 30d, keep_last: 1, series: "^(db)/"}}
  b: {type: local, path: b}
  c: {type: local, path: c}
replication:
  set: {backends: [a, b, c], min_copies: 1}
"""
DELETED = {"format": 3, "kind": "grave", "key": KEY, "fsbackup_version": "9.9.0"}


def upgrade(raw: RawReplica, key: str = KEY) -> None:
    """Have a later version write the manifest again: with a field of its own, and one of another kind."""
    fields = raw.manifest(key)
    assert fields is not None
    raw.set_manifest(key, {**fields, "format": 2, "fsbackup_version": "9.9.0", "blocks": {"tree": "0" * 300}})


def bury(raw: RawReplica) -> None:
    """Have a later version delete the object."""
    raw.drop(KEY)
    raw.set_manifest(KEY, DELETED)


def announce(raw: RawReplica) -> None:
    """Have a later version be killed in a replacement, more than a day ago."""
    raw.put(pending_name(KEY), json.dumps(sealed({**DELETED, "kind": "manifest"})).encode())
    path = raw.base / pending_name(KEY)  # type: ignore[attr-defined]
    os.utime(path, (time.time() - 9 * DAY,) * 2)


@pytest.fixture
def _root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have commands run in a directory with a configuration."""
    (tmp_path / "fsbackup.yaml").write_text(CONFIG)
    (tmp_path / "source").write_bytes(b"other content")
    (tmp_path / "same").write_bytes(content(KEY))
    monkeypatch.chdir(tmp_path)


def move(_: ReplicatedStorage) -> None:
    FsbackupFileSystem(config="fsbackup.yaml", skip_instance_cache=True).mv(f"set/{NEW}", f"set/{KEY}")


def write(_: ReplicatedStorage) -> None:
    with FsbackupFileSystem(config="fsbackup.yaml", skip_instance_cache=True).open(f"set/{KEY}", "wb") as file:
        file.write(b"other content")


#: All that changes an object, and whether it concerns only what is damaged or in excess.
CHANGES: dict[str, Callable[[ReplicatedStorage], Any]] = {
    "replicate": lambda store: store.replicate("source", KEY, overwrite=True),
    "create": lambda store: store.replicate("same", KEY),
    "stream": lambda store: store.replicate(io.BytesIO(b"other content"), KEY, overwrite=True),
    "many": lambda store: list(store.replicate_many([("source", KEY)], overwrite=True)),
    "upload": lambda store: store.upload("source", KEY),
    "one backend": lambda store: store.backends["c"].upload("source", KEY),
    "remove": lambda store: store.remove(KEY),
    "remove many": lambda store: list(store.remove_many([KEY])),
    "delete": lambda store: store.delete(KEY),
    "repair": lambda store: store.repair(allow_many=True),
    "deep repair": lambda store: store.repair(deep=True, adopt=True, allow_many=True),
    "prune": lambda store: store.prune(dry_run=False),
    "move": move,
    "write": write,
}


@pytest.mark.usefixtures("_root")
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("on", [upgrade, bury])
def test_nothing_changes_it(disks: Disks, on: Callable[[RawReplica], None], change: str) -> None:
    """Neither the replica with the newer record nor, of this key, any other; other keys go on."""
    disks.put("abc", NEW, 0)
    disks.put("ab", KEY, 40)
    disks.put("c", KEY, 40, data=b"of a later version", generation=7)
    on(disks.raw_replicas["c"])
    before = disks.snapshot()
    store = disks.store({"a": days(30)})
    with suppress(NewerFormatError):
        CHANGES[change](store)
    assert disks.snapshot() == before


@pytest.mark.usefixtures("_root")
@pytest.mark.parametrize("change", ["replicate", "create", "one backend", "remove", "repair", "deep repair"])
def test_an_announced_replacement_is_not_changed(disks: Disks, change: str) -> None:
    """The replica stays as the newer version left it; repair leaves the key alone on all of them."""
    disks.put("abc", KEY, 0)
    announce(disks.raw_replicas["c"])
    before = disks.snapshot()
    with suppress(NewerFormatError):
        CHANGES[change](disks.store({}, min_copies=2))
    assert disks.snapshot()["c"] == before["c"]
    assert "repair" not in change or disks.snapshot() == before


@pytest.mark.usefixtures("_root")
def test_every_command_says_it(disks: Disks, capsys: pytest.CaptureFixture[str]) -> None:
    """With the backend, the key, who wrote it and what to do; and exits with a code that is not 0."""
    disks.put("abc", KEY, 0)
    upgrade(disks.raw_replicas["c"])
    commands = [
        (["put", "source", KEY, "--overwrite"], 1),
        (["rm", KEY], 1),
        (["get", KEY, "target"], 1),
        (["stat", KEY], 3),
        (["verify"], 3),
        (["repair"], 3),
    ]
    for command, code in commands:
        assert main(command) == code, command
        printed = "".join(capsys.readouterr())
        wanted = ["c", "newer" if code == 3 else KEY, "written by fsbackup 9.9.0", "upgrade this one"]
        assert [each for each in wanted if each not in printed] == [], printed
        assert "fsbackup repair" not in printed, "it changes nothing of it"
    assert main(["doctor"]) == 3
    assert "written by fsbackup 9.9.0" in capsys.readouterr().out
    for command in (["status"], ["ls", "-l"]):
        disks.raw_replicas["a"].drop(KEY)  # listings differ, so that the replicas are asked
        assert main(command) == 3, command
        assert "newer" in capsys.readouterr().out
        disks.put("a", KEY, 0)


@pytest.mark.usefixtures("_root")
def test_the_error_names_the_backend_once(disks: Disks) -> None:
    """Not the backends that would have taken the upload."""
    disks.put("abc", KEY, 0)
    upgrade(disks.raw_replicas["b"])
    report = disks.store({}).replicate("source", KEY, overwrite=True)
    error = report.failure()
    assert isinstance(error, NewerFormatError)
    assert (error.backend, error.operation, error.key) == ("b", "upload", KEY)
    assert not any(each.ok for each in report.replicas.values())


@pytest.mark.parametrize(("min_copies", "readable"), [(1, False), (2, True), (3, False)])
def test_it_is_read_only_where_the_others_prove_which_version_is_the_newest(
    disks: Disks, min_copies: int, *, readable: bool
) -> None:
    """Two of three confirm it if two copies do; else the newer record may be of a version that was confirmed."""
    disks.put("abc", KEY, 0)
    upgrade(disks.raw_replicas["c"])
    store, target = disks.store({}, min_copies=min_copies), io.BytesIO()
    if readable:
        assert store.restore(KEY, target).verified
        assert target.getvalue() == content(KEY)
        return
    for read in (lambda: store.restore(KEY, target), lambda: store.read(KEY), lambda: store.exists(KEY)):
        with pytest.raises(NewerFormatError, match=r"c: .*fsbackup 9\.9\.0"):
            read()


def test_a_delete_does_not_hide_what_was_stored_after_it(disks: Disks) -> None:
    """Two tombstones confirm the delete; the newer record may be of a version that came later."""
    disks.put("c", KEY, 0)
    upgrade(disks.raw_replicas["c"])
    for name in "ab":
        disks.raw_replicas[name].set_tombstone(KEY, generation=1)
    with pytest.raises(NewerFormatError):
        disks.store({}, min_copies=2).restore(KEY, io.BytesIO())


@pytest.fixture
def buckets(moto: S3Endpoint, strict_r2: S3Endpoint, tmp_path: Path) -> Iterator[ReplicaRig]:
    with make_rig(strict_r2, moto, tmp_path, proxied=False) as made:
        yield made


@pytest.mark.parametrize("size", [100, matrix(PART + 1)])
def test_a_bucket_keeps_it_too(buckets: ReplicaRig, size: int) -> None:
    """In the metadata, or in the record that they name; the disk of the set stays as it is."""
    store = buckets.store(min_copies=2)
    assert store.replicate(buckets.file(large_content(size)), KEY)
    upgrade(buckets.raw_replicas["r2"])
    before = {name: raw.everything() for name, raw in buckets.raw_replicas.items()}
    assert not store.replicate(io.BytesIO(b"other content"), KEY, overwrite=True)
    assert not store.remove(KEY)
    assert [bool(each) for each in store.remove_many([KEY])] == [False]
    assert store.repair(deep=True, adopt=True, allow_many=True).status == "degraded"
    assert {each.backend: each.state for each in store.verify().problems} == {"r2": "newer"}
    assert {name: raw.everything() for name, raw in buckets.raw_replicas.items()} == before


def test_a_bucket_keeps_a_newer_tombstone(buckets: ReplicaRig) -> None:
    """Beside data that this version could read, and alone."""
    store = buckets.store(min_copies=2)
    assert store.replicate(buckets.file(large_content(100)), KEY)
    raw = buckets.raw_replicas["r2"]
    raw.put(tombstone_name(KEY), json.dumps(sealed({**DELETED, "kind": "tombstone"})).encode())
    before = raw.everything()
    store = buckets.store(min_copies=2)  # as another process, which lists the tombstones itself
    assert not store.replicate(io.BytesIO(b"other content"), KEY, overwrite=True)
    assert not store.remove(KEY)
    store.repair(allow_many=True)
    assert store.stat(KEY).states["r2"] == "newer"
    assert raw.everything() == before


def test_a_record_that_nothing_names_yet_stays(buckets: ReplicaRig) -> None:
    """A newer version may be about to name it; one of ours that is as old is garbage."""
    raw, names = buckets.raw_replicas["r2"], [f".fsbackup/records/{KEY}/{digit * 32}" for digit in "12"]
    raw.put(names[0], json.dumps(sealed(DELETED)).encode())
    raw.put(names[1], json.dumps(sealed(record(KEY, b"", time.time()))).encode())
    run(repair(buckets.store().replica_set, RepairOptions(safe_age=0.0)))
    assert raw.get(names[0]) is not None
    assert raw.get(names[1]) is None


def test_what_a_later_version_added_is_passed_on(buckets: ReplicaRig) -> None:
    """Fields of format 1 that this version does not know: by repair to a disk and a bucket, below the checksum."""
    data = large_content(100)
    fields = record(KEY, data, time.time() - DAY)
    fields = {**fields, "x-place": {"rack": 7}, "source": {"host": "here", "x-inode": 12}}
    buckets.raw_replicas["local"].put(KEY, data)
    buckets.raw_replicas["local"].set_manifest(KEY, fields)
    assert buckets.store(min_copies=1).repair().done == {"refill": 2}
    for name, raw in buckets.raw_replicas.items():
        found = raw.manifest(KEY)
        assert found == sealed(found or {}), name
        assert {**found, **fields} == found, name


@pytest.mark.usefixtures("_root")
def test_a_copy_is_described_as_its_original(disks: Disks) -> None:
    """Under another key, with what is said of the bytes: where they come from, and what nobody knows yet."""
    more = {"stages": [{"name": "x"}], "x-place": 7, "source": {"host": "h", "mtime_ns": 5 * 10**9, "x-inode": 1}}
    disks.put("abc", KEY, 0)
    for name in "abc":
        disks.edit(name, KEY, 0, **more)
    fs = FsbackupFileSystem(config="fsbackup.yaml", skip_instance_cache=True)
    fs.cp(f"set/{KEY}", "set/copy")
    fs.mv("set/copy", "set/moved")
    for raw in disks.raw_replicas.values():
        found = raw.manifest("moved")
        assert found is not None
        assert {**found, **more} == found
        assert os.stat(raw.base / "moved").st_mtime == 5
