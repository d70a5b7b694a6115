"""Whether a disk tells case apart is asked once for each directory, and again of another disk in its place."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from fsbackup.loop import run
from fsbackup.stores.local.store import LocalStore
from tests.unit.caseless import caseless


def test_another_disk_at_the_same_place_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, first = tmp_path / "place", tmp_path / "first"
    (first / "d").mkdir(parents=True)
    (first / "d/DB.sql").write_bytes(b"first")
    place.symlink_to(first)
    store = LocalStore(place)
    for _ in range(2):
        assert run(store.stat("d/db.sql")) is None
        assert run(store.read("d/DB.sql")) == b"first"
    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        second = Path(other)
        assert second.stat().st_dev != first.stat().st_dev
        (second / "d").mkdir()
        (second / "d/DB.sql").write_bytes(b"second")
        place.unlink()
        place.symlink_to(second)
        caseless(monkeypatch, second)
        assert run(store.stat("d/db.sql")) is None
        assert run(store.stat("D/DB.sql")) is None
        assert run(store.read("d/DB.sql")) == b"second"


def test_a_directory_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/file").write_bytes(b"x")
    store = LocalStore(tmp_path)
    assert run(store.read("d/file")) == b"x"
    asked: list[Any] = []
    stat = os.stat

    def asking(name: Any, **options: Any) -> os.stat_result:
        asked.append(name)
        return stat(name, **options)

    monkeypatch.setattr(os, "stat", asking)
    assert run(store.read("d/file")) == b"x"
    assert b"FILE" not in asked
    assert b"D" not in asked
