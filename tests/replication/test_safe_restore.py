"""A restore gives no more than was given: nothing outside the target, nothing through links, no wider modes."""

from __future__ import annotations

import io
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from fsbackup import LocalStorage, ReplicatedStorage
from fsbackup.config import parse_config
from fsbackup.errors import ConfigError, ConflictError
from fsbackup.jobs import run_job
from fsbackup.record import load
from fsbackup.replication.tree import TreeReport
from tests.unit.caseless import caseless


def store(root: Path) -> ReplicatedStorage:
    """Return a set over one directory."""
    return ReplicatedStorage([LocalStorage(root / "disk", name="disk")], errors="raise")


def put(root: Path, *keys: str) -> ReplicatedStorage:
    """Store an object under each key, whose content is the key."""
    made = store(root)
    for key in keys:
        source = root / "source"
        source.write_text(key)
        assert made.replicate(source, key)
    return made


def run(root: Path, destination: str) -> dict[str, Any]:
    """Run a job over ``root/tree``, and return the recorded source of its only file."""
    config = parse_config(
        f"""
version: 1
backends: {{disk: {{type: local, path: disk}}}}
replication: {{one: {{backends: [disk]}}}}
jobs: {{job: {{source: {{path: tree/}}, destination: "{destination}", replication: one}}}}
""",
        directory=root,
    )
    assert run_job(config, "job")
    records = [path for path in (root / "disk/.fsbackup/manifests").rglob("*") if path.is_file()]
    found: dict[str, Any] = json.loads(records[0].read_bytes())["source"]
    return found


def mode(path: Path) -> int:
    """Return the permission bits."""
    return stat.S_IMODE(path.stat().st_mode)


def why(report: TreeReport) -> str:
    """Return why the one failed object failed."""
    assert report.failures == 1
    return str(report.failed[0].error)


#: Whose files the tests give away: another user's where that is allowed, else one's own.
OWNER = (12345, 23456) if os.geteuid() == 0 else (os.getuid(), os.getgid())


def owner(path: Path) -> tuple[int, int]:
    """Return the numbers of owner and group."""
    found = path.lstat()
    return found.st_uid, found.st_gid


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a root with ``tree/outer/inner/file``; its directories are open to different degrees."""
    inner = tmp_path / "tree/outer/inner"
    inner.mkdir(parents=True)
    (inner / "file").write_text("x")
    (tmp_path / "tree/outer").chmod(0o2750)
    inner.chmod(0o705)
    return tmp_path


def test_a_job_records_the_modes_of_the_directories_below_its_source(tree: Path) -> None:
    assert run(tree, "all/{relpath}")["directories"] == [0o2750, 0o705]


def test_where_the_key_has_other_directories_none_are_recorded(tree: Path) -> None:
    """Their modes would be given to directories that they are not of."""
    assert "directories" not in run(tree, "all/{relpath}.bak")


def test_restored_directories_have_the_recorded_modes_and_no_more(tree: Path) -> None:
    """No setgid bit, and what has no record is for the owner alone, whatever the umask."""
    run(tree, "all/{relpath}")
    umask = os.umask(0)
    try:
        assert store(tree).restore_tree("", tree / "back")
    finally:
        os.umask(umask)
    found = {name: mode(tree / "back" / name) for name in (".", "all", "all/outer", "all/outer/inner")}
    assert found == {".": 0o700, "all": 0o700, "all/outer": 0o750, "all/outer/inner": 0o705}


@pytest.mark.parametrize(("before", "after"), [(0o1777, 0o1755), (0o700, 0o700), (0o711, 0o711)])
def test_a_directory_that_is_there_loses_what_its_source_did_not_give(tree: Path, before: int, after: int) -> None:
    """It gets nothing more either."""
    (tree / "tree/outer").chmod(0o755)
    run(tree, "{relpath}")
    (tree / "back/outer").mkdir(parents=True)
    (tree / "back/outer").chmod(before)
    assert store(tree).restore_tree("", tree / "back")
    assert mode(tree / "back/outer") == after


def test_the_last_directories_of_a_key_are_those_of_a_restore_below_a_prefix(tree: Path) -> None:
    run(tree, "all/{relpath}")
    assert store(tree).restore_tree("all/outer", tree / "back")
    assert mode(tree / "back/inner") == 0o705
    assert mode(tree / "back") == 0o700


def test_a_directory_above_one_restored_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    put(tmp_path, "a").download("a", tmp_path / "new/dir/file")
    assert (mode(tmp_path / "new"), mode(tmp_path / "new/dir")) == (0o700, 0o700)


@pytest.mark.parametrize("link", ["target/a", "target/a/b"])
def test_nothing_is_written_through_a_link(tmp_path: Path, link: str) -> None:
    """A link that somebody planted in the target leads nowhere; the rest is restored."""
    made = put(tmp_path, "a/b/c/file", "z")
    (tmp_path / "outside/b/c").mkdir(parents=True)
    (tmp_path / link).parent.mkdir(parents=True)
    (tmp_path / link).symlink_to(tmp_path / "outside")
    report = made.restore_tree("", tmp_path / "target")
    assert "symbolic link" in why(report)
    assert report.failed[0].key == "a/b/c/file"
    assert (tmp_path / "target/z").read_text() == "z"
    assert [path for path in (tmp_path / "outside").rglob("*") if path.is_file()] == []


def test_a_link_to_equal_content_is_replaced_by_the_file(tmp_path: Path) -> None:
    """What it points to may change, and is not restored."""
    made = put(tmp_path, "a")
    (tmp_path / "outside").write_text("a")
    (tmp_path / "target").mkdir()
    (tmp_path / "target/a").symlink_to(tmp_path / "outside")
    report = made.restore_tree("", tmp_path / "target")
    assert (report.objects, report.already) == (1, 0)
    assert not (tmp_path / "target/a").is_symlink()
    assert (tmp_path / "target/a").read_text() == "a"


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.timeout(20)
def test_a_fifo_is_neither_opened_nor_replaced(tmp_path: Path, link: bool) -> None:
    """Opening it would wait for ever, and ``/dev/stdout`` leads to one."""
    made = put(tmp_path, "a")
    (tmp_path / "target").mkdir()
    os.mkfifo(tmp_path / "fifo")
    if link:
        (tmp_path / "target/a").symlink_to(tmp_path / "fifo")
    else:
        (tmp_path / "fifo").rename(tmp_path / "target/a")
    assert "FIFO, socket or device" in why(made.restore_tree("", tmp_path / "target"))
    with pytest.raises(OSError, match="FIFO, socket or device") as caught:
        made.restore("a", tmp_path / "target/a")
    assert caught.value.filename == str(tmp_path / "target/a")
    assert os.listdir(tmp_path / "target") == ["a"]
    assert stat.S_ISFIFO((tmp_path / "target/a").stat().st_mode)


def test_a_directory_in_the_way_is_named(tmp_path: Path) -> None:
    """Not the temp file, which nobody has ever seen."""
    made = put(tmp_path, "a")
    (tmp_path / "target/a").mkdir(parents=True)
    report = made.restore_tree("", tmp_path / "target")
    assert why(report).endswith(f"a directory is in the way: '{tmp_path}/target/a'")
    assert os.listdir(tmp_path / "target") == ["a"]


def test_keys_that_differ_only_by_case_do_not_overwrite_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a disk that does not tell case apart one of them is restored, the other is named, each time."""
    made = put(tmp_path, "DB.sql", "Docs/a", "db.sql", "docs/a")
    caseless(monkeypatch, tmp_path / "target")
    for _ in range(2):
        report = made.restore_tree("", tmp_path / "target")
        left = {str(each.relative_to(tmp_path / "target")) for each in (tmp_path / "target").rglob("*")}
        assert report.objects == 2
        failed = {each.key: str(each.error) for each in report.failed}
        assert all("differs only by case" in reason for reason in failed.values())
        restored = {key: (tmp_path / "target" / key).read_text() for key in left - {"Docs", "docs"}}
        assert all(key == content for key, content in restored.items())
        assert {*restored, *failed} == {"DB.sql", "Docs/a", "db.sql", "docs/a"}


