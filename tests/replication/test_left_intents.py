"""A replacement on a disk that failed, or was killed, before its data came blocks no delete and no repair."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fsbackup.engine import intents, records
from fsbackup.errors import OutOfSpaceError
from fsbackup.loop import run
from fsbackup.record import Manifest
from fsbackup.replication.repair.execute import RoundExecutor
from fsbackup.replication.storage import ReplicatedStorage
from fsbackup.stores.base import DEFAULT_TIMEOUT
from fsbackup.stores.local import atomic_file
from fsbackup.stores.page_cache import write_at
from tests.replication.prune_helpers import Disks
from tests.replication.raw_replicas import pending_prefix

KEY = "db.dump"
OLD, NEW = b"old" * 1000, b"new" * 1001


@pytest.fixture
def disks(tmp_path: Path) -> Disks:
    """Return two disks with an object, and sources to replace it with."""
    disks = Disks(tmp_path / "disks", "ab")
    (tmp_path / "old").write_bytes(OLD)
    (tmp_path / "new").write_bytes(NEW)
    disks.store({}).replicate(tmp_path / "old", KEY)
    return disks


def announced(disks: Disks) -> list[Path]:
    return [disks.root / name / each for name in disks.raw_replicas for each in left(disks, name)]


def left(disks: Disks, name: str) -> list[str]:
    return list(disks.raw_replicas[name].names_below(pending_prefix(KEY)))


def overwrite(disks: Disks, tmp_path: Path) -> None:
    assert not disks.store({}).replicate(tmp_path / "new", KEY, overwrite=True)


def full() -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_leaves_no_intent(disks: Disks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What did not fit announces nothing any more, however often it is tried, and the key can be deleted."""

    def write(file: int, data: memoryview, offset: int) -> int:
        return full() if len(data) == len(NEW) else write_at(file, data, offset)

    monkeypatch.setattr(atomic_file, "write_at", write)
    for _ in range(2):
        overwrite(disks, tmp_path)
        assert announced(disks) == []
    monkeypatch.undo()
    assert disks.store({}).remove(KEY).status == "complete"
    assert disks.keys("a") == set()


def test_what_may_have_been_renamed_keeps_its_intent(
    disks: Disks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fails after the rename has the new data, which only the intent proves."""
    publish = atomic_file.publish

    def rename_and_fail(*args: Any, **options: Any) -> None:
        publish(*args, **options)
        if args[2][-1] == KEY.encode():
            full()

    monkeypatch.setattr(atomic_file, "publish", rename_and_fail)
    overwrite(disks, tmp_path)
    assert all(raw.provable(KEY) == NEW for raw in disks.raw_replicas.values())
    assert len(announced(disks)) == 2


def test_an_upload_that_fails_before_its_commit_withdraws(
    disks: Disks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the look that follows the intent fails: nothing was written."""

    async def fail(*_: Any) -> None:
        raise OutOfSpaceError("no")

    monkeypatch.setattr("fsbackup.engine.replica_upload.ReplicaUpload._check", fail)
    overwrite(disks, tmp_path)
    assert announced(disks) == []


def test_a_cancelled_upload_withdraws(disks: Disks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is cancelled before his rename has begun can say so: it will never begin."""
    writing, go_on = threading.Event(), threading.Event()
    finish = atomic_file.AtomicFile._finish_content

    def wait(file: atomic_file.AtomicFile) -> None:
        finish(file)
        if file._segments == [KEY.encode()]:
            writing.set()
            go_on.wait(10)

    monkeypatch.setattr(atomic_file.AtomicFile, "_finish_content", wait)
    store = disks.store({})

    async def cancel() -> None:
        upload = asyncio.create_task(store._replicate(tmp_path / "new", KEY, True, False, None, None, None))
        await asyncio.to_thread(writing.wait, 10)
        assert announced(disks)
        upload.cancel()
        asyncio.get_running_loop().call_later(0.2, go_on.set)
        await asyncio.wait({upload})
        assert upload.cancelled()

    run(cancel())
    assert announced(disks) == []
    assert all(raw.provable(KEY) == OLD for raw in disks.raw_replicas.values())


def kill_an_overwrite(store: ReplicatedStorage, *, age: float = 0.0) -> Manifest:
    """Leave on each disk what a replacement leaves that is killed before its data is renamed."""

    async def announce() -> Manifest:
        for each in store.replica_set.stores:
            now = (await records.read_version(each, KEY)).manifest
            assert now is not None
            manifest = replace(now.for_replica(None, None), generation=now.generation + 1, size=len(NEW))
            path = Path(each.location) / await intents.announce(each, manifest)
            when = path.stat().st_mtime - age
            os.utime(path, (when, when))
        return manifest

    return run(announce())


def test_a_killed_overwrite_does_not_block_a_delete(disks: Disks) -> None:
    """Who has the lock of the key knows that nobody is at work, at once."""
    kill_an_overwrite(disks.store({}))
    assert disks.store({}).remove(KEY).status == "complete"
    assert [disks.keys(name) for name in "ab"] == [set(), set()]


def test_a_delete_gives_way_where_the_data_was_renamed(disks: Disks) -> None:
    """The intent may be what proves the data, which is newer than what was to be deleted."""
    kill_an_overwrite(disks.store({}))
    for raw in disks.raw_replicas.values():
        raw.put(KEY, NEW)
    assert not disks.store({}).remove(KEY)
    assert all(raw.get(KEY) == NEW for raw in disks.raw_replicas.values())
    assert len(announced(disks)) == 2


def test_repair_clears_what_a_killed_overwrite_left(disks: Disks) -> None:
    """When the time is over after which a writer who hangs gives up; not a day later."""
    store = disks.store({})
    kill_an_overwrite(store)
    assert store.repair().done == {}
    for path in announced(disks):
        when = path.stat().st_mtime - DEFAULT_TIMEOUT - 1
        os.utime(path, (when, when))
    assert store.repair().done == {"clear intent": 2}
    assert announced(disks) == []
    assert store.verify().status == "complete"


def test_repair_keeps_an_intent_whose_data_has_come(disks: Disks, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its writer had the lock when repair looked, and was killed between his data and his record."""
    kill_an_overwrite(disks.store({}), age=DEFAULT_TIMEOUT + 1)
    clear = RoundExecutor._clear_intents

    async def clear_late(self: RoundExecutor, replica: records.ReplicaState, names: Any) -> None:
        disks.raw_replicas[replica.backend].put(KEY, NEW)
        await clear(self, replica, names)

    monkeypatch.setattr(RoundExecutor, "_clear_intents", clear_late)
    report = disks.store({}).repair()
    assert {(each.action.kind, each.outcome) for each in report.steps if each.action.kind == "clear intent"} == {
        ("clear intent", "superseded")
    }
    assert len(announced(disks)) == 2
