"""Paths that begin with ``~`` are below the home directory, as a person who is not in a shell expects."""

from __future__ import annotations

from pathlib import Path

import pytest

from fsbackup import LocalStorage, ReplicatedStorage


def test_sources_and_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the five methods, sets, and trees; no directory is called ``~``."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path)
    (home / "shop.sql").write_bytes(b"data")
    local = LocalStorage("~/disk", errors="raise")
    assert local.upload("~/shop.sql", "db/shop.sql")
    assert local.download("db/shop.sql", "~/one/back.sql")
    store = ReplicatedStorage([local], errors="raise")
    assert store.replicate("~/shop.sql", "db/again.sql")
    assert store.restore("db/again.sql", "~/two/back.sql")
    assert store.restore_tree("db", "~/three")
    for name in ("one/back.sql", "two/back.sql", "three/shop.sql", "three/again.sql", "disk/db/shop.sql"):
        assert (home / name).read_bytes() == b"data"
    assert not (tmp_path / "~").exists()
