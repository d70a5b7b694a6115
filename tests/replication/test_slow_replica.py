"""One replica is slow: the others finish first, memory stays bounded, with every kind of source."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fsbackup.engine.replicas import Spool
from fsbackup.stores.local.store import LocalStore
from tests.replication.memory import MemoryStore, PartCount
from tests.replication.raw_replicas import manifest_name
from tests.replication.uploads import DATA, KEY, MOST_ALIVE, PARTS, Upload, has_it


@pytest.fixture(params=["file", "stream with a local replica", "stream with a spool"])
def rereadable(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Yield a source that can be read again, and the set's options that it needs for that."""
    path = tmp_path / "source"
    path.write_bytes(DATA)
    if request.param == "file":
        yield {"source": path}
    elif request.param == "stream with a spool":
        yield {"source": io.BytesIO(DATA), "spool": Spool(tmp_path, 1 << 30)}
        assert [each.name for each in tmp_path.iterdir()] == ["source"]
    else:
        yield {"source": io.BytesIO(DATA)}


@pytest.mark.parametrize("workers", [1, 4])
def test_one_held_replica_holds_up_no_other(rereadable: dict[str, Any], count: PartCount, workers: int) -> None:
    """Two replicas have object and manifest while the third still sends its second part, in bounded memory."""
    fast, other = MemoryStore("fast", can_reread=True, workers=workers), MemoryStore("other", workers=workers)
    slow = MemoryStore("slow", workers=workers)
    gate = slow.hold(2)
    upload = Upload([fast, other, slow], **rereadable)
    for store in (fast, other):
        store.wait_proven()
        assert has_it(store)
    assert not slow.stored
    gate.release()
    assert upload.report().status == "complete", upload.report().as_dict()
    assert has_it(slow)
    assert count.most <= MOST_ALIVE


def test_two_held_replicas_hold_up_no_other(rereadable: dict[str, Any], count: PartCount) -> None:
    """Two slow replicas, held at different parts and released in turn, each read again what they missed."""
    fast, other = MemoryStore("fast", can_reread=True), MemoryStore("other", workers=2)
    slow, slower = MemoryStore("slow", workers=2), MemoryStore("slower")
    gates = slow.hold(9), slower.hold(1)
    upload = Upload([slower, slow, fast, other], **rereadable)
    for store in (fast, other):
        store.wait_proven()
    gates[0].release()
    slow.wait_proven()
    assert not slower.stored
    gates[1].release()
    assert upload.report().status == "complete", upload.report().as_dict()
    assert all(has_it(store) for store in (slower, slow, fast, other))
    assert count.most <= MOST_ALIVE


def test_a_replica_that_catches_up_and_falls_behind_again(rereadable: dict[str, Any], count: PartCount) -> None:
    """A slow replica that is released, and held once more near the end, gets the right bytes."""
    fast, slow = MemoryStore("fast", can_reread=True), MemoryStore("slow")
    gates = slow.hold(2), slow.hold(PARTS - 1), fast.hold(PARTS // 2)
    upload = Upload([fast, slow], **rereadable)
    gates[2].wait_reached()
    gates[0].release()
    slow.wait_part(PARTS // 2 - 1)
    gates[2].release()
    fast.wait_proven()
    gates[1].release()
    assert upload.report().status == "complete", upload.report().as_dict()
    assert has_it(slow)
    assert count.most <= MOST_ALIVE


def test_a_stream_that_cannot_be_read_again_is_slowed(count: PartCount) -> None:
    """Without a local replica or spool the fast replica waits for the slow one, in bounded memory."""
    fast, slow = MemoryStore("fast", workers=4), MemoryStore("slow", workers=4)
    gate = slow.hold(3)
    upload = Upload([fast, slow], io.BytesIO(DATA))
    gate.wait_reached()
    fast.wait_part(3)
    assert not fast.is_proven
    gate.release()
    assert upload.report().status == "complete", upload.report().as_dict()
    assert has_it(fast)
    assert has_it(slow)
    assert count.most <= MOST_ALIVE


def test_a_stream_slowed_for_too_long_fails_the_slow_replica_only() -> None:
    """A replica that moves no byte for its whole timeout fails and is named; the others get the rest."""
    fast, slow = MemoryStore("fast"), MemoryStore("slow", timeout=0.5)
    slow.hold(3)
    upload = Upload([fast, slow], io.BytesIO(DATA))
    assert upload.failed() == ["slow"]
    result = upload.report().replicas["slow"]
    assert result.error_type == "BackendUnavailableError"
    assert "slow" in str(result.error)
    assert has_it(fast)
    assert (slow.stored, slow.aborted) == ({}, 1)


def test_a_stream_is_read_again_from_a_local_directory(tmp_path: Path, count: PartCount) -> None:
    """The temp file of a real local replica serves the slow one: no spool is needed, and nothing is slowed."""
    base = tmp_path / "base"
    local, slow = LocalStore(base), MemoryStore("slow")
    gate = slow.hold(2)
    upload = Upload([local, slow], io.BytesIO(DATA))
    wait_until((base / manifest_name(KEY)).exists)
    assert not slow.stored
    gate.release()
    assert upload.report().status == "complete", upload.report().as_dict()
    assert (base / KEY).read_bytes() == DATA
    assert has_it(slow)
    assert count.most <= MOST_ALIVE


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until `condition` holds, for at most 20 seconds."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "the local replica waits for the slow one"
        time.sleep(0.01)
