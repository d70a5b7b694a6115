"""A disk is unmounted, or its directory replaced, under a process that lives on: it looks as a new one does."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest

from fsbackup import LocalStorage
from fsbackup.engine.results import Report
from fsbackup.errors import BackendUnavailableError, NoHealthyReplicaError, ObjectNotFoundError
from fsbackup.replication.storage import ReplicatedStorage
from tests.replication.raw_replicas import MARKER, TOMBSTONES
from tests.replication.test_marker import NAMES, Disks, assert_refused


@pytest.fixture
def disks(tmp_path: Path) -> Disks:
    return Disks(tmp_path)


@pytest.fixture
def living(disks: Disks) -> ReplicatedStorage:
    """Return a set of this process, which has stored an object on each disk."""
    store = disks.store()
    assert put(store, "old").status == "complete"
    return store


def put(store: ReplicatedStorage, key: str) -> Report:
    return store.replicate(io.BytesIO(key.encode()), key)


def test_what_it_deletes_does_not_come_back(disks: Disks, living: ReplicatedStorage) -> None:
    """The delete is not complete, so its tombstones stay until the disk is there again."""
    disks.unmount("c")
    report = living.remove("old")
    assert report.status == "degraded"
    assert_refused(report.replicas["c"].exception)
    assert f"{TOMBSTONES}old" in disks.files("a") & disks.files("b")
    disks.mount("c")
    assert disks.store().repair().status == "complete"
    with pytest.raises(ObjectNotFoundError):
        disks.store().read("old")


def test_it_stores_nothing_on_the_mount_point(disks: Disks, living: ReplicatedStorage) -> None:
    """And goes on when the disk is mounted again."""
    disks.unmount("c")
    report = put(living, "new")
    assert report.status == "degraded"
    assert_refused(report.replicas["c"].exception)
    assert list((disks.root / "c").iterdir()) == []
    disks.mount("c")
    assert put(living, "later").status == "complete"
    assert {"old", "later"} <= disks.files("c")


def test_it_does_not_make_a_directory_that_is_gone(disks: Disks, living: ReplicatedStorage) -> None:
    (disks.root / "c").rename(disks.root / "c-away")
    report = put(living, "new")
    assert report.status == "degraded"
    assert_refused(report.replicas["c"].exception)
    assert living.remove("old").status == "degraded"
    assert not (disks.root / "c").exists()


def test_a_reader_does_not_take_it_for_an_absence(disks: Disks, living: ReplicatedStorage) -> None:
    """Also one that knew the disk by its objects alone, and never read its marker."""
    del living
    reader = disks.store(min_copies=1)
    assert reader.read("old") == b"old"
    assert reader.exists("absent") is False
    disks.unmount("c")
    with pytest.raises(NoHealthyReplicaError, match="is the disk mounted"):
        reader.exists("absent")


class Unmounting(io.BytesIO):
    """A source that takes a disk away when it is read, which is after the replicas were looked at."""

    def __init__(self, disks: Disks, *, leaves_directory: bool) -> None:
        super().__init__(b"new")
        self._disks, self._leaves_directory = disks, leaves_directory

    def read(self, size: int | None = -1, /) -> bytes:
        if not (self._disks.root / "c-away").exists():
            self._disks.unmount("c")
            if not self._leaves_directory:
                (self._disks.root / "c").rmdir()
        return super().read(size)


@pytest.mark.parametrize("leaves_directory", [True, False])
def test_unmounted_between_look_and_write(disks: Disks, living: ReplicatedStorage, leaves_directory: bool) -> None:
    """What is on its way then is held back, and the backend is named."""
    report = living.replicate(Unmounting(disks, leaves_directory=leaves_directory), "new")
    assert report.status == "degraded"
    error = report.replicas["c"].exception
    assert isinstance(error, BackendUnavailableError)
    assert str(error).startswith("c: ")
    assert "mounted" in str(error)
    assert (disks.root / "c").exists() == leaves_directory
    assert not leaves_directory or disks.files("c") == set()


@pytest.mark.parametrize("has_marker", [True, False])
def test_another_disk_with_its_objects_is_taken(disks: Disks, living: ReplicatedStorage, has_marker: bool) -> None:
    """As a new process takes it: also the same disk, which has another number when it is mounted again."""
    shutil.copytree(disks.root / "c", disks.root / "copy")
    if not has_marker:
        (disks.root / "copy" / MARKER).unlink()
    (disks.root / "c").rename(disks.root / "c-away")
    (disks.root / "copy").rename(disks.root / "c")
    assert living.remove("old").status == "complete"
    assert "old" not in disks.files("c")
    assert put(living, "new").status == "complete"
    assert {"new", MARKER} <= disks.files("c")


def test_a_set_whose_disks_were_all_emptied_starts_anew(disks: Disks, living: ReplicatedStorage) -> None:
    """A new process would: nobody is in use."""
    for name in NAMES:
        shutil.rmtree(disks.root / name)
    assert put(living, "new").status == "complete"
    assert all({"new", MARKER} <= disks.files(name) for name in NAMES)
    assert all("filling" not in disks.marker(name) for name in NAMES)


def test_a_backend_alone_starts_anew(tmp_path: Path) -> None:
    """It has nobody to be compared with; the directory gets a marker again."""
    base, source = tmp_path / "disk", tmp_path / "source"
    source.write_bytes(b"1")
    storage = LocalStorage(base, errors="raise")
    assert storage.upload(source, "key")
    shutil.rmtree(base)
    assert not storage.exists("key")
    assert storage.upload(source, "key")
    assert (base / MARKER).exists()


def test_a_directory_that_it_makes_itself_is_no_other_one(disks: Disks, tmp_path: Path) -> None:
    """Many first uploads at once begin where no directory is: the markers become complete all the same."""
    (tmp_path / "file").write_bytes(b"1")
    results = list(disks.store().replicate_many((tmp_path / "file", f"many/{n}") for n in range(60)))
    assert {result.report.status for result in results if result.report} == {"complete"}
    assert all("filling" not in disks.marker(name) for name in NAMES)
