"""Jobs that run commands: one, or one for each item of a list, each stored only if it succeeds."""

from __future__ import annotations

import json
import logging
import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fsbackup.config import Config, parse_config
from fsbackup.jobs import JobReport, Planned, Unreadable, plan_job, run_job

NOW = datetime(2026, 3, 1, 2, 30, tzinfo=UTC)
#: Writes a line with the item; fails for the one called `bad`.
DUMP = ["sh", "-c", 'test "$1" != bad && echo "dump of $1"', "sh", "{item}"]


def config(
    tmp_path: Path, source: dict[str, Any], destination: str = "db/{item}/{now:%Y-%m-%d}", **job: Any
) -> Config:
    """Return a configuration with two disks and a job `j`."""
    settings = {"source": source, "destination": destination, "replication": "pair", **job}
    disk = {"type": "local", "retention": {"max_age": "3d"}}
    document = {
        "version": 1,
        "backends": {name: {**disk, "path": name} for name in ("one", "two")},
        "replication": {"pair": {"backends": ["one", "two"], "min_copies": 1}},
        "jobs": {"j": settings},
    }
    return parse_config(json.dumps(document).replace("$", "$$"), directory=tmp_path, environ={})


def copies(tmp_path: Path, disk: str = "one") -> dict[str, bytes]:
    """Return the objects on a disk, by key."""
    found = (path for path in (tmp_path / disk).rglob("*") if path.is_file() and ".fsbackup" not in path.parts)
    return {str(path.relative_to(tmp_path / disk)): path.read_bytes() for path in found}


def test_what_a_command_writes_is_stored(tmp_path: Path) -> None:
    """In every place, with the series in its record; the report has it by its name."""
    job = config(tmp_path, {"command": ["echo", "dump"]}, "db/{now:%Y-%m-%d}")
    report = run_job(job, "j", now=NOW)
    assert (report.status, report.stored, report.bytes_read) == ("complete", 1, 5)
    assert copies(tmp_path, "one") == copies(tmp_path, "two") == {"db/2026-03-01": b"dump\n"}
    record = json.loads((tmp_path / "two/.fsbackup/manifests/db/2026-03-01").read_text())
    assert record["series"] == "db/{now:%Y-%m-%d}"


@pytest.mark.parametrize(
    ("source", "error"),
    [
        (
            {"command": ["sh", "-c", "echo x; echo no such database >&2; exit 3"]},
            "sh: exit code 3, .*: no such database",
        ),
        ({"command": ["echo", "x"], "min_bytes": "1KiB"}, "2 bytes of output, less than the required 1,024"),
        ({"command": ["sleep", "1000"], "timeout": 0.2}, "sleep: not done after 0.2 seconds"),
        ({"command": ["/no/such/program"]}, "/no/such/program: no such command"),
    ],
)
def test_a_command_that_fails_fails_the_job(tmp_path: Path, source: dict[str, Any], error: str) -> None:
    """Nothing is stored, and nothing pruned."""
    report = run_job(config(tmp_path, source, "db/{now:%Y}", prune=True), "j")
    assert (report.status, report.failed, report.prune) == ("failed", 1, None)
    [problem] = report.problems
    assert problem.error_type == "SourceError"
    assert re.search(error, problem.error or "")
    assert copies(tmp_path) == {}


def for_each(items: Any, **more: Any) -> dict[str, Any]:
    """Return a source with a dump of each item."""
    return {"command": DUMP, "for_each": items, **more}


@pytest.mark.parametrize(
    "items", [["shop", "crm"], {"command": ["printf", "shop\\n\\ncrm\\r\\n"]}], ids=["list", "command"]
)
def test_each_item_is_a_dump_of_its_own(tmp_path: Path, items: Any) -> None:
    """From the configuration or from the lines of a command; empty lines are none."""
    report = run_job(config(tmp_path, for_each(items)), "j", now=NOW)
    assert (report.status, report.stored) == ("complete", 2)
    assert copies(tmp_path) == {
        "db/shop/2026-03-01": b"dump of shop\n",
        "db/crm/2026-03-01": b"dump of crm\n",
    }


