"""The mark of a repair: put once, renewed while the repair is at work, removed also where its answer was lost."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from fsbackup import clock
from fsbackup.engine.repairs import RepairMarks
from fsbackup.errors import BackendUnavailableError
from fsbackup.keys import REPAIRS
from fsbackup.loop import run
from fsbackup.stores.base import Capabilities, ObjectStore


class Recorder:
    """A store that keeps what it is asked; `fails`: it stores what it is given, and its answers are lost."""

    name = "r2"

    def __init__(self, *, locks: bool = False, fails: bool = False) -> None:
        self.capabilities = Capabilities(locks=locks)
        self.asked: list[str] = []
        self.fails = fails

    async def put(self, name: str, _: bytes, **__: Any) -> None:
        assert name.startswith(f"{REPAIRS}run-")
        self.asked.append("put")
        if self.fails:
            raise BackendUnavailableError("no answer", backend=self.name)

    async def remove(self, name: str) -> None:
        assert name.startswith(f"{REPAIRS}run-")
        self.asked.append("remove")


def test_it_is_put_once_and_renewed_each_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mark counts for a day; a repair may take a week."""
    recorder, seconds = Recorder(), [1_800_000_000.0]
    store, marks = cast(ObjectStore, recorder), RepairMarks("run")
    monkeypatch.setattr(clock, "now", lambda: seconds[0])

    async def many() -> None:
        await asyncio.gather(*(marks.put(store) for _ in range(16)))

    async def whole() -> None:
        for _ in range(3):
            await many()
            seconds[0] += 1801
        await marks.remove()

    run(whole())
    assert recorder.asked == ["put", "put", "remove"]


def test_a_mark_whose_answer_was_lost_is_removed_too() -> None:
    recorder, marks = Recorder(fails=True), RepairMarks("run")

    async def whole() -> None:
        with pytest.raises(BackendUnavailableError):
            await marks.put(cast(ObjectStore, recorder))
        await marks.remove()

    run(whole())
    assert recorder.asked == ["put", "remove"]


def test_a_disk_has_locks_and_needs_none() -> None:
    recorder, marks = Recorder(locks=True), RepairMarks("run")

    async def whole() -> None:
        await marks.put(cast(ObjectStore, recorder))
        await marks.remove()

    run(whole())
    assert recorder.asked == []