def test_a_disk_that_does_not_tell_case_apart_keeps_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a backend it has the first object; the second is absent there, and refused with its reason."""
    caseless(monkeypatch, tmp_path / "disk")
    made = put(tmp_path, "DB.sql", "Docs/a")
    for key in ("db.sql", "docs/a"):
        assert not made.exists(key)
        for overwrite in (False, True):
            report = made.replicate(tmp_path / "source", key, overwrite=overwrite)
            error = report.replicas["disk"].exception
            assert isinstance(error, ConflictError)
            assert "differs only by case" in str(error)
    assert [made.read("DB.sql"), made.read("Docs/a")] == [b"DB.sql", b"Docs/a"]
    assert made.replicate(tmp_path / "source", "DB.sql", overwrite=True)
    assert made.verify()
    assert load((tmp_path / "disk/.fsbackup/manifests/DB.sql").read_bytes()).key == "DB.sql"


def test_owners_are_restored_on_demand(tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By default a file is whose who restores it; as root with `owner` it is whose it was, also if it is there."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    os.chown(tree / "tree/outer/inner/file", *OWNER)
    recorded = run(tmp_path, "t/{relpath}")
    assert (recorded["uid"], recorded["gid"]) == OWNER
    made, target = store(tmp_path), tmp_path / "back"
    made.restore_tree("t", target)
    file = target / "outer/inner/file"
    assert owner(file) == (os.getuid(), os.getgid())
    assert made.restore_tree("t", target, owner=True).already == 1
    assert owner(file) == OWNER
    made.restore("t/outer/inner/file", file)
    assert owner(file) == (os.getuid(), os.getgid())
    os.chmod(file, 0o600)
    made.restore("t/outer/inner/file", file, owner=True)
    assert (owner(file), file.read_text()) == (OWNER, "x")
    assert mode(file) == mode(tree / "tree/outer/inner/file")


def test_what_came_from_a_stream_has_no_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is whose who restores it."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    made = store(tmp_path)
    assert made.replicate(io.BytesIO(b"x"), "k")
    made.restore("k", tmp_path / "back", owner=True)
    assert owner(tmp_path / "back") == (os.getuid(), os.getgid())


def test_only_root_gives_files_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody else is told before anything is written."""
    made = put(tmp_path, "d/k")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ConfigError, match="only root can give restored files their owners"):
        made.restore("d/k", tmp_path / "back", owner=True)
    with pytest.raises(ConfigError, match="only root"):
        made.restore_tree("d", tmp_path / "tree", owner=True)
    assert not (tmp_path / "back").exists()
    assert not (tmp_path / "tree").exists()
