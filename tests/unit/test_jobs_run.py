"""Running a job against directories: what is stored, what is already there, and what goes wrong by name."""

from __future__ import annotations

import json
import logging
import os
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fsspec.callbacks import Callback

from fsbackup.config import Config, parse_config
from fsbackup.jobs import FileResult, JobReport, run_job
from fsbackup.keys import FoundKeys
from tests.replication.prune_helpers import Disks
from tests.replication.raw_replicas import MARKER, RawDisk, mark

RunJob = Callable[..., JobReport]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a source directory with five files."""
    for index in range(5):
        path = tmp_path / "source" / f"d{index % 2}" / f"f{index}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 1000 * index)
    return tmp_path / "source"


def config(tmp_path: Path, *, broken: bool = False, min_copies: int = 2, **job: Any) -> Config:
    """Return a configuration with three disks in use, the third of which can be one that does not work."""
    (tmp_path / "no-directory").touch()
    for number in range(1, 4):
        RawDisk(tmp_path / f"disk{number}").put(MARKER, mark(number))
    third = "no-directory" if broken else "disk3"
    settings = {"source": {"path": "source"}, "destination": "k/{relpath}", "replication": "triple", **job}
    return parse_config(
        f"""
version: 1
backends:
  disk1: {{type: local, path: disk1}}
  disk2: {{type: local, path: disk2}}
  disk3: {{type: local, path: {third}}}
replication: {{triple: {{backends: [disk1, disk2, disk3], min_copies: {min_copies}}}}}
jobs: {{j: {json.dumps(settings)}}}
""",
        directory=tmp_path,
    )


def copies(disk: Path) -> dict[str, bytes]:
    """Return the objects on a disk, by key."""
    found = (path for path in disk.rglob("*") if path.is_file() and ".fsbackup" not in path.parts)
    return {str(path.relative_to(disk)): path.read_bytes() for path in found}


def contents(tree: Path) -> dict[str, bytes]:
    """Return what a tree's files would be stored as."""
    return {f"k/{path.relative_to(tree)}": path.read_bytes() for path in tree.rglob("*") if path.is_file()}


def test_every_file_everywhere_and_nothing_twice(tmp_path: Path, tree: Path) -> None:
    """The first run stores all, the second sends nothing, and both say so."""
    first = run_job(config(tmp_path), "j")
    assert first.status == "complete"
    assert (first.stored, first.already, first.failed) == (5, 0, 0)
    assert first.bytes_read == 10_000
    for name in ("disk1", "disk2", "disk3"):
        assert copies(tmp_path / name) == contents(tree)
        assert first.backends[name].bytes_sent == 10_000
        assert first.backends[name].location == str(tmp_path / name)
    second = run_job(config(tmp_path), "j")
    assert (second.stored, second.already) == (0, 5)
    assert [each.bytes_sent for each in second.backends.values()] == [0, 0, 0]


