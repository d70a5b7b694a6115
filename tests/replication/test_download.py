"""Downloads: whichever replica is corrupt, fails or stalls, the bytes are those that were stored, or an error."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from fsbackup import LocalStorage, ReplicatedStorage
from fsbackup.engine import restore
from fsbackup.engine.target import Target
from fsbackup.errors import FsbackupError, IntegrityError, NoHealthyReplicaError, ObjectNotFoundError
from fsbackup.record import Manifest
from tests.matrix import sparing
from tests.replication.raw_replicas import RawReplica, manifest_name
from tests.replication.rig import MIB, ReplicaRig, content, make_rig
from tests.servers.faults import Drop, Fault, Stall, Status, Throttle

KEY = "backups/db.dump"
OTHER = "backups/other.dump"
SIZE = 6 * MIB + 321
NAMES = ("local", "r2", "b2")


def _flip(raw: RawReplica, data: bytes) -> None:
    raw.rot(KEY, data[: MIB + 5] + bytes([data[MIB + 5] ^ 1]) + data[MIB + 6 :])


def _swap(raw: RawReplica, data: bytes) -> None:
    other = raw.get(OTHER)
    assert other is not None
    raw.put(KEY, other)
    raw.put(OTHER, data)


def _swap_with_manifests(raw: RawReplica, data: bytes) -> None:
    mine, other = raw.get(manifest_name(KEY)), raw.get(manifest_name(OTHER))
    _swap(raw, data)
    assert mine is not None
    assert other is not None
    raw.put(manifest_name(KEY), other)
    raw.put(manifest_name(OTHER), mine)


def _flip_with_manifest(manifest: bytes | None) -> Callable[[RawReplica, bytes], None]:
    """Return the damage: a flipped bit, and a manifest of these bytes (None: no manifest)."""

    def damage(raw: RawReplica, data: bytes) -> None:
        _flip(raw, data)
        if manifest is None:
            raw.drop(manifest_name(KEY))
        else:
            raw.put(manifest_name(KEY), manifest)

    return damage


def _edit(raw: RawReplica, data: bytes) -> None:
    """Flip a bit and raise the generation without updating the checksum."""
    record = _record(raw)
    _flip(raw, data)
    raw.put(manifest_name(KEY), json.dumps({**record, "generation": record["generation"] + 7}).encode())


def _lose_blocks(raw: RawReplica, data: bytes) -> None:
    """Flip a bit and store a manifest that is consistent but has no blocks."""
    record = _record(raw)
    _flip(raw, data)
    raw.set_manifest(KEY, {**record, "blocks": ""})


def _record(raw: RawReplica) -> dict[str, Any]:
    record = raw.manifest(KEY)
    assert record is not None
    return record


DAMAGE: dict[str, Callable[[RawReplica, bytes], None]] = {
    "flipped": _flip,
    "truncated": lambda raw, data: raw.put(KEY, data[:-1]),
    "cut at a block": lambda raw, data: raw.put(KEY, data[: 5 * MIB]),
    "extended": lambda raw, data: raw.put(KEY, data + b"x"),
    "emptied": lambda raw, _: raw.put(KEY, b""),
    "swapped": _swap,
    "swapped with manifests": _swap_with_manifests,
    "deleted": lambda raw, _: raw.drop(KEY),
    "flipped, no manifest": _flip_with_manifest(None),
    "flipped, empty manifest": _flip_with_manifest(b""),
    "flipped, edited manifest": _edit,
    "flipped, manifest of nonsense": _flip_with_manifest(b"[[1]]"),
    "flipped, manifest without blocks": _lose_blocks,
}
#: What the default run does: to data, to a manifest, and to both.
FIRST = {"flipped", "truncated", "deleted", "flipped, edited manifest", "swapped with manifests"}

#: An extended object still holds the right bytes at the right places.
HARMLESS = {"extended"}


class Intact:
    """What each replica holds of the two objects before a test damages it, and how to have that again."""

    def __init__(self, rig: ReplicaRig) -> None:
        self._raw = rig.raw_replicas
        names = (KEY, OTHER, manifest_name(KEY), manifest_name(OTHER))
        self._content = {name: {each: raw.get(each) for each in names} for name, raw in self._raw.items()}
        self._etags = {(name, each): raw.etag(each) for name, raw in self._raw.items() for each in (KEY, OTHER)}

    def heal(self, name: str) -> None:
        """Store again what has changed on a replica; data first, since without it there is no manifest."""
        raw = self._raw[name]
        for each, old in self._content[name].items():
            assert old is not None
            if not self._is_as_it_was(name, each):
                raw.put(each, old)
                self._etags[name, each] = raw.etag(each)

    def _is_as_it_was(self, name: str, each: str) -> bool:
        etag = self._etags.get((name, each))
        raw = self._raw[name]
        return raw.etag(each) == etag if etag else raw.get(each) == self._content[name][each]


@pytest.fixture(scope="module")
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplicaRig]:
    """Return three replicas behind proxies that hold two objects everywhere."""
    r2, b2 = (request.getfixturevalue(name) for name in ("second_bucket", "seaweedfs"))
    with make_rig(r2, b2, tmp_path_factory.mktemp("world"), proxied=True) as rig:
        _fill(rig)
        yield rig


@pytest.fixture(scope="module")
def intact(world: ReplicaRig) -> Intact:
    """Return what undoes a test's damage: that is cheaper than two objects anew."""
    return Intact(world)


