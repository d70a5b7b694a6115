"""What other programs leave in a backend's directory: no objects, and no reason to stop."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from fsbackup import GenericStorage, LocalStorage, ReplicatedStorage
from fsbackup.cli import main as cli
from tests.replication.memory import MemoryStore, backend

STRANGERS = (
    ".DS_Store",
    "a/.DS_Store",
    "a/._b",
    "@eaDir/a@SynoEAStream",
    "a/Thumbs.db",
    "a/.nfs0000000000a1b2c300000001",
)


def store(base: Path) -> ReplicatedStorage:
    """Return a set over one directory."""
    return ReplicatedStorage([LocalStorage(base, name="disk")], errors="raise")


def put(root: Path, *keys: str) -> ReplicatedStorage:
    """Store an object under each key."""
    made = store(root / "disk")
    (root / "source").write_text("x")
    for key in keys:
        assert made.replicate(root / "source", key)
    return made


def test_strangers_are_no_objects(tmp_path: Path) -> None:
    """Neither in a listing nor in what `verify` finds."""
    made = put(tmp_path, "a/b")
    for name in (*STRANGERS, ".fsbackup/manifests/a/.nfs0000000000a1b2c300000002"):
        (tmp_path / "disk" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "disk" / name).write_text("theirs")
    assert [entry.key for entry in made.ls()] == ["a/b"]
    assert made.verify().status == "complete"
    for report in (made.verify(), made.status()):
        assert report.status == "complete"
        [passed_over] = [each.passed_over for each in report.backends.values()]
        assert passed_over.count == 6
        assert set(passed_over.names) < {*STRANGERS, "@eaDir/"}
        assert report.as_dict()["backends"]["disk"]["passed_over"]["count"] == 6
    assert made.repair().status == "complete"
    assert all((tmp_path / "disk" / name).read_text() == "theirs" for name in STRANGERS)


def test_another_servers_strangers_are_none_either(tmp_path: Path) -> None:
    """On any other filesystem; a file of such a name that was backed up is an object there, too."""
    made = ReplicatedStorage([GenericStorage("memory://strangers", name="nas")], errors="raise")
    (tmp_path / "source").write_text("x")
    for key in ("a/b", "a/Thumbs.db"):
        assert made.replicate(tmp_path / "source", key)
    for name in STRANGERS[:4]:
        fsspec.filesystem("memory").pipe(f"/strangers/{name}", b"theirs")
    assert [entry.key for entry in made.ls()] == ["a/Thumbs.db", "a/b"]
    assert made.verify().status == "complete"
    assert made.status().backends["nas"].passed_over.count == 4
    assert made.repair().status == "complete"


def test_a_buckets_strangers_are_none_either(tmp_path: Path) -> None:
    """Where nothing has a record of it; one that was backed up there is an object."""
    stores = [MemoryStore(name) for name in "ab"]
    made = ReplicatedStorage([backend(each) for each in stores], min_copies=1, errors="raise")
    (tmp_path / "source").write_text("x")
    for key in ("a/b", "a/Thumbs.db"):
        assert made.replicate(tmp_path / "source", key)
    stores[0].place("a/.DS_Store", b"theirs")
    stores[0].place("@eaDir/a@SynoEAStream", b"theirs")
    assert [entry.key for entry in made.ls()] == ["a/Thumbs.db", "a/b"]
    for report in (made.verify(), made.status()):
        assert report.status == "complete"
        assert report.objects == 2
        counted = {name: each.passed_over.count for name, each in report.backends.items()}
        assert counted == {"a": 2, "b": 0}
    repaired = made.repair(adopt=True)
    assert (repaired.status, repaired.objects, repaired.done) == ("complete", 2, {})
    assert stores[0].objects["a/.DS_Store"] == b"theirs"
    del stores[0].objects["a/Thumbs.db"]
    assert made.repair().done == {"refill": 1}


def test_commands_say_once_what_they_pass_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names that are no key's too; and exit with 0."""
    put(tmp_path, "a/b")
    for name in (*STRANGERS, "100%.txt"):
        (tmp_path / "disk" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "disk" / name).write_text("theirs")
    sets = {"replication": {"set": {"backends": ["disk"]}}}
    config = {"version": 1, "backends": {"disk": {"type": "local", "path": "disk"}}, **sets}
    (tmp_path / "fsbackup.yaml").write_text(json.dumps(config))
    monkeypatch.chdir(tmp_path)
    for command in ("status", "verify"):
        assert cli(["-c", "fsbackup.yaml", command]) == 0
        said = [line for line in capsys.readouterr().out.splitlines() if "passed over" in line]
        assert len(said) == 1
        assert said[0].startswith("passed over: disk: 7 entries of other programs (")


