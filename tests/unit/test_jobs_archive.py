"""A tree as one archive: all that files are, the same bytes while nothing changes, and never half of it."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import tarfile
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from fsspec.callbacks import Callback

from fsbackup.config import Config, InvalidConfigError, parse_config
from fsbackup.jobs import JobReport, Note, Planned, Unreadable, plan_job, run_job
from tests.replication.staged import Staged


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a directory with one of each kind of entry that an archive can have."""
    root = tmp_path / "etc"
    (root / "d/empty").mkdir(parents=True)
    (root / "d").chmod(0o750)
    (root / "f").write_text("text\n")
    (root / "f").chmod(0o4711)
    os.utime(root / "f", ns=(1, 1_500_000_000_123_456_789))
    os.link(root / "f", root / "hard")
    (root / "link").symlink_to("f")
    (root / "broken").symlink_to("nowhere")
    os.mkfifo(root / "fifo")
    with open(root / "d/sparse", "wb") as file:
        file.truncate(50 << 20)
        file.seek(30 << 20)
        file.write(b"an island")
    (root / "-x --y\nz").write_text("a name")
    (root / os.fsdecode(b"\xff")).write_text("no UTF-8")
    with suppress(OSError):  # some filesystems have no such attributes
        os.setxattr(root / "f", "user.note", b"kept")
    return root


def config(root: Path, source: Any = None, *, backend: str = "a", **job: Any) -> Config:
    settings = {
        "source": {"path": "etc", "archive": "tar"} if source is None else source,
        "destination": "etc.tar",
        "replication": "one",
        **job,
    }
    return parse_config(
        f"version: 1\nbackends: {{a: {{type: local, path: {backend}}}}}\nreplication: {{one: {{backends: [a]}}}}\n"
        f"jobs: {{j: {json.dumps(settings)}}}\n",
        directory=root,
        environ={},
    )


def found(root: Path) -> dict[str, os.stat_result]:
    """Return all below a directory, and itself."""
    return {str(each.relative_to(root)): each.lstat() for each in (root, *root.rglob("*"))}


def test_tar_brings_all_of_it_back(tree: Path, tmp_path: Path) -> None:
    """By itself, without us: what each entry is, its mode, time, holes, attributes and name."""
    assert run_job(config(tmp_path), "j").status == "complete"
    stored = tmp_path / "a/etc.tar"
    assert stored.stat().st_size < 1 << 20, "holes are no bytes"
    back = tmp_path / "back"
    back.mkdir()
    subprocess.run(["tar", "-xp", "--xattrs", "-f", stored, "-C", back], check=True)
    original, restored = found(tree), found(back / "etc")
    assert {path: (each.st_mode, each.st_uid, each.st_nlink > 1) for path, each in original.items()} == {
        path: (each.st_mode, each.st_uid, each.st_nlink > 1) for path, each in restored.items()
    }
    assert all(each.st_mtime_ns == restored[path].st_mtime_ns for path, each in original.items())
    assert os.readlink(back / "etc/broken") == "nowhere"
    assert (back / "etc/f").samefile(back / "etc/hard")
    assert (back / "etc/d/sparse").read_bytes() == (tree / "d/sparse").read_bytes()
    assert (back / "etc/d/sparse").stat().st_blocks * 512 < 1 << 20
    assert os.listxattr(back / "etc/f") == os.listxattr(tree / "f")


def test_an_unchanged_tree_is_there_already(tree: Path, tmp_path: Path) -> None:
    """Whatever reads it meanwhile, and whichever process writes the archive; a change is another content."""
    chosen = config(tmp_path)
    assert run_job(chosen, "j").stored == 1
    (tree / "f").read_text()
    (tree / "f").chmod(0o711)
    (tree / "f").chmod(0o4711)  # another change time
    assert run_job(chosen, "j").already == 1
    os.utime(tree / "f")
    assert run_job(chosen, "j").failed == 1, "other content under the same key"


