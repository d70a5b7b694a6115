"""`fsbackup verify`, `status` and `ls` as real processes: their findings, their output, their exit codes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.integration.cli_helpers import Cli

DISKS = ("disk1", "disk2", "disk3")


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Return the command line in a directory of its own, its tree stored on all three disks."""
    command = Cli(tmp_path)
    assert command("run", "tree").code == 0
    return command


def corrupt(cli: Cli, disk: str, key: str) -> None:
    """Change one byte of a copy, and restore its times."""
    path = cli.home / disk / key
    before = path.stat()
    path.write_bytes(b"!" + path.read_bytes()[1:])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_no_problem(cli: Cli) -> None:
    """A table of the backends, and a verdict about what was verified; nothing with --quiet."""
    done = cli("verify")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[-1] == "complete: 3 objects; every replica matches its manifest, size and ETag"
    assert all(str(cli.home / disk) in done.out for disk in DISKS)
    deep = cli("verify", "t/b", "--deep")
    assert (
        deep.out.splitlines()[-1] == "complete: 2 objects; every byte of every replica read and verified (1.8 KiB)"
    )
    assert cli("verify", "-q").out == ""


def test_each_problem_is_a_line_and_the_verdict_has_the_next_step(cli: Cli) -> None:
    """Only --deep finds changed bytes; the exit code distinguishes enough copies from too few."""
    corrupt(cli, "disk2", "t/b/c")
    assert cli("verify").code == 0
    done = cli("verify", "--deep")
    assert done.code == 3
    lines = done.out.splitlines()
    assert lines[0] == "t/b/c: disk2: damaged: 1 of 1 blocks rotten, the first is block 0 (bytes 0 to 300)"
    assert lines[-1] == "degraded: 3 objects examined; 1 problem. Next: `fsbackup repair --set triple`"
    (cli.home / "disk3/t/b/c").unlink()
    done = cli("verify", "t", "--deep")
    assert done.code == 1
    assert "t/b/c: disk3: missing: its manifest is there, its data is not" in done.out.splitlines()
    verdict = "failed: 3 objects examined; 2 problems; 1 object with fewer proven copies than min_copies."
    assert done.out.splitlines()[-1] == f"{verdict} Next: `fsbackup repair t --set triple`"


def test_json_lines(cli: Cli) -> None:
    """One line per problem, and then a summary that counts them."""
    (cli.home / "disk1/t/a").unlink()
    done = cli("verify", "--json")
    problem, summary = done.lines()
    assert done.code == 3
    assert [problem[name] for name in ("kind", "key", "backend", "state")] == [
        "problem",
        "t/a",
        "disk1",
        "missing",
    ]
    assert problem["advice"]
    assert [summary[name] for name in ("kind", "status", "objects", "problems")] == ["summary", "degraded", 3, 1]
    assert summary["backends"]["disk1"]["states"] == {"missing": 1, "present": 2}


def test_an_unreachable_backend(cli: Cli) -> None:
    """Degraded, with the error; its replicas are unknown, not missing, and there is nothing to repair."""
    done = cli("verify", env=cli.break_third())
    assert done.code == 3
    assert "disk3" in done.err
    assert "disk3: unreachable: " in done.out
    assert done.out.splitlines()[-1] == (
        "degraded: 3 objects examined; 0 problems; disk3 unreachable: replicas there are unknown"
    )
    assert cli("verify", "--json", env=cli.break_third()).lines()[0]["status"] == "degraded"


def test_a_sample(cli: Cli) -> None:
    """1/1 is all objects; other forms than 1/N are wrong usage."""
    done = cli("verify", "--deep", "--sample", "1/1")
    assert done.out.splitlines()[-1].startswith("complete: 3 objects (sample 1/1); every byte")
    wrong = cli("verify", "--sample", "30%")
    assert wrong.code == 2
    assert "written as 1/N" in wrong.err


def test_a_closed_pipe_ends_it(cli: Cli) -> None:
    """`verify | head -1` prints no error."""
    for disk in DISKS[1:]:
        for key in ("t/a", "t/b/c", "t/b/d"):
            (cli.home / disk / key).unlink()
    with cli.started("verify") as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        err = process.stderr.read()
        assert process.wait(60) == 141
    assert err == b""


def test_status_groups_and_max_age(cli: Cli) -> None:
    """Objects, bytes, newest object and age of each group; it fails if the newest object of a group is too old."""
    done = cli("status", "--depth", "2", "--max-age", "26h")
    assert done.code == 0
    groups = [line.split()[:4] for line in done.out.splitlines() if line.startswith("t/")]
    assert groups == [["t/", "1", "100", "B"], ["t/b/", "2", "600", "B"]]
    for disk in DISKS:
        for key in ("t/b/c", "t/b/d"):
            os.utime(cli.home / disk / ".fsbackup/manifests" / key, (1_600_000_000, 1_600_000_000))
    assert cli("status", "--depth", "2").code == 0
    too_old = cli("status", "--depth", "2", "--max-age", "26h")
    assert too_old.code == 1
    assert too_old.out.splitlines()[-1].startswith("failed: newest object in t/b/ is ")
    plain = cli("status", "--depth", "2", "--max-age", "26h", "--json").json()["sets"]["triple"]
    assert [(group["prefix"], group["too_old"]) for group in plain["groups"]] == [("t/", False), ("t/b/", True)]
    assert cli("status", "nothing", "--max-age", "26h").code == 4
    assert cli("status", "nothing", "--max-age", "26h", "--allow-empty").code == 1
    assert cli("status", "--max-age", "soon").code == 2


def test_quiet_status_prints_problems_only(cli: Cli) -> None:
    """Cron mails problems only."""
    assert cli("status", "-q").out == ""
    (cli.home / "disk2/t/a").unlink()
    assert "incomplete: t/a (disk2: missing)" in cli("status", "-q").out


def test_an_object_deleted_while_a_disk_was_unreachable(cli: Cli) -> None:
    """`ls` does not list it; `ls -l` and `status` report the remaining copy as deleted elsewhere."""
    assert cli("rm", "t/a", env=cli.break_third()).code == 3
    listed = cli("ls")
    assert (listed.code, listed.out) == (3, "t/b/c\nt/b/d\n")
    [line] = [line for line in cli("ls", "-l").out.splitlines() if line.endswith("t/a")]
    assert line.split()[4:] == ["missing", "missing", "deleted", "elsewhere", "t/a"]
    done = cli("status")
    assert done.code == 3
    assert "incomplete: t/a (disk3: deleted elsewhere)" in done.out
    assert done.out.splitlines()[-1].startswith("degraded: 1 deleted object still stored on a backend.")
