"""A restore gives permission bits and no more, whatever a manifest says: no setuid, no setgid, no sticky bit."""

from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from fsbackup import LocalStorage, ReplicatedStorage
from fsbackup.filesystem import FsbackupFileSystem
from fsbackup.record import Manifest, dump, load

KEY = "bin/tool"
Restore = Callable[[Path, Path], object]


def store(root: Path, *names: str) -> ReplicatedStorage:
    """Return a set over directories."""
    return ReplicatedStorage([LocalStorage(root / name, name=name) for name in names], errors="raise")


def forge(root: Path, mode: int) -> None:
    """Store an object whose manifest, undamaged, says `mode`."""
    source = root / "source"
    source.write_bytes(b"#!/bin/sh")
    assert store(root, "a").replicate(source, KEY)
    path = root / "a/.fsbackup/manifests" / KEY
    manifest = load(path.read_bytes())
    assert isinstance(manifest, Manifest)
    path.write_bytes(dump(replace(manifest, source=replace(manifest.source, mode=mode))))


def by_fsspec(root: Path, target: Path) -> None:
    """Restore as users of ``fsbackup://`` do."""
    config = root / "fsbackup.yaml"
    backend = {"type": "local", "path": str(root / "a")}
    document = {"version": 1, "backends": {"a": backend}, "replication": {"one": {"backends": ["a"]}}}
    config.write_text(yaml.safe_dump(document))
    FsbackupFileSystem(config=config, skip_instance_cache=True).get(f"one/{KEY}", str(target))


WAYS: dict[str, Restore] = {
    "restore": lambda root, target: store(root, "a").restore(KEY, target),
    "tree": lambda root, target: store(root, "a").restore_tree("bin", target.parent),
    "set": lambda root, target: store(root, "a").download(KEY, target),
    "backend": lambda root, target: LocalStorage(root / "a").download(KEY, target),
    "fsspec": by_fsspec,
    "repair": lambda root, _: store(root, "a", "b").repair(accept_empty=["b"]),
}


@pytest.mark.parametrize(("mode", "given"), [(0o104755, 0o755), (0o6777, 0o777), (0o1640, 0o640)])
@pytest.mark.parametrize("way", WAYS)
def test_only_permission_bits_are_restored(tmp_path: Path, way: str, mode: int, given: int) -> None:
    """By every way out of a replica, and by a copy to another one."""
    forge(tmp_path, mode)
    target = tmp_path / "b" / KEY
    WAYS[way](tmp_path, target)
    assert target.read_bytes() == b"#!/bin/sh"
    assert stat.S_IMODE(target.stat().st_mode) == given
