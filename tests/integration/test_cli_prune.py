"""`fsbackup prune` as a real process: when it deletes and when it is a dry run, its output, its exit code."""

from __future__ import annotations

import os
import pty
import subprocess
from datetime import datetime
from pathlib import Path

import pytest

from tests.integration.cli_helpers import CONFIG, TIMEOUT, Cli
from tests.replication.prune_helpers import Disks, content, daily, drop
from tests.replication.raw_replicas import manifest_name

DISKS = ("disk1", "disk2", "disk3")
KEY, NEW = daily(0), daily(40)
SIZE = len(content(KEY))
#: What they are versions of, and what keeps how many.
SERIES = "db/{now:%Y-%m-%d}.gz"
RULES = "kept by max_age 1, keep_last 1"
#: The job that made them.
DAILY = '  daily: {source: {path: note}, destination: "db/{now:%Y-%m-%d}.gz", replication: triple}\n'


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Return the command line with three disks, the first two with a rule, and an old and a new object on all."""
    command = Cli(tmp_path)
    rule = "retention: {max_age: 30d}"
    text = CONFIG.replace("disk1}", f"disk1, {rule}}}").replace("disk2}", f"disk2, {rule}}}")
    (tmp_path / "fsbackup.yaml").write_text(f"{text}{DAILY}")
    disks = Disks(tmp_path, DISKS)
    disks.put(DISKS, KEY, 40)
    disks.put(DISKS, NEW, 0)
    return command


def today(cli: Cli) -> str:
    """Return when the first disk got the new object, as it is printed."""
    return f"{datetime.fromtimestamp((cli.home / 'disk1' / manifest_name(NEW)).stat().st_mtime):%Y-%m-%d %H:%M}"


def has(cli: Cli) -> list[bool]:
    """Tell which disks have the old object; all have the new one."""
    assert all(NEW in cli.stored(disk) for disk in DISKS)
    return [KEY in cli.stored(disk) for disk in DISKS]


def test_from_cron_it_deletes(cli: Cli) -> None:
    """A line with the reason for each deleted copy; a table; a verdict. The second time there is nothing to do."""
    done = cli("prune")
    assert (done.code, done.err) == (0, "")
    assert has(cli) == [False, False, True]
    lines = done.out.splitlines()
    why = "older than 30d (40d), a newer one of its series is kept; proven on disk3"
    assert sorted(lines[:2]) == [f"deleted  {KEY}: {disk}: {why}" for disk in DISKS[:2]]
    assert lines[3].split() == ["backend", "deleted", "kept", "freed", "location"]
    assert [line.split()[:5] for line in lines[4:7]] == [
        ["disk1", "1", "1", str(SIZE), "B"],
        ["disk2", "1", "1", str(SIZE), "B"],
        ["disk3", "0", "2", "0", "B"],
    ]
    assert lines[-1] == f"complete: 2 copies deleted ({2 * SIZE} B)"
    assert cli("status").code == cli("verify", "--deep").code == 0
    assert cli("ls").code == cli("stat", KEY).code == 0
    assert cli("ls", "-l").out.splitlines()[1].split()[4:] == ["expired", "expired", "present", KEY]
    assert cli("repair").out == "complete: 2 objects, every replica good; nothing to repair\n"
    assert cli("prune").out.splitlines()[-1] == "complete: 0 copies deleted (0 B)"
    assert cli("prune", "--quiet").out == ""


def test_a_dry_run_deletes_nothing(cli: Cli) -> None:
    """Also with --yes; it prints the command that deletes."""
    done = cli("prune", "--dry-run", "--yes", "db")
    assert done.code == 0
    assert has(cli) == [True, True, True]
    assert f"planned  {KEY}: disk1: older than 30d" in done.out
    assert done.out.splitlines()[-1] == (
        f"dry run: 2 copies would be deleted ({2 * SIZE} B); nothing was deleted. "
        "Next: `fsbackup prune db --set triple --yes` deletes them"
    )
    assert cli("prune", "--dry-run", "elsewhere").out.splitlines()[-1] == (
        "dry run: 0 copies would be deleted (0 B); nothing was deleted"
    )


@pytest.mark.parametrize("stream", ["stdin", "stdout", "stderr"])
def test_on_a_terminal_it_is_a_dry_run(cli: Cli, stream: str) -> None:
    """Whichever of its streams is the terminal, unless --yes is given."""
    assert "dry run: 2 copies would be deleted" in on_terminal(cli, stream)
    assert has(cli) == [True, True, True]
    assert "complete: 2 copies deleted" in on_terminal(cli, stream, "--yes")
    assert has(cli) == [False, False, True]


def on_terminal(cli: Cli, stream: str, *arguments: str) -> str:
    """Prune with one stream on a terminal, and return everything it prints."""
    terminal, other_end = pty.openpty()
    streams = {
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        stream: other_end,
    }
    with cli.started("prune", *arguments, **streams) as process:
        os.close(other_end)
        out = process.stdout.read() if process.stdout else b""
        shown = b""
        while piece := _read(terminal):
            shown += piece
        assert process.wait(TIMEOUT) == 0
    os.close(terminal)
    return (out + shown).decode()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # EIO: on Linux, the other end was closed
        return b""


def test_explain_one_key(cli: Cli) -> None:
    """Outcome and reason on each backend; nothing is deleted, and no other key is printed."""
    done = cli("prune", "--explain", KEY)
    assert (done.code, done.err) == (0, "")
    assert has(cli) == [True, True, True]
    why = "older than 30d (40d), a newer one of its series is kept; proven on disk3"
    assert done.out.splitlines() == [
        f"planned  {KEY}: disk1: {why}",
        f"planned  {KEY}: disk2: {why}",
        f"kept     {KEY}: disk3: no rule of this backend deletes anything",
        *(f"series   {SERIES}: {disk}: 2 members; newest {NEW} ({today(cli)}); {RULES}" for disk in DISKS[:2]),
    ]
    (cli.home / "disk1" / KEY).unlink()
    (cli.home / "disk1" / manifest_name(KEY)).unlink()
    assert cli("prune", "--explain", KEY).out.splitlines()[0] == f"-        {KEY}: disk1: no copy on this backend"
    kept = cli("prune", "--explain", NEW).out
    assert f"kept     {NEW}: disk2: not older than 30d (0d), the newest of its series" in kept
    found = cli("prune", "--explain", KEY, "--json").json()
    assert [(each["backend"], each["series"], each["members"]) for each in found["series"]] == [
        ("disk2", SERIES, 2)
    ]
    assert found["backends"]["disk2"]["series"] == SERIES
    assert {name: step and step["outcome"] for name, step in found["backends"].items()} == {
        "disk1": None,
        "disk2": "planned",
        "disk3": "kept",
    }
    unreachable = cli("prune", "--explain", KEY, env=cli.break_third())
    assert unreachable.code == 3
    assert "disk3: it cannot be listed: " in unreachable.out
    assert "disk3 should have it, but it cannot be listed" in unreachable.out
    config = cli.home / "fsbackup.yaml"
    config.write_text(config.read_text().replace(DAILY, ""))
    why = "no series: its key matches no job's destination with {now} and no `series`"
    assert f"kept     {KEY}: disk2: {why}\n" in cli("prune", "--explain", KEY).out


def test_explain_takes_one_existing_key(cli: Cli) -> None:
    """Exit code 4 if it does not exist; 2 for an illegal key and for options that it excludes."""
    missing = cli("prune", "--explain", "db/none")
    assert missing.code == 4
    assert "no such key on any backend" in missing.err
    assert cli("prune", "--explain", "a/../b").code == 2
    assert cli("prune", "db", "--explain", KEY).code == 2
    assert cli("prune", "--yes", "--explain", KEY).code == 2
    assert has(cli) == [True, True, True]


def test_json_lines(cli: Cli) -> None:
    """One line per deleted copy, with -v also per copy that is kept, and a summary."""
    dry = cli("prune", "--json", "--dry-run", "--verbose").lines()
    assert [line["kind"] for line in dry] == ["step"] * 6 + ["series"] * 2 + ["summary"]
    assert sorted(line["outcome"] for line in dry[:6]) == ["kept"] * 4 + ["planned"] * 2
    assert dry[6]["kept"] == {"max_age": 1, "keep_last": 1}
    assert dry[-1]["dry_run"] is True
    done = cli("prune", "--json")
    assert done.code == 0
    assert [line["kind"] for line in done.lines()] == ["step", "step", "summary"]
    step, _, summary = done.lines()
    assert (step["key"], step["outcome"], step["size"]) == (KEY, "deleted", SIZE)
    assert step["created_at"]
    assert step["reason"]
    assert (summary["status"], summary["dry_run"], summary["prefix"]) == ("complete", False, "")
    assert summary["backends"]["disk1"] == {"kept": 1, "deleted": 1, "bytes_freed": SIZE, "stopped": None}
    assert "steps" not in summary


def test_series_are_named(cli: Cli) -> None:
    """Members, newest, and how many each rule keeps; what has no series once, with the reason; nothing goes."""
    Disks(cli.home, DISKS).put(DISKS, "other/note", 90)
    lines = cli("prune", "--series").out.splitlines()
    assert lines[0].split() == ["series", "backend", "members", "newest", "kept", "by"]
    newest = today(cli)
    table = [f"{SERIES}  {disk}          2  {newest}  max_age 1, keep_last 1" for disk in DISKS[:2]]
    assert lines[1:3] == table
    why = "no series: its key matches no job's destination with {now} and no `series`"
    alone = f"kept: 1 on disk1, 1 on disk2: {why}"
    assert lines[3:] == ["", alone, "complete: 2 series, backend by backend"]
    dry = cli("prune", "--dry-run").out.splitlines()
    assert {*table, alone} < set(dry)
    found = cli("prune", "--series", "--json").lines()
    assert [line["kind"] for line in found] == ["series"] * 2 + ["without series"] * 2 + ["summary"]
    assert (found[0]["newest"], found[2]["objects"]) == (NEW, 1)
    assert has(cli) == [True, True, True]
    assert cli("prune", "--series", env=cli.break_third()).code == 3
    assert cli("prune", "--series", "db").code == 2


def test_a_dry_run_names_only_the_series_concerned(cli: Cli) -> None:
    """Not those of which all is kept."""
    disks = Disks(cli.home, DISKS)
    for disk in DISKS:
        drop(disks, disk)
    assert SERIES not in cli("prune", "--dry-run").out
    assert SERIES in cli("prune", "--series").out


def test_blocked_deletions_are_exit_code_3(cli: Cli) -> None:
    """The disk without retention is unreachable, or lacks the object; also printed with --quiet."""
    done = cli("prune", env=cli.break_third())
    assert done.code == 3
    assert has(cli) == [True, True, True]
    assert "disk3: nothing is deleted there: it cannot be listed: " in done.out
    assert done.out.splitlines()[-1] == (
        "degraded: 0 copies deleted (0 B); 2 copies blocked until the cause is fixed"
    )
    (cli.home / "disk3" / KEY).unlink()
    quiet = cli("prune", "--quiet")
    assert quiet.code == 3
    assert f"blocked  {KEY}: disk1: older than 30d" in quiet.out
    assert "disk3 should have it, but has no copy" in quiet.out
    assert cli("repair").code == 0
    assert cli("prune").code == 0
    assert has(cli) == [False, False, True]


def test_without_a_retention_it_is_wrong_usage(cli: Cli) -> None:
    """Exit code 2, and how to add one."""
    (cli.home / "fsbackup.yaml").write_text(CONFIG)
    done = cli("prune")
    assert done.code == 2
    assert "no backend has a retention" in done.err
    assert "retention: {max_age: 30d, keep_last: 7}" in done.err


def test_a_job_that_prunes(cli: Cli) -> None:
    """The prune is in its verdict, in its JSON and in its exit code."""
    config = cli.home / "fsbackup.yaml"
    text = config.read_text().replace(
        '"n/{name}", replication: triple', '"db/{name}/{now:%Y}", replication: triple, prune: true'
    )
    config.write_text(text)
    (cli.home / "disk3" / KEY).unlink()
    held = cli("run", "note")
    assert held.code == 3
    assert held.out.splitlines()[-1] == (
        "degraded: 1 file, 6 B; every replica confirmed by 3 backends; pruned: 0 copies deleted (0 B); 2 copies "
        "blocked until the cause is fixed; `fsbackup prune db --set triple --dry-run` prints the reasons"
    )
    assert cli("repair").code == 0
    done = cli("run", "note", "-v")
    assert done.code == 0
    assert done.out.splitlines()[-1] == (
        f"complete: 1 file already stored on 3 backends; nothing was sent; pruned: 2 copies deleted ({2 * SIZE} B)"
    )
    assert has(cli) == [False, False, True]
    job = cli("run", "note", "--json").lines()[-2]
    assert (job["kind"], job["prune"]["status"], job["prune"]["steps"]) == ("job", "complete", [])


def test_a_job_with_an_empty_source(cli: Cli) -> None:
    """It fails unless `allow_empty` is set."""
    config = cli.home / "fsbackup.yaml"
    config.write_text(config.read_text().replace("path: source/}", "path: source/, exclude: ['*']}"))
    assert cli("run", "tree").code == 1
    config.write_text(config.read_text().replace('"t/{relpath}", ', '"t/{relpath}", allow_empty: true, '))
    done = cli("run", "tree", "-v")
    assert done.code == 0
    assert done.out.splitlines()[-1] == "complete: the source is empty, which this job allows; nothing was sent"
    assert cli("run", "tree", "--dry-run").code == 0


def test_help(cli: Cli) -> None:
    """Its own help has examples, and the main page lists it."""
    assert "fsbackup prune backups/full --yes" in cli("prune", "--help").out.partition("examples:")[2]
    assert "  prune        delete from each backend" in cli("--help").out
