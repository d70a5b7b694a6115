"""One replica is slow: the others finish first, memory stays bounded, and every kind of source copes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fsbackup.engine.replicas import Spool
from tests.replication.memory import MemoryStore, PartCount
from tests.replication.uploads import DATA, MOST_ALIVE, PARTS, Upload, has_it


@pytest.fixture(params=["file", "stream with a local replica", "stream with a spool"])
def rereadable(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Return a source whose bytes can be had again, and what the set needs for that."""
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
    """Two replicas have the object proven while the third still stands at its second part; none costs memory."""
    fast, other = MemoryStore("fast", keeps=True, workers=workers), MemoryStore("other", workers=workers)
    slow = MemoryStore("slow", workers=workers)
    gate = slow.hold(2)
    upload = Upload([fast, other, slow], **rereadable)
    for store in (fast, other):
        store.wait_proven()
        assert has_it(store)
    assert not slow.objects
    gate.release()
    assert upload.report().status == "complete", upload.report().as_dict()
    assert has_it(slow)
    assert count.most <= MOST_ALIVE


def test_two_held_replicas_hold_up_no_other(rereadable: dict[str, Any], count: PartCount) -> None:
    """Two laggards at different parts, let go one after the other, each read again what they missed."""
    fast, other = MemoryStore("fast", keeps=True), MemoryStore("other", workers=2)
    slow, slower = MemoryStore("slow", workers=2), MemoryStore("slower")
    gates = slow.hold(9), slower.hold(1)
    upload = Upload([slower, slow, fast, other], **rereadable)
    for store in (fast, other):
        store.wait_proven()
    gates[0].release()
    slow.wait_proven()
    assert not slower.objects
    gates[1].release()
    assert upload.report().status == "complete", upload.report().as_dict()
    assert all(has_it(store) for store in (slower, slow, fast, other))
    assert count.most <= MOST_ALIVE


def test_a_replica_that_catches_up_and_falls_behind_again(rereadable: dict[str, Any], count: PartCount) -> None:
    """A laggard that is let go, and held once more near the end, has the right bytes at last."""
    fast, slow = MemoryStore("fast", keeps=True), MemoryStore("slow")
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


def test_a_stream_that_cannot_be_had_again_is_slowed(count: PartCount) -> None:
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
    """The replica that says nothing for its whole timeout is failed and named; the others get the rest."""
    fast, slow = MemoryStore("fast"), MemoryStore("slow", timeout=0.5)
    slow.hold(3)
    upload = Upload([fast, slow], io.BytesIO(DATA))
    assert upload.failed() == ["slow"]
    result = upload.report().replicas["slow"]
    assert result.error_type == "BackendUnavailableError"
    assert "slow" in str(result.error)
    assert has_it(fast)
    assert (slow.objects, slow.aborted) == ({}, 1)
