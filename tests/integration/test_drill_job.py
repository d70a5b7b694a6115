"""`fsbackup drill JOB --restore-command`: the newest dump is restored, a program looks at it, and that is kept."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fsbackup import LocalStorage, clock
from fsbackup.cli import main
from fsbackup.config import load_config
from fsbackup.errors import ConfigError
from fsbackup.jobs import run_job
from fsbackup.jobs.drilling import drill_job

CONFIG = """
version: 1
state_dir: state
backends: {one: {type: local, path: one}, two: {type: local, path: two}}
replication: {both: {backends: [one, two], min_copies: 1}}
jobs:
  each:
    source: {for_each: [shop, crm], command: [sh, -c, 'echo "{item} of $$(cat day)"']}
    destination: "db/{item}/{now:%Y-%m-%d}.sql"
    compress: zstd
    replication: both
  plain: {source: {path: day}, destination: "plain", replication: both}
"""
NOW = datetime(2026, 3, 5, 2, tzinfo=UTC)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where a job has stored two dumps on each of three days."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fsbackup.yaml").write_text(CONFIG)
    config = load_config(tmp_path / "fsbackup.yaml")
    for day in range(3):
        (tmp_path / "day").write_text(f"day {day}")
        assert run_job(config, "each", now=NOW + timedelta(days=day)).status == "complete"
    return tmp_path


@pytest.fixture
def drill(home: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, Any]]:
    """Run the command, and return its exit code and what it says."""

    def drill(*words: str, options: tuple[str, ...] = ()) -> tuple[int, Any]:
        code = main(
            [
                "-c",
                str(home / "fsbackup.yaml"),
                "drill",
                "each",
                "--restore-command",
                "--json",
                *options,
                "--",
                *words,
            ]
        )
        out = capsys.readouterr().out
        return code, json.loads(out[out.index("{") :])  # after what other commands have said

    return drill


def status(home: Path, age: str) -> int:
    """Return the exit code of `status`."""
    return main(["-c", str(home / "fsbackup.yaml"), "status", "--drill-age", age, "--quiet"])


def test_the_newest_dump_is_restored(home: Path, drill: Callable[..., tuple[int, Any]]) -> None:
    """As it was before it was compressed, in a directory of its own, which is removed."""
    code, said = drill("sh", "-c", f'cat "$1" > {home}/seen; pwd > {home}/where', "sh", "{file}")
    assert (code, said["status"]) == (0, "complete")
    assert [each["key"] for each in said["dumps"]] == ["db/crm/2026-03-07.sql.zst"]
    assert said["dumps"][0]["size"] == len("crm of day 2\n")
    assert (home / "seen").read_text() == "crm of day 2\n"
    assert not Path((home / "where").read_text().strip()).exists()
    for backend in ("one", "two"):
        [kept] = (home / backend / ".fsbackup/drills/jobs/each").iterdir()
        assert kept.name.endswith("-ok.json")
        assert json.loads(kept.read_text())["command"][0] == "sh"


def test_paths_are_meant_from_where_the_user_is(home: Path, drill: Callable[..., tuple[int, Any]]) -> None:
    """The program runs in the temporary directory: nothing relative would be found there."""
    (home / "scratch").mkdir()
    script = home / "restore.sh"
    script.write_text(f'#!/bin/sh\ncat "$1" > {home}/seen\npwd > {home}/where\n')
    script.chmod(0o755)
    code, said = drill("./restore.sh", "{file}", options=("--directory", "scratch"))
    assert (code, said["dumps"][0]["problem"], said["command"][0]) == (0, None, "./restore.sh")
    assert (home / "seen").read_text() == "crm of day 2\n"
    assert Path((home / "where").read_text().strip()).parent == home / "scratch"
    assert list((home / "scratch").iterdir()) == []


@pytest.mark.parametrize(
    "options",
    [
        ("--sql", "select 1"),
        ("--expect", "1"),
        ("--to", "2026-03-05"),
        ("--database", "shop"),
        ("--user", "root"),
        ("--trust", "one"),
    ],
    ids=lambda options: str(options[0]),
)
def test_what_only_a_cluster_can_be_asked_is_refused(
    home: Path, drill: Callable[..., tuple[int, Any]], options: tuple[str, ...]
) -> None:
    """Nothing would ask it, and success would be taken for its answer."""
    code, said = drill("true", "{file}", options=options)
    assert (code, f"{options[0]} cannot be used with --restore-command" in said["error"]["message"]) == (2, True)
    assert not (home / "one/.fsbackup/drills").exists()


def test_only_a_job_has_several_dumps(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-c", str(home / "fsbackup.yaml"), "drill", "each", "--all"]) == 2
    assert "--all goes with --restore-command only" in capsys.readouterr().err


def test_each_item_can_be_drilled(drill: Callable[..., tuple[int, Any]]) -> None:
    """One that fails is named, and the others are looked at."""
    code, said = drill(
        "sh", "-c", 'grep -q shop "$1" || { echo no shop >&2; exit 3; }', "sh", "{file}", options=("--all",)
    )
    assert code == 1
    problems = {each["key"]: each["problem"] for each in said["dumps"]}
    assert problems["db/shop/2026-03-07.sql.zst"] is None
    assert problems["db/crm/2026-03-07.sql.zst"] == "sh: exit code 3, the dump was not restored: no shop"


def test_status_watches_jobs_that_were_drilled(
    home: Path, drill: Callable[..., tuple[int, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that never was is not asked for; a drill that failed is none."""
    assert status(home, "1d") == 0
    assert drill("false", "{file}")[0] == 1
    assert status(home, "1d") == 1
    assert drill("true", "{file}")[0] == 0
    assert status(home, "1d") == 0
    now = time.time
    monkeypatch.setattr(clock, "now", lambda: now() + 2 * 86400)
    assert status(home, "1d") == 1


def test_a_damaged_dump_fails_the_drill(home: Path, drill: Callable[..., tuple[int, Any]]) -> None:
    for backend in ("one", "two"):
        (home / backend / "db/crm/2026-03-07.sql.zst").write_bytes(b"rotten")
    code, said = drill("true", "{file}")
    assert code == 1
    assert "crm/2026-03-07" in said["dumps"][0]["problem"]


def test_no_dump_at_all_is_a_failure(home: Path, drill: Callable[..., tuple[int, Any]]) -> None:
    for backend in ("one", "two"):
        for key in ("shop", "crm"):
            for day in (5, 6, 7):
                assert LocalStorage(home / backend).delete(f"db/{key}/2026-03-0{day}.sql.zst")
    code, said = drill("true", "{file}")
    assert (code, said["dumps"]) == (1, [])


@pytest.mark.parametrize(
    ("job", "command", "message"),
    [
        ("each", ["pg_restore", "dump"], "does not say what to restore"),
        ("plain", ["cat", "{file}"], "its destination makes no versions"),
        ("none", ["cat", "{file}"], "no job is called 'none'"),
    ],
)
def test_what_cannot_be_drilled_is_said(home: Path, job: str, command: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        drill_job(load_config(home / "fsbackup.yaml"), job, command)
    assert not (home / "one/.fsbackup/drills").exists()
