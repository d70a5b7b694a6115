"""A replica lags so far that its parts are read again: a changed source, a full spool, a failed local replica."""

from __future__ import annotations

import io
import os
import tempfile
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from fsbackup.engine.replicas import Spool
from fsbackup.errors import SourceChangedError, SourceError
from tests.replication.memory import MemoryStore, PartCount
from tests.replication.uploads import DATA, MOST_ALIVE, PART, PARTS, SLOTS, Upload, has_it

pytestmark = pytest.mark.usefixtures("count")


def assert_nothing(store: MemoryStore) -> None:
    """Check that a failed store shows nothing, and discarded what it had received."""
    assert (store.stored, store.aborted) == ({}, 1)


def test_a_source_changed_behind_a_lagging_replica_fails_only_that_replica(tmp_path: Path) -> None:
    """The file changes after the fast replica has it: the slow one must not mix two versions."""
    path = tmp_path / "source"
    path.write_bytes(DATA)
    fast, slow = MemoryStore("fast"), MemoryStore("slow")
    gate = slow.hold(2)
    upload = Upload([fast, slow], path)
    fast.wait_proven()
    with path.open("r+b") as file:
        file.seek(PARTS // 2 * PART)
        file.write(b"changed")
    gate.release()
    assert upload.failed() == ["slow"]
    assert "changed" in str(upload.report().replicas["slow"].error)
    assert has_it(fast)
    assert_nothing(slow)


def test_a_source_truncated_behind_a_lagging_replica_fails_only_that_replica(tmp_path: Path) -> None:
    """The file is truncated after the fast replica has it."""
    path = tmp_path / "source"
    path.write_bytes(DATA)
    fast, slow = MemoryStore("fast"), MemoryStore("slow")
    gate = slow.hold(2)
    upload = Upload([fast, slow], path)
    fast.wait_proven()
    os.truncate(path, PARTS // 2 * PART)
    gate.release()
    assert upload.failed() == ["slow"]
    assert has_it(fast)
    assert_nothing(slow)


@pytest.mark.parametrize("change", ["written", "appended", "truncated"])
def test_a_source_changed_before_its_end_is_stored_nowhere(tmp_path: Path, change: str) -> None:
    """The file changes while all replicas are in the middle: none of them commits it."""
    path = tmp_path / "source"
    path.write_bytes(DATA)
    fast, slow = MemoryStore("fast"), MemoryStore("slow")
    gates = fast.hold(4), slow.hold(4)
    upload = Upload([fast, slow], path)
    for gate in gates:
        gate.wait_reached()
    if change == "truncated":
        os.truncate(path, len(DATA) - 1)
    else:
        with path.open("r+b") as file:
            file.seek(0, os.SEEK_END if change == "appended" else os.SEEK_SET)
            file.write(b"changed")
    for gate in gates:
        gate.release()
    with pytest.raises(SourceChangedError):
        upload.report()
    assert_nothing(fast)
    assert_nothing(slow)


def test_a_full_spool_slows_the_stream(tmp_path: Path, count: PartCount) -> None:
    """A spool for five parts lets the fast replica get that far ahead; then it waits, and nothing is lost."""
    fast, slow = MemoryStore("fast"), MemoryStore("slow")
    gate = slow.hold(2)
    upload = Upload([fast, slow], io.BytesIO(DATA), spool=Spool(tmp_path, 5 * PART))
    fast.wait_part(SLOTS + 2)
    assert not fast.is_proven
    gate.release()
    assert upload.report().status == "complete", upload.report().as_dict()
    assert has_it(fast)
    assert has_it(slow)
    assert count.most <= MOST_ALIVE


def test_a_full_spool_fails_the_stalled_replica(tmp_path: Path) -> None:
    """Behind a full spool the stalled replica fails after its timeout, and the other gets the rest."""
    fast, slow = MemoryStore("fast"), MemoryStore("slow", timeout=0.5)
    slow.hold(2)
    upload = Upload([fast, slow], io.BytesIO(DATA), spool=Spool(tmp_path, 5 * PART))
    assert upload.failed() == ["slow"]
    assert has_it(fast)
    assert_nothing(slow)


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every spool be on a disk that has no room."""

    def make(*, buffering: int = -1, **_: Any) -> BinaryIO:
        return open("/dev/full", "w+b", buffering=buffering)

    monkeypatch.setattr(tempfile, "TemporaryFile", make)


@pytest.mark.usefixtures("full_disk")
def test_a_spool_on_a_full_disk_fails_nothing(tmp_path: Path) -> None:
    """The disk of the spool has no room: the stream is slowed, and every replica has it at last."""
    fast, slow = MemoryStore("fast"), MemoryStore("slow")
    gate = slow.hold(2)
    upload = Upload([fast, slow], io.BytesIO(DATA), spool=Spool(tmp_path, 1 << 30))
    fast.wait_part(SLOTS)
    assert not fast.is_proven
    gate.release()
    assert upload.report().status == "complete", upload.report().as_dict()
    assert has_it(fast)
    assert has_it(slow)


@pytest.mark.usefixtures("full_disk")
def test_a_spool_on_a_full_disk_is_closed_quietly(tmp_path: Path) -> None:
    """Bytes so few that they wait in a buffer must not fail a finished upload when the spool is closed."""
    stores = [MemoryStore("fast"), MemoryStore("slow")]
    upload = Upload(stores, io.BytesIO(b"few"), spool=Spool(tmp_path, 1 << 30))
    assert upload.report().status == "complete", upload.report().as_dict()


def test_a_spool_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """The error for a missing spool directory has its path."""
    with pytest.raises(SourceError, match="missing"):
        Upload(
            [MemoryStore("a"), MemoryStore("b")], io.BytesIO(DATA), spool=Spool(tmp_path / "missing", 1)
        ).report()


@pytest.mark.parametrize("which", ["slow", "fast"])
def test_a_replica_that_fails_in_the_middle_frees_the_others(which: str) -> None:
    """One of three replicas fails while the buffer waits for it: the other two go on to the end."""
    stores = {name: MemoryStore(name) for name in ("fast", "slow", "third")}
    gate = stores[which].hold(5)
    upload = Upload(list(stores.values()), io.BytesIO(DATA))
    gate.wait_reached()
    gate.fail()
    assert upload.failed() == [which]
    assert_nothing(stores.pop(which))
    assert all(has_it(store) for store in stores.values())


def test_a_failed_local_replica_fails_only_the_lagging_replica() -> None:
    """The lagging replica can read the temp file no more: it fails with that reason, the third completes."""
    local, slow, third = MemoryStore("local", can_reread=True), MemoryStore("slow"), MemoryStore("third")
    gates = slow.hold(2), local.hold(PARTS - 2), third.hold(PARTS - 1)
    upload = Upload([local, slow, third], io.BytesIO(DATA))
    gates[1].wait_reached()
    gates[1].fail()
    gates[2].wait_reached()
    gates[0].release()
    gates[2].release()
    assert upload.failed() == ["local", "slow"]
    assert "cannot be read again" in str(upload.report().replicas["slow"].error)
    assert has_it(third)
    assert_nothing(slow)