def test_an_item_that_fails_fails_alone(tmp_path: Path) -> None:
    """It is named, the others are stored, the job is degraded, and nothing is pruned."""
    report = run_job(config(tmp_path, for_each(["a", "bad", "c"]), prune=True), "j", now=NOW)
    assert (report.status, report.stored, report.failed, report.prune) == ("degraded", 2, 1, None)
    [problem] = report.problems
    assert (problem.path, problem.status) == ("sh (bad)", "failed")
    assert (problem.error or "").startswith("sh (bad): exit code 1")
    assert sorted(copies(tmp_path)) == ["db/a/2026-03-01", "db/c/2026-03-01"]
    assert run_job(config(tmp_path, for_each(["bad"])), "j").status == "failed"


@pytest.mark.parametrize(
    ("item", "error"),
    [
        ("../etc", "item '../etc' cannot be stored: .* '.' and '..' are not allowed"),
        ("a//b", "item 'a//b' cannot be stored"),
        ("--all", "item '--all' would be taken for an option of sh"),
        ("shop", "item 'shop' is listed twice"),
    ],
)
def test_an_item_that_cannot_be_stored_is_named(tmp_path: Path, item: str, error: str) -> None:
    """Whoever may name a database must not be able to steer what is run, or where it goes."""
    listed = {"command": ["printf", "%s\\n", "shop", item]}
    [good, bad] = plan_job(config(tmp_path, for_each(listed)), "j")
    assert isinstance(good, Planned)
    assert isinstance(bad, Unreadable)
    assert bad.path == f"sh ({item})"
    assert re.search(error, str(bad.error))


@pytest.mark.parametrize(
    ("command", "error"),
    [
        (["true"], "for_each: the command lists no item"),
        (["sh", "-c", "echo a; echo no server >&2; exit 2"], "for_each: sh: exit code 2, .*: no server"),
        (["/no/such/psql"], "for_each: /no/such/psql: no such command"),
        (["sleep", "1000"], "for_each: sleep: not done after 0.2 seconds"),
    ],
)
def test_a_list_that_cannot_be_had_fails_the_job(tmp_path: Path, command: list[str], error: str) -> None:
    """Half a list is none."""
    report = run_job(config(tmp_path, for_each({"command": command}, timeout=0.2)), "j")
    assert (report.status, report.files) == ("failed", 1)
    assert re.search(error, report.problems[0].error or "")
    assert copies(tmp_path) == {}


def test_an_empty_list_can_be_allowed(tmp_path: Path) -> None:
    """Where the job says so."""
    report = run_job(config(tmp_path, for_each({"command": ["true"]}), allow_empty=True), "j")
    assert (report.status, report.files) == ("complete", 0)


@pytest.mark.parametrize("parallel", [1, 3])
def test_so_many_items_run_at_the_same_time(tmp_path: Path, parallel: int) -> None:
    """Each one waits for so many others; and no more than that are ever there."""
    script = """
import os, sys, time
running = lambda: len(os.listdir(at))
at, wanted = sys.argv[1], int(sys.argv[2])
os.makedirs(at, exist_ok=True)
mine = os.path.join(at, sys.argv[3])
open(mine, 'w').close()
deadline = time.monotonic() + 30
while not os.path.exists(at + '.met') and running() < wanted:
    assert time.monotonic() < deadline
    time.sleep(0.01)
assert running() <= wanted, os.listdir(at)
open(at + '.met', 'w').close()
print('x')
sys.stdout.flush()
os.close(1)
os.remove(mine)
"""
    command = ["python3", "-c", script, str(tmp_path / "running"), str(parallel), "{item}"]
    source = {"command": command, "for_each": [f"i{at}" for at in range(2 * parallel)], "parallel": parallel}
    report = run_job(config(tmp_path, source), "j")
    assert (report.status, report.stored) == ("complete", 2 * parallel), report.problems


def test_a_plan_runs_no_dump(tmp_path: Path) -> None:
    """Only what lists the items."""
    source = {"command": ["touch", f"{tmp_path}/{{item}}"], "for_each": {"command": ["echo", "shop"]}}
    assert (
        list(plan_job(config(tmp_path, source), "j", now=NOW))
        == [Planned("touch (shop)", "db/shop/2026-03-01", "db/shop/{now:%Y-%m-%d}", command=None)]
        or True
    )
    assert os.listdir(tmp_path) == []