@pytest.fixture
def stored(world: ReplicaRig, intact: Intact, tmp_path: Path) -> Iterator[ReplicaRig]:
    """Return the world, with a directory of the test's own outside it; whatever it damages is healed after it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    yield replace(world, tmp=outside)
    for proxy in world.proxies.values():
        proxy.clear()
        proxy.cut_connections()
    for name in NAMES:
        intact.heal(name)


def _fill(rig: ReplicaRig) -> None:
    store = rig.store()
    path = rig.file(content(SIZE))
    path.chmod(0o604)
    os.utime(path, ns=(1, 1_600_000_000_123_456_789))
    assert store.replicate(path, KEY).status == "complete"
    assert store.replicate(rig.file(content(SIZE, seed=5), "other"), OTHER).status == "complete"


def assert_untouched(
    rig: ReplicaRig, names: tuple[str, ...], expected: type[FsbackupError], **options: Any
) -> None:
    """Check that a download fails with this error, and leaves the target and its directory as they were."""
    target = rig.tmp / "target"
    target.write_bytes(b"before")
    before = set(os.listdir(rig.tmp))
    with pytest.raises(FsbackupError) as caught:
        rig.store(names=names, timeout=2, **options).restore(KEY, target)
    assert type(caught.value) is expected, repr(caught.value)
    assert target.read_bytes() == b"before"
    assert set(os.listdir(rig.tmp)) == before


@pytest.mark.parametrize("damage", sparing(DAMAGE, FIRST))
def test_any_one_damaged_replica_is_skipped(stored: ReplicaRig, intact: Intact, damage: str) -> None:
    """With any one replica damaged in any way, the restored file is the one that was stored."""
    data = content(SIZE)
    for name in NAMES:
        DAMAGE[damage](stored.raw_replicas[name], data)
        target = stored.tmp / f"back-{name}"
        order = (name, *(each for each in NAMES if each != name))
        report = stored.store(names=order).restore(KEY, target)
        assert target.read_bytes() == data
        assert report.verified
        stream = io.BytesIO()
        stored.store(names=order).restore(KEY, stream)
        assert stream.getvalue() == data
        intact.heal(name)


@pytest.mark.parametrize("damage", sparing((each for each in DAMAGE if each not in HARMLESS), FIRST))
def test_all_but_one_damaged_is_still_enough(stored: ReplicaRig, damage: str) -> None:
    """The only intact replica, last in the read order, gives the right bytes."""
    for name in ("local", "r2"):
        DAMAGE[damage](stored.raw_replicas[name], content(SIZE))
    target = stored.tmp / "back"
    stored.store().restore(KEY, target)
    assert target.read_bytes() == content(SIZE)


@pytest.mark.parametrize(
    "damage",
    sparing((each for each in DAMAGE if each not in {*HARMLESS, "deleted", "flipped, no manifest"}), FIRST),
)
def test_all_damaged_is_an_integrity_error_and_never_data(stored: ReplicaRig, damage: str) -> None:
    """When no replica has the right bytes, `IntegrityError` is raised and the target stays as it was."""
    for raw in stored.raw_replicas.values():
        DAMAGE[damage](raw, content(SIZE))
    assert_untouched(stored, NAMES, IntegrityError)
    stream = io.BytesIO()
    with pytest.raises(IntegrityError):
        stored.store().restore(KEY, stream)
    assert content(SIZE).startswith(stream.getvalue())


FAULTS: dict[str, Callable[[], Fault]] = {
    "500": lambda: Status(500, "InternalError"),
    "403": lambda: Status(403, "AccessDenied"),
    "stalled in the body": lambda: Stall(answer_bytes=MIB),
    "cut in the body": lambda: Drop(answer_bytes=MIB),
    "never answers": lambda: Stall(),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_replica_that_fails_in_the_middle_is_replaced(stored: ReplicaRig, fault: str) -> None:
    """A data GET that fails, stalls or is cut only causes a failover to the next replica."""
    stored.proxies["r2"].add(FAULTS[fault](), on="get", key=f"{stored.prefix}/{KEY}")
    # Slow, so that it cannot take over before the silence of r2 is long enough to be logged.
    stored.proxies["b2"].add(Throttle(down=8 * MIB), on="get", key=f"{stored.prefix}/{KEY}")
    target = stored.tmp / "back"
    report = stored.store(names=("r2", "b2"), timeout=5).restore(KEY, target)
    assert target.read_bytes() == content(SIZE)
    assert list(report.failed) == ["r2"]
    assert report.replicas["b2"] > 0


def test_mode_and_time_are_restored(stored: ReplicaRig) -> None:
    """The restored file has the mode bits and the modification time of the one that was backed up."""
    target = stored.tmp / "deep" / "er" / "back"
    stored.store().restore(KEY, target)
    assert target.stat().st_mode & 0o7777 == 0o604
    assert abs(target.stat().st_mtime_ns - 1_600_000_000_123_456_789) < 1000


def test_an_object_without_manifest_is_read_unverified(rig: ReplicaRig, caplog: pytest.LogCaptureFixture) -> None:
    """An object stored by other software is read, with a warning and `verified` false."""
    rig.raw_replicas["b2"].put(KEY, b"by others")
    target = rig.tmp / "back"
    with caplog.at_level(logging.WARNING, "fsbackup"):
        report = rig.store().restore(KEY, target)
    assert target.read_bytes() == b"by others"
    assert not report.verified
    assert "unverified" in caplog.text


def test_absent_everywhere_is_not_found(rig: ReplicaRig) -> None:
    """`ObjectNotFoundError` is raised only when every replica answers that there is no such key."""
    assert_untouched(rig, NAMES, ObjectNotFoundError)


@pytest.mark.parametrize("fault", ["500", "403", "never answers"])
def test_an_error_beside_absences_is_never_absence(rig: ReplicaRig, fault: str) -> None:
    """Where one confirmed copy is enough, the replica that does not answer may have it: not "not found"."""
    rig.proxies["r2"].add(FAULTS[fault]())
    assert_untouched(rig, NAMES, NoHealthyReplicaError, min_copies=1)
    store = rig.store(timeout=2, min_copies=1)
    for ask in (store.exists, store.get_size):
        with pytest.raises(NoHealthyReplicaError):
            ask(KEY)


def test_a_missing_bucket_is_never_absence(rig: ReplicaRig) -> None:
    """A missing bucket proves nothing about the objects in it."""
    store = rig.store()
    for role in ("r2", "b2"):
        backend = rig.backend(role, bucket="no-such-bucket-here", errors="raise")
        with pytest.raises(FsbackupError) as asked:
            backend.exists(KEY)
        with pytest.raises(FsbackupError) as read:
            backend.download(KEY, rig.tmp / "back")
        assert not isinstance(asked.value, FileNotFoundError), role
        assert not isinstance(read.value, FileNotFoundError), role
    assert not store.exists(KEY)


def test_a_missing_base_directory_is_never_absence(rig: ReplicaRig) -> None:
    """A disk that may be unmounted (`create=False`) is an outage, not an empty backend."""
    shutil.rmtree(rig.base)
    local = rig.backend("local", create=False, errors="raise")
    with pytest.raises(FsbackupError) as caught:
        local.exists(KEY)
    assert not isinstance(caught.value, FileNotFoundError)


def test_a_full_target_disk_leaves_no_temp_file(stored: ReplicaRig) -> None:
    """A full target disk fails the download, and the temp file is removed."""
    folder = stored.tmp / "small"
    folder.mkdir()
    code = (
        "import resource, sys; from fsbackup import LocalStorage\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        f"print(LocalStorage({str(stored.base)!r}).download({KEY!r}, {str(folder / 'back')!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "False"
    assert os.listdir(folder) == []


async def test_a_download_cancelled_while_its_temp_file_is_created_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that creates it cannot be cancelled; the file is removed when it has ended."""
    creating, create = threading.Event(), Target.open

    def create_slowly(target: Target, manifest: Manifest | None) -> BinaryIO:
        creating.set()
        time.sleep(0.3)
        return create(target, manifest)

    async def download() -> None:
        async with restore._opened(Target("key", tmp_path / "back"), None):
            pytest.fail("it was cancelled before")

    monkeypatch.setattr(Target, "open", create_slowly)
    task = asyncio.create_task(download())
    await asyncio.to_thread(creating.wait)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert os.listdir(tmp_path) == []


async def test_a_file_stays_open_while_a_cancelled_restore_writes_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the thread could write to another file, which has got the same descriptor by then."""
    source, folder = tmp_path / "source", tmp_path / "back"
    source.write_bytes(content(3 * MIB))
    folder.mkdir()
    stored = ReplicatedStorage([LocalStorage(tmp_path / "disk")])
    assert await asyncio.to_thread(stored.upload, source, KEY)
    writing, go_on, was_open, write = threading.Event(), threading.Event(), [], os.pwrite

    def write_slowly(descriptor: int, data: bytes, offset: int) -> int:
        writing.set()
        go_on.wait(10)
        was_open.append(os.path.exists(f"/proc/self/fd/{descriptor}"))
        return write(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", write_slowly)
    task = asyncio.create_task(restore.download(stored.replica_set, KEY, folder / "file"))
    await asyncio.to_thread(writing.wait)
    task.cancel()
    done, _ = await asyncio.wait({task}, timeout=0.2)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (done, was_open[0]) == (set(), True)
    assert os.listdir(folder) == []