def test_one_that_was_backed_up_is_an_object(tmp_path: Path) -> None:
    """A job's tree may have them, too."""
    made = put(tmp_path, "a/b", *STRANGERS)
    assert {entry.key for entry in made.ls()} == {"a/b", *STRANGERS}
    (tmp_path / "disk/a/.DS_Store").write_text("y")
    assert made.verify().status == "failed"


def test_a_link_among_the_records_is_passed_over_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It hides a record; every object is still listed."""
    made = put(tmp_path, "a/b", "c")
    (tmp_path / "outside").mkdir()
    (tmp_path / "disk/.fsbackup/manifests/d").symlink_to(tmp_path / "outside")
    (tmp_path / "disk/.fsbackup/manifests/c").unlink()
    (tmp_path / "disk/.fsbackup/manifests/c").symlink_to("/etc/hostname")
    assert [entry.key for entry in made.ls()] == ["a/b", "c"]
    assert {problem.key for problem in made.verify().problems} == {"c"}
    named = [text for text in caplog.messages if "symbolic link" in text]
    assert any(".fsbackup/manifests/d" in text for text in named)
    assert any(".fsbackup/manifests/c" in text for text in named)


@pytest.fixture
def disk() -> Iterator[Path]:
    """Return a root that everybody may enter."""
    with tempfile.TemporaryDirectory() as root:
        os.chmod(root, 0o755)
        yield Path(root)


def main(base: str) -> None:
    """Print what a user who is not root finds."""
    made = store(Path(base))
    list(made.ls())  # what is imported late is imported now, while it may be read
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    print(json.dumps([[entry.key for entry in made.ls()], made.verify().status, bool(made.repair())]))


def test_lost_and_found_stops_nothing(disk: Path) -> None:
    """It is at the root of a disk, and root's alone."""
    put(disk, "a/b")
    for path in (disk / "disk").rglob("*"):
        os.chmod(path, 0o777)
    (disk / "disk").chmod(0o777)
    (disk / "disk/lost+found").mkdir(mode=0)
    here = Path(__file__).parents[2]
    output = subprocess.run(
        [sys.executable, "-m", "tests.unit.test_local_strangers", str(disk / "disk")],
        check=True,
        stdout=subprocess.PIPE,
        cwd=here,
        env={**os.environ, "PYTHONPATH": str(here)},
    ).stdout
    (disk / "disk/lost+found").chmod(0o700)
    assert json.loads(output) == [["a/b"], "complete", True]


def _refused(*_: Any, **__: Any) -> None:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


@pytest.mark.parametrize("call", ["fchmod", "utime"])
def test_a_share_that_keeps_no_modes_or_times_takes_backups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, call: str
) -> None:
    """And restores. It is said once, and is no error."""
    refused: Callable[..., None] = _refused
    monkeypatch.setattr(os, call, refused)
    made = put(tmp_path, "a", "b", "c")
    said = [text for text in caplog.messages if "cannot be set" in text]
    assert len(said) == 1
    assert str(tmp_path / "disk") in said[0]
    assert made.restore_tree("", tmp_path / "back")
    assert (tmp_path / "back/c").read_text() == "x"


@pytest.mark.parametrize("key", ["a\nb", "a\x7f", "d/x.fsbackup", "d/.fsbackup-tmp", "d/.fsbackup/y", "a\x9b"])
def test_a_name_of_control_characters_or_our_own_word_is_stored_and_restored(tmp_path: Path, key: str) -> None:
    """Under a name that says what it is, found by every listing, back under its own."""
    made = put(tmp_path, key)
    assert [entry.key for entry in made.ls()] == [key]
    assert made.verify().status == "complete"
    assert made.restore_tree("", tmp_path / "back")
    assert (tmp_path / "back" / key).read_text() == "x"


if __name__ == "__main__":
    main(sys.argv[1])
