"""No room: a limit on file sizes, which any process can set, and a really full disk where mounting is allowed."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from fsbackup.errors import FsbackupError
from fsbackup.loop import run
from fsbackup.sizing import MIB
from fsbackup.stores.local.store import LocalStore
from fsbackup.testing.driving import random_bytes, write

_ROOM = 4 * MIB

Outcome = dict[str, Any]


def _try(store: LocalStore, name: str, length: int, **plan: Any) -> Outcome:
    """Write, and return what came of it."""
    moved: list[int] = []
    try:
        run(write(store, name, random_bytes(length), 256 * 1024, on_progress=moved.append, **plan))
    except FsbackupError as error:
        return {"error": type(error).__name__, "hint": error.hint, "moved": sum(moved)}
    return {"error": None, "moved": sum(moved)}


def _left(base: Path) -> list[str]:
    return sorted(str(path.relative_to(base)) for path in base.rglob("*"))


def known_size(base: Path) -> Outcome:
    """A size that does not fit is refused before its first byte."""
    return {**_try(LocalStore(base), "new/dir/a", 2 * _ROOM), "left": _left(base)}


def stream(base: Path) -> Outcome:
    """A stream fills the disk, fails, and leaves it as empty as before."""
    outcome = _try(LocalStore(base), "new/dir/a", 2 * _ROOM, size=None)
    again = _try(LocalStore(base), "new/dir/a", _ROOM // 2)
    return {**outcome, "again": again["error"], "left": _left(base)}


def replacement(base: Path) -> Outcome:
    """A replacement that does not fit beside the old object leaves the old one."""
    store = LocalStore(base)
    _try(store, "a", _ROOM * 5 // 8)
    outcome = _try(store, "a", _ROOM * 5 // 8 + 1, size=None)
    return {**outcome, "kept": (base / "a").stat().st_size == _ROOM * 5 // 8, "left": _left(base)}


def small_object(base: Path) -> Outcome:
    """On a disk that others have filled, even one small part fails cleanly."""
    with suppress(OSError):
        (base / "theirs").write_bytes(bytes(2 * _ROOM))
    return {**_try(LocalStore(base), "b", 100_000, size=None), "left": _left(base)}


def file_size_limit(base: Path) -> Outcome:
    """A limit on the size of files is no room either."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (_ROOM // 4, resource.RLIM_INFINITY))
    outcome = _try(LocalStore(base), "new/dir/a", _ROOM // 2)
    return {**outcome, "left": _left(base)}


SCENARIOS: dict[str, Callable[[Path], Outcome]] = {
    each.__name__: each for each in (known_size, stream, replacement, small_object, file_size_limit)
}

_MOUNT = 'mount -t tmpfs -o size=4m tmpfs "$0" && exec "$@"'


def _run(base: Path, scenario: str, *, mounted: bool) -> Outcome:
    """Run one scenario in a process of its own, on a small disk that only that process sees."""
    here = Path(__file__).parents[2]
    command = [sys.executable, "-m", "tests.unit.test_local_full_disk", scenario, str(base)]
    if mounted:
        command = ["unshare", "--mount", "sh", "-c", _MOUNT, str(base), *command]
    output = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, cwd=here, env={**os.environ, "PYTHONPATH": str(here)}
    ).stdout
    outcome: Outcome = json.loads(output)
    return outcome


def _may_mount(base: Path) -> bool:
    probe = ["unshare", "--mount", "sh", "-c", _MOUNT, str(base), "true"]
    try:
        return subprocess.run(probe, stderr=subprocess.DEVNULL, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Return a base directory that is there."""
    (tmp_path / "base").mkdir()
    return tmp_path / "base"


@pytest.fixture
def small_disk(base: Path) -> Path:
    """Return a directory to mount a small disk on."""
    if not _may_mount(base):
        pytest.skip("needs the right to mount a small disk")
    return base


def test_file_size_limit(base: Path) -> None:
    """The write fails as out of space, says what to do, and leaves neither file nor directory."""
    outcome = _run(base, "file_size_limit", mounted=False)
    assert (outcome["error"], outcome["left"]) == ("OutOfSpaceError", [])
    assert "retention" in outcome["hint"]


def test_known_size_on_a_small_disk(small_disk: Path) -> None:
    """What cannot fit is refused up front: no byte is written for nothing."""
    outcome = _run(small_disk, "known_size", mounted=True)
    assert (outcome["error"], outcome["moved"], outcome["left"]) == ("OutOfSpaceError", 0, [])


def test_stream_on_a_small_disk(small_disk: Path) -> None:
    """A stream that fills the disk fails, gives all room back, and the next object fits."""
    outcome = _run(small_disk, "stream", mounted=True)
    assert outcome["moved"] > 0
    assert (outcome["error"], outcome["again"]) == ("OutOfSpaceError", None)
    assert outcome["left"] == ["new", "new/dir", "new/dir/a"]


def test_replacement_on_a_small_disk(small_disk: Path) -> None:
    """The old object is there as long as the new one is not."""
    outcome = _run(small_disk, "replacement", mounted=True)
    assert (outcome["error"], outcome["kept"], outcome["left"]) == ("OutOfSpaceError", True, ["a"])


def test_small_object_on_a_full_disk(small_disk: Path) -> None:
    """An object of one part, written in one go, fails as cleanly as a large one."""
    outcome = _run(small_disk, "small_object", mounted=True)
    assert (outcome["error"], outcome["left"]) == ("OutOfSpaceError", ["theirs"])


if __name__ == "__main__":
    print(json.dumps(SCENARIOS[sys.argv[1]](Path(sys.argv[2]))))