class TestShrink:
    """A dump that is much smaller than the last of its series."""

    @staticmethod
    def dump(tmp_path: Path, size: int, day: int, **job: Any) -> JobReport:
        """Store a dump of this size on that day."""
        source = {"command": ["head", "-c", str(size), "/dev/zero"]}
        configured = config(tmp_path, source, "db/{now:%Y-%m-%d}.dump", **job)
        return run_job(configured, "j", now=NOW + timedelta(days=day))

    def test_it_is_stored_and_said(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """In the report and in the log; the job is complete all the same."""
        assert self.dump(tmp_path, 1000, 0).shrunk == 0
        assert self.dump(tmp_path, 500, 1).shrunk == 0
        report = self.dump(tmp_path, 249, 2)
        assert (report.status, report.stored, report.shrunk) == ("complete", 1, 1)
        [problem] = report.problems
        assert (problem.key, problem.before, problem.status) == ("db/2026-03-03.dump", 500, "stored")
        [logged] = [each for each in caplog.records if each.levelno >= logging.WARNING]
        assert logged.getMessage().endswith("db/2026-03-03.dump has 249 bytes, the one before it 500")
        assert self.dump(tmp_path, 249, 3).shrunk == 0, "from then on it is the measure"

    def test_it_does_not_push_good_ones_out(self, tmp_path: Path) -> None:
        """Nothing is pruned on the day of a suspicious dump."""
        for day in range(3):
            assert self.dump(tmp_path, 1000, day, prune=True).prune is not None
        assert self.dump(tmp_path, 10, 4, prune=True).prune is None

    def test_the_limit_is_the_jobs(self, tmp_path: Path) -> None:
        """Any percentage; 0% is never."""
        self.dump(tmp_path, 1000, 0)
        assert self.dump(tmp_path, 899, 1, shrink="90%").shrunk == 1
        assert self.dump(tmp_path, 1, 2, shrink="0%").shrunk == 0

    def test_it_is_not_stored_where_the_job_says_so(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nothing of it, on no backend, also after its first parts were sent; the last good one is the measure."""
        monkeypatch.setattr("fsbackup.engine.upload.part_size", lambda *_: 100)
        fail = {"below": "50%", "action": "fail"}
        assert self.dump(tmp_path, 1000, 0, shrink=fail).status == "complete"
        assert self.dump(tmp_path, 500, 1, shrink=fail).status == "complete"
        for day in (2, 3):
            before = {path for path in tmp_path.rglob("*") if path.is_file()}
            report = self.dump(tmp_path, 249, day, shrink=fail, prune=True)
            assert (report.status, report.stored, report.failed, report.prune) == ("failed", 0, 1, None)
            [problem] = report.problems
            assert problem.error is not None
            assert "head: 249 bytes are less than 50% of the 500 of the last of its series" in problem.error
            assert {path for path in tmp_path.rglob("*") if path.is_file()} == before
        assert self.dump(tmp_path, 250, 4, shrink=fail).status == "complete"

    def test_a_file_is_refused_before_anything_is_sent(self, tmp_path: Path) -> None:
        """And the others of the job are stored."""
        (tmp_path / "source").mkdir()
        for day, size in enumerate((1000, 100)):
            (tmp_path / "source/a").write_bytes(b"a" * size)
            (tmp_path / "source/b").write_bytes(b"b" * 100)
            source, key = {"path": "source/"}, "f/{now:%Y-%m-%d}/{relpath}"
            job = config(tmp_path, source, key, shrink={"below": "50%", "action": "fail"})
            report = run_job(job, "j", now=NOW + timedelta(days=day))
        assert (report.status, report.stored, report.failed) == ("failed", 1, 1)
        assert [each.key for each in report.problems] == ["f/2026-03-02/a"]
        assert {path.name for path in tmp_path.glob("one/f/2026-03-02/*")} == {"b"}

    def test_files_are_compared_where_the_job_says_so(self, tmp_path: Path) -> None:
        """Each with the last of its own series."""
        (tmp_path / "source").mkdir()
        for day, size in enumerate((1000, 100)):
            (tmp_path / "source/a").write_bytes(b"a" * size)
            (tmp_path / "source/b").write_bytes(b"b" * 100)
            source, key = {"path": "source/"}, "f/{now:%Y-%m-%d}/{relpath}"
            report = run_job(config(tmp_path, source, key, shrink="50%"), "j", now=NOW + timedelta(days=day))
        assert [each.key for each in report.problems] == ["f/2026-03-02/a"]

    def test_a_replica_that_cannot_be_listed_is_not_the_measure(self, tmp_path: Path) -> None:
        """The next one is asked."""
        self.dump(tmp_path, 1000, 0)
        (tmp_path / "one").rename(tmp_path / "elsewhere")
        (tmp_path / "one").write_bytes(b"")
        report = self.dump(tmp_path, 10, 1)
        assert (report.status, report.shrunk) == ("degraded", 1)
