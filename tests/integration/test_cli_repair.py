"""`fsbackup repair` as a real process: its output as text and as JSON, its exit code."""

from __future__ import annotations

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


def damage(cli: Cli) -> None:
    """Delete one replica of an object, and damage a replica of another one."""
    (cli.home / "disk2/t/a").unlink()
    (cli.home / "disk3/t/b/c").write_bytes(b"b/c" * 99 + b"b!c")


def test_nothing_to_do(cli: Cli) -> None:
    """One line, and exit code 0."""
    done = cli("repair")
    assert (done.code, done.err) == (0, "")
    assert done.out == "complete: 3 objects, every replica good; nothing to repair\n"
    assert cli("repair", "--quiet").out == ""


def test_each_action_is_a_line_and_every_replica_is_good_afterwards(cli: Cli) -> None:
    """With action, replica and reason."""
    expected = cli.stored("disk1")
    damage(cli)
    done = cli("repair")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert len(lines) == 3
    assert any(line.startswith("done") and "t/a: disk2: refill: the copy is missing" in line for line in lines)
    assert any(line.startswith("done") and "t/b/c: disk3: refill: the copy is damaged" in line for line in lines)
    assert lines[-1] == "complete: 3 objects, every replica good; 2 copies refilled (400 B sent)"
    assert all(cli.stored(disk) == expected for disk in DISKS)
    assert cli("verify", "--deep").code == 0


def test_a_dry_run_changes_nothing(cli: Cli) -> None:
    """Exit code 3: something is to do."""
    damage(cli)
    before = {disk: cli.stored(disk) for disk in DISKS}
    done = cli("repair", "--dry-run", "t/a")
    assert done.code == 3
    assert done.out.startswith("planned     t/a: disk2: refill: the copy is missing")
    assert done.out.splitlines()[-1].startswith("dry run: 1 object examined; nothing was changed; to do: 1 copy")
    assert {disk: cli.stored(disk) for disk in DISKS} == before


def test_json_lines(cli: Cli) -> None:
    """One line per step, and a summary."""
    damage(cli)
    done = cli("repair", "--json", "--deep", "t")
    lines = done.lines()
    assert [line["kind"] for line in lines] == ["step", "step", "summary"]
    steps = {(line["key"], line["backend"]): line for line in lines[:-1]}
    assert steps["t/a", "disk2"]["action"] == "refill"
    assert steps["t/a", "disk2"]["outcome"] == "done"
    assert steps["t/b/c", "disk3"]["bytes_sent"] == 300
    summary = lines[-1]
    assert (summary["status"], summary["objects"], summary["done"]) == ("complete", 3, {"refill": 2})
    assert [summary[name] for name in ("unresolved", "under_replicated", "unrecoverable")] == [0, 0, 0]
    assert summary["unreachable"] == {}


def test_an_unreachable_disk_is_reported(cli: Cli) -> None:
    """Exit code 3, and the others are repaired; once it is reachable, the same command repairs the rest."""
    damage(cli)
    done = cli("repair", env=cli.break_third())
    assert done.code == 3
    assert "disk3: unreachable: " in done.out
    assert cli.stored("disk2") == cli.stored("disk1")
    assert cli("repair").code == 0
    assert cli.stored("disk3") == cli.stored("disk1")


def test_a_disk_that_is_away_does_not_fill_the_screen(cli: Cli) -> None:
    """Why it is away is printed for a few objects, not for all, and below the tables, not within them."""
    for number in range(5):
        (cli.home / f"source/more{number}").write_text("more")
    assert cli("run", "tree").code == 0
    third = cli.break_third()
    assert cli("repair", env=third).out.count("unresolved  ") == 3
    assert cli("repair", "--verbose", env=third).out.count("unresolved  ") == 8
    for command in ("status", "verify"):
        lines = cli(command, env=third).out.splitlines()
        assert [line.split(":")[:2] for line in lines if "is not a directory" in line] == [
            ["disk3", " unreachable"]
        ]
        assert any(line.startswith("disk3 ") and "  unreachable  " in line for line in lines)


def test_lost_objects_and_too_few_copies_are_1(cli: Cli) -> None:
    """Every copy of one object is damaged, and another has no manifest anywhere."""
    for disk in DISKS:
        (cli.home / disk / "t/a").write_bytes(b"?" * 100)
        (cli.home / disk / "bare").write_bytes(b"bare")
    done = cli("repair")
    assert done.code == 1
    assert "t/a: unrecoverable: no replica proves it any more" in done.out
    assert "bare: no manifest: no manifest proves it" in done.out
    assert done.out.splitlines()[-1].endswith(
        "; 2 objects with a bad or missing replica; 2 objects with fewer proven copies than min_copies; "
        "1 object unrecoverable"
    )
    assert all(cli.stored(disk)["t/a"] == b"?" * 100 for disk in DISKS)
    assert cli("repair", "bare", "--adopt").code == 0
    assert cli("get", "bare", "back").code == 0


def test_help(cli: Cli) -> None:
    """Its own help has examples, and the main page lists it."""
    assert "fsbackup repair backups/full --dry-run" in cli("repair", "--help").out.partition("examples:")[2]
    assert "  repair       restore missing" in cli("--help").out


def test_a_disk_that_is_not_mounted_is_refused_until_it_is_accepted_empty(cli: Cli) -> None:
    """Nothing lands on its mount point; every command goes on with the others, names it, and says what to do."""
    (cli.home / "disk3").rename(cli.home / "away")
    (cli.home / "disk3").mkdir()
    question = "is the disk mounted? is this the bucket?"
    for command in (("put", "note", "k"), ("run", "note"), ("status",), ("verify",), ("repair",)):
        done = cli(*command)
        assert done.code == 3, done
        assert "disk3" in done.out + done.err
        assert question in done.out + done.err
        assert "`fsbackup repair --accept-empty disk3`" in done.out + done.err
    (cli.home / "disk2").rename(cli.home / "away2")
    (cli.home / "disk2").mkdir()
    assert cli("get", "absent", "target").code == 1, "one of three is no quorum"
    (cli.home / "disk2").rmdir()
    (cli.home / "away2").rename(cli.home / "disk2")
    assert cli("doctor").code == 1
    assert list((cli.home / "disk3").iterdir()) == []
    done = cli("repair", "--accept-empty", "disk3")
    assert (done.code, done.out.splitlines()[-1].startswith("complete: 5 objects")) == (0, True), done
    assert cli.stored("disk3") == cli.stored("disk1")
    assert cli("put", "note", "k2").code == 0
    assert cli("get", "absent", "target").code == 4


def test_only_an_empty_backend_of_the_set_is_accepted(cli: Cli) -> None:
    """Wrong usage: exit code 2, and the names that there are."""
    done = cli("repair", "--accept-empty", "tape")
    assert (done.code, "there are: disk1, disk2, disk3" in done.err) == (2, True), done
    done = cli("repair", "--accept-empty", "disk1")
    assert (done.code, "'disk1' is not empty" in done.err) == (2, True), done
