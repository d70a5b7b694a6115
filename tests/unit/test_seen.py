"""A job's file that has not changed is not read again; what changed, or was read too soon after a change, is."""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from fsbackup import seen
from fsbackup.config import Config, parse_config
from fsbackup.jobs import JobReport, run_job

CONFIG = """
version: 1
state_dir: state
backends: {one: {type: local, path: one}, two: {type: local, path: two}}
replication: {both: {backends: [one, two], min_copies: 1}}
jobs: {j: {source: {path: source}, destination: "{relpath}", replication: both, overwrite: true}}
"""
#: One file that is read when it is opened, and one that is read part by part.
SIZES = {"small": 1000, "large": 400_000}


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "source").mkdir()
    for name, size in SIZES.items():
        (tmp_path / "source" / name).write_bytes(os.urandom(size))
    return parse_config(CONFIG, directory=tmp_path)


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let files of this moment count as unchanged for long."""
    monkeypatch.setattr(seen, "SETTLED_NS", 0)


@pytest.fixture
def run(config: Config, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[JobReport, int]]:
    """Run the job, and return its report and how many bytes of source files were read."""
    read, pread = [0], os.pread

    def counting(descriptor: int, length: int, offset: int) -> bytes:
        data = pread(descriptor, length, offset)
        if "/source/" in os.readlink(f"/proc/self/fd/{descriptor}"):
            read[0] += len(data)
        return data

    monkeypatch.setattr(os, "pread", counting)

    def running(**options: Any) -> tuple[JobReport, int]:
        read[0] = 0
        report = run_job(config, "j", **options)
        assert report.status == "complete"
        return report, read[0]

    return running


ALL = sum(SIZES.values())


@pytest.mark.usefixtures("settled")
def test_an_unchanged_file_is_not_read(run: Callable[..., tuple[JobReport, int]]) -> None:
    assert run()[1] == ALL
    report, read = run()
    assert (report.stored, report.already, read) == (0, len(SIZES), 0)
    assert run(reread=True)[1] == ALL
    assert run()[1] == 0


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("name", SIZES)
def test_a_change_of_the_same_size_and_mtime_is_stored(
    run: Callable[..., tuple[JobReport, int]], tmp_path: Path, name: str
) -> None:
    """The ctime tells, which no program can set."""
    run()
    path = tmp_path / "source" / name
    before = path.stat()
    path.write_bytes(os.urandom(before.st_size))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert run()[0].stored == 1
    assert (tmp_path / "one" / name).read_bytes() == path.read_bytes()
    assert run()[1] == 0


@pytest.mark.usefixtures("settled")
def test_a_replica_that_lacks_it_gets_it(run: Callable[..., tuple[JobReport, int]], tmp_path: Path) -> None:
    """What is remembered says nothing about what is stored."""
    run()
    (tmp_path / "two/large").unlink()
    (tmp_path / "two/.fsbackup/manifests/large").unlink()
    report, read = run()
    assert (report.stored, report.already) == (1, 1)
    assert read >= SIZES["large"]
    assert (tmp_path / "two/large").read_bytes() == (tmp_path / "source/large").read_bytes()


def test_what_has_just_changed_is_read_again(run: Callable[..., tuple[JobReport, int]]) -> None:
    run()
    assert run()[1] == ALL


@pytest.mark.usefixtures("settled")
def test_a_damaged_cache_costs_time_only(
    run: Callable[..., tuple[JobReport, int]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run()
    (tmp_path / "state/seen.sqlite").write_bytes(b"no database" * 1000)
    assert run()[1] == ALL
    assert "seen.sqlite is damaged" in caplog.text
    assert run()[1] == 0


@pytest.mark.usefixtures("settled")
def test_without_a_place_for_the_cache_files_are_read(
    run: Callable[..., tuple[JobReport, int]], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: object, flags: int, *arguments: object, **options: object) -> int:
        if str(path).endswith("seen.sqlite"):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return opened(path, flags, *arguments, **options)  # type: ignore[arg-type]

    opened = os.open
    monkeypatch.setattr(os, "open", full)
    run()
    assert run()[1] == ALL
    assert "set state_dir" in caplog.text


@pytest.mark.usefixtures("settled")
def test_what_nobody_asks_for_is_forgotten(
    run: Callable[..., tuple[JobReport, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After 90 days; what is used stays."""
    run()
    days = [0]
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + days[0] * 86400)
    for days[0] in (50, 100):
        assert run()[1] == 0
    (tmp_path / "source/small").unlink()
    for days[0] in (150, 200):
        run()
    with closing(sqlite3.connect(tmp_path / "state/seen.sqlite")) as database:
        assert database.execute("SELECT size FROM files").fetchall() == [(SIZES["large"],)]