@pytest.mark.parametrize("length", [1, 2, 5, 100])
def test_slices_hide_nothing(tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    """Whatever the length of a slice, every file is stored once and heard of once."""
    monkeypatch.setattr("fsbackup.jobs.run.SLICE", length)
    heard: list[FileResult] = []
    report = run_job(config(tmp_path), "j", on_file=heard.append)
    assert report.files == 5
    assert sorted(each.key or "" for each in heard) == sorted(contents(tree))


@pytest.mark.usefixtures("tree")
def test_one_now_for_the_whole_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run over midnight does not fall into two directories."""
    monkeypatch.setattr("fsbackup.jobs.run.SLICE", 1)
    now = datetime(2025, 12, 31, 23, 59, 59, tzinfo=UTC)
    run_job(config(tmp_path, destination="{now:%Y-%m-%dT%H%M%S}/{relpath}"), "j", now=now)
    assert {key.split("/")[0] for key in copies(tmp_path / "disk1")} == {"2025-12-31T235959"}


def test_a_replica_that_is_away_degrades_and_is_named(tmp_path: Path, tree: Path) -> None:
    """The others hold everything; the tally of the third says why it does not."""
    report = run_job(config(tmp_path, broken=True), "j")
    assert report.status == "degraded"
    assert bool(report)
    assert (report.degraded, report.failed) == (5, 0)
    assert copies(tmp_path / "disk1") == copies(tmp_path / "disk2") == contents(tree)
    assert report.backends["disk3"].failed == 5
    assert "disk3" in str(report.backends["disk3"].error)
    assert all("disk3" in str(problem.error) for problem in report.problems)


@pytest.mark.usefixtures("tree")
def test_too_few_copies_is_failed(tmp_path: Path) -> None:
    """With every copy wanted, one place that is away fails the job."""
    report = run_job(config(tmp_path, broken=True, min_copies=3), "j")
    assert report.status == "failed"
    assert not report
    assert report.failed == 5
    assert report.problems[0].error_type == "TooFewCopiesError"


def test_a_file_that_vanishes_is_named_and_the_rest_go_on(
    tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It was listed and is gone when its turn comes; the log has it as an ERROR with its fields."""
    monkeypatch.setattr("fsbackup.jobs.run.SLICE", 1)
    victim = tree / "d0/f4"
    report = run_job(config(tmp_path), "j", on_file=lambda _: victim.unlink(missing_ok=True))
    assert (report.stored, report.failed) == (4, 1)
    [problem] = report.problems
    assert (problem.path, problem.error_type) == (str(victim), "SourceNotFoundError")
    assert str(victim) in str(problem.error)
    [record] = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert (record.name, vars(record)["outcome"]) == ("fsbackup.jobs", "failed")
    assert str(victim) in record.getMessage()


class Changing(Callback):  # type: ignore[misc]
    """Changes a file as soon as it is being read."""

    def __init__(self, change: Callable[[], object]) -> None:
        super().__init__()
        self.change = change

    def branched(self, *_: Any, **__: Any) -> Callback:
        """Take no interest in what is sent."""
        return Callback()

    def relative_update(self, inc: int = 1) -> None:  # noqa: ARG002
        """Change the file."""
        self.change()


def append(path: Path) -> None:
    """Let a file grow."""
    with path.open("ab") as file:
        file.write(b"more")


def rewrite(path: Path) -> None:
    """Change the first byte of a file."""
    with path.open("r+b") as file:
        file.write(b"X")


def append_and_rewrite(path: Path) -> None:
    """Let a file grow, and change it elsewhere, as a database does."""
    append(path)
    rewrite(path)


@pytest.mark.each_choice
@pytest.mark.parametrize(
    "change", [append, rewrite, append_and_rewrite, Path.unlink, lambda path: os.truncate(path, 9)]
)
@pytest.mark.parametrize("changing", ["keep", "fail"])
def test_a_file_that_changes_while_it_is_read(
    tmp_path: Path, tree: Path, changing: str, change: Callable[[Path], object]
) -> None:
    """What a log had when it was opened is a backup; half of the old and half of the new is none."""
    victim, data = tree / "big", os.urandom(20 << 20)
    victim.write_bytes(data)
    source = {"path": "source", "changing": changing}
    changes = Changing(lambda: victim.exists() and change(victim))
    report = run_job(
        config(tmp_path, source=source), "j", progress=lambda path, _key: changes if path == str(victim) else None
    )
    if change is Path.unlink or (change is append and changing == "keep"):
        assert (report.status, copies(tmp_path / "disk1")["k/big"]) == ("complete", data)
    else:
        assert (report.stored, report.failed) == (5, 1)
        assert report.problems[0].error_type == "SourceChangedError"
        assert "k/big" not in copies(tmp_path / "disk1")


def test_a_source_with_nothing_in_it_is_failed(tmp_path: Path) -> None:
    """Not complete with zero files."""
    report = run_job(config(tmp_path, source={"path": "nothing/*.gz"}), "j")
    assert report.status == "failed"
    assert str(tmp_path / "nothing") in str(report.problems[0].error)


def test_a_source_may_be_empty(tmp_path: Path) -> None:
    """Where the job says so, and it is there."""
    (tmp_path / "source").mkdir()
    report = run_job(config(tmp_path, allow_empty=True), "j")
    assert (report.status, report.files) == ("complete", 0)
    (tmp_path / "source").rmdir()
    assert run_job(config(tmp_path, allow_empty=True), "j").status == "failed"


def pruning(tmp_path: Path, **more: Any) -> Config:
    """Return a configuration whose job stores to a directory per day, and prunes; the first disk has a rule."""
    job = {"destination": "k/{now:%Y-%m-%d}/{relpath}", "prune": True, **more}
    plain = config(tmp_path, **{**job, "prune": False}).model_dump()
    plain["backends"]["disk1"]["retention"] = {"max_age": "30d"}
    plain["jobs"]["j"]["prune"] = True
    return Config.model_validate(plain)


@pytest.fixture
def aged(tmp_path: Path) -> Disks:
    """Return three disks with old objects of the job's, and of others; of each series there is a newer one."""
    disks = Disks(tmp_path, ("disk1", "disk2", "disk3"))
    for key in ("k/2025-01-01/d0/f0", "kk/2025-01-01/d0/f0"):
        disks.put(disks.raw_replicas, key, 40)
        disks.put(disks.raw_replicas, key.replace("01-01", "02-01"), 10)
    return disks


@pytest.mark.usefixtures("tree")
def test_a_job_prunes_what_is_its_own(tmp_path: Path, aged: Disks) -> None:
    """After all is stored, below what its keys have in common; and once more there is nothing to let go."""
    report = run_job(pruning(tmp_path), "j", now=datetime(2026, 1, 1, tzinfo=UTC))
    assert report.status == "complete", report.as_dict()
    assert report.prune is not None
    assert (report.prune.prefix, report.prune.dry_run, report.prune.count("deleted")) == ("k", False, 1)
    assert "k/2025-01-01/d0/f0" not in aged.keys("disk1")
    assert {"k/2025-02-01/d0/f0", "kk/2025-01-01/d0/f0", "k/2026-01-01/d0/f0"} < aged.keys("disk1")
    assert "k/2025-01-01/d0/f0" in aged.keys("disk2")
    assert json.loads(json.dumps(report.as_dict()))["prune"]["backends"]["disk1"]["deleted"] == 1
    again = run_job(pruning(tmp_path), "j", now=datetime(2026, 1, 1, tzinfo=UTC))
    assert again.prune is not None
    assert (again.status, again.prune.steps) == ("complete", ())
    plain = run_job(config(tmp_path), "j")
    assert plain.prune is None
    assert plain.as_dict()["prune"] is None


@pytest.mark.usefixtures("tree")
def test_a_prune_that_is_not_complete_makes_the_job_degraded(tmp_path: Path, aged: Disks) -> None:
    """Its files are stored everywhere all the same."""
    for disk in ("disk2", "disk3"):
        (aged.raw_replicas[disk].base / "k/2025-01-01/d0/f0").unlink()
    report = run_job(pruning(tmp_path), "j")
    assert report.prune is not None
    assert (report.status, report.stored_status, report.prune.count("blocked")) == ("degraded", "complete", 1)
    assert "k/2025-01-01/d0/f0" in aged.keys("disk1")


def test_a_job_that_failed_does_not_prune(tmp_path: Path, tree: Path, aged: Disks) -> None:
    """What is old is perhaps all there will be."""
    (tree / "gone").symlink_to("nowhere")
    report = run_job(pruning(tmp_path, source={"path": "source", "links": "fail"}), "j")
    assert (report.status, report.prune) == ("failed", None)
    assert "k/2025-01-01/d0/f0" in aged.keys("disk1")


def test_what_was_found_is_remembered_in_few_bytes() -> None:
    """There may be millions of files."""
    found = FoundKeys()
    tracemalloc.start()
    try:
        for at in range(100_000):
            found.add(f"tenants/{at}/db.sql")
        assert tracemalloc.get_traced_memory()[0] < 2_500_000
    finally:
        tracemalloc.stop()
    assert all(f"tenants/{at}/db.sql" in found for at in range(0, 100_000, 997))
    assert not any(f"tenant/{at}/db.sql" in found for at in range(0, 100_000, 997))


def test_other_content_is_a_conflict_unless_the_job_overwrites(tmp_path: Path, tree: Path) -> None:
    """A job is create-only; with `overwrite` the changed file, and only it, is sent."""
    run_job(config(tmp_path), "j")
    (tree / "d0/f2").write_bytes(b"changed")
    refused = run_job(config(tmp_path), "j")
    assert (refused.already, refused.failed) == (4, 1)
    assert refused.problems[0].error_type == "ConflictError"
    replaced = run_job(config(tmp_path, overwrite=True), "j")
    assert (replaced.stored, replaced.already) == (1, 4)
    assert copies(tmp_path / "disk3") == contents(tree)


@pytest.mark.usefixtures("tree")
def test_problems_are_bounded_and_counted_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A million failures are a number, not a million values in memory."""
    monkeypatch.setattr("fsbackup.jobs.counts.NAMED", 2)
    report = run_job(config(tmp_path, broken=True), "j")
    assert (len(report.problems), report.degraded) == (2, 5)


@pytest.mark.usefixtures("tree")
def test_the_report_is_plain_json(tmp_path: Path) -> None:
    """Counts add up to the files, and nothing in it needs a class to be read."""
    report = run_job(config(tmp_path, broken=True), "j")
    plain = json.loads(json.dumps(report.as_dict()))
    assert plain["files"] == plain["stored"] + plain["already"] + plain["degraded"] + plain["failed"] == 5
    assert plain["status"] == "degraded"
    assert plain["backends"]["disk1"]["stored"] == 5