def test_the_environment_changes_nothing(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GNU tar takes options from it, such as what somebody leaves out of archives of his own."""
    chosen = config(tmp_path)
    assert run_job(chosen, "j").stored == 1
    monkeypatch.setenv("TAR_OPTIONS", "--exclude=f --format=gnu")
    monkeypatch.setenv("POSIXLY_CORRECT", "1")
    assert run_job(chosen, "j").already == 1
    assert tree.exists()


def test_what_is_excluded_is_not_in_it(tree: Path, tmp_path: Path) -> None:
    """By the patterns of other sources; and neither a socket nor the backend's own copies are."""
    (tree / "backups").mkdir()
    with closing(socket.socket(socket.AF_UNIX)) as bound:
        bound.bind(str(tree / "s"))
        source = {"path": "etc", "archive": "tar", "exclude": ["/d/", "f*", "!fifo"]}
        chosen = config(tmp_path, source, backend="etc/backups")
        assert run_job(chosen, "j").status == "complete"
    with tarfile.open(tree / "backups/etc.tar") as archive:
        names = [each.encode(errors="surrogateescape").removeprefix(b"etc/") for each in archive.getnames()]
    assert names == [b"etc", b"-x --y\nz", b"broken", b"fifo", b"hard", b"link", b"\xff"]


def test_excludes_that_match_nothing_are_named(
    tree: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As those of a job of files are: by a run with -v, and by a dry run, which finds an unreadable tree, too."""
    caplog.set_level("INFO", "fsbackup.jobs")
    chosen = config(tmp_path, {"path": "etc", "archive": "tar", "exclude": ["/d/", "*.tmp", "cahce/"]})
    expected = ["exclude '*.tmp' matches nothing", "exclude 'cahce/' matches nothing"]
    planned, *notes = plan_job(chosen, "j")
    assert isinstance(planned, Planned)
    assert [each.text for each in notes if isinstance(each, Note)] == expected
    assert caplog.messages == []
    assert run_job(chosen, "j").status == "complete"
    assert caplog.messages == [f"{tree}: {each}" for each in expected]
    [unreadable] = plan_job(config(tmp_path, {"path": "nowhere", "archive": "tar"}), "j")
    assert isinstance(unreadable, Unreadable)


def test_a_tree_that_cannot_be_read_is_not_stored(tree: Path, tmp_path: Path) -> None:
    """Neither without what is missing, nor as an empty archive."""

    def why(report: JobReport) -> str:
        assert (report.status, report.failed) == ("failed", 1)
        assert not (tmp_path / "a/etc.tar").exists()
        return str(report.problems[0].error)

    assert "No such file" in why(run_job(config(tmp_path, {"path": "nowhere", "archive": "tar"}), "j"))
    (tree / "loop").symlink_to(tree / "loop")
    assert "cannot be read" in why(run_job(config(tmp_path, {"path": "etc/loop", "archive": "tar"}), "j"))


class Append(Callback):  # type: ignore[misc]
    """Appends to a file when the first part of the source has been read."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def relative_update(self, inc: int = 1) -> None:
        with open(self._path, "ab") as file:
            file.write(b"more")
        super().relative_update(inc)


def test_a_file_that_changes_while_it_is_read_fails_it(tree: Path, tmp_path: Path) -> None:
    """Half of one and half of the other is no backup; the error has tar's own words."""
    large = tree / "d/growing"
    large.write_bytes(os.urandom(40 << 20))  # tar is in the middle of it when the first part has been taken
    report = run_job(config(tmp_path), "j", progress=lambda _path, _key: Append(large))
    assert "changed as we read it" in str(report.problems[0].error)
    assert not (tmp_path / "a/etc.tar").exists()


def test_it_goes_through_stages(tree: Path, tmp_path: Path) -> None:
    """Compressed and encrypted as anything else, and there already the second time."""
    place = Staged.make(tmp_path)
    job: dict[str, Any] = {"compress": "zstd", "encrypt": {"age": [place.recipient]}, "destination": "etc.tar"}
    assert run_job(config(tmp_path, **job), "j").stored == 1
    with tarfile.open(fileobj=io.BytesIO(place.plain("etc.tar.zst.age"))) as archive:
        assert "etc/d/sparse" in archive.getnames()
    assert tree.exists()
    assert run_job(config(tmp_path, **job), "j").already == 1


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"source": {"path": "etc", "archive": "zip"}}, "source.archive: must be 'tar', not 'zip'"),
        (
            {"source": {"path": "etc", "archive": "tar", "links": "follow"}},
            "source.links: must be left out with archive, not 'follow' (an archive has links as they are)",
        ),
        (
            {"destination": "{name}.tar"},
            "destination: must not have {name} or {relpath}, not '{name}.tar' (an archive is one object)",
        ),
    ],
)
def test_mistakes(tmp_path: Path, change: dict[str, Any], expected: str) -> None:
    with pytest.raises(InvalidConfigError) as caught:
        config(tmp_path, **change)
    assert str(caught.value) == f"<string>:4: jobs.j.{expected}"
