"""The worker behind `wal-push`: what it leaves is believed for just what was confirmed."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fsbackup.loop import run
from fsbackup.postgres import background, spooled
from fsbackup.postgres.worker import Worker, ensure
from tests.integration.cli_helpers import Cli, wait_until
from tests.integration.test_cli_imports import loaded
from tests.postgres.segments import Clouds, name_of, segment
from tests.postgres.test_cli_wal import CONFIG

COMMAND = ("-c", "fsbackup.yaml", "wal-push")


@pytest.fixture
def cli(clouds: Clouds) -> Iterator[Cli]:
    """A configuration with a spool; the worker is ended after the test."""
    made = Cli(clouds.home)
    (clouds.home / "fsbackup.yaml").write_text(CONFIG.replace("patience: 0.1", "patience: 0.1, spool: spool"))
    yield made
    if worker := worker_of(clouds.home / "spool/shop"):
        os.kill(worker, signal.SIGKILL)


def worker_of(place: Path) -> int | None:
    """Return the process that holds the lock of a directory."""
    if not place.is_dir() or not spooled.is_locked(str(place)):
        return None
    return int((place / spooled.LOCK).read_text() or 0) or None


def ready(clouds: Clouds, *numbers: int) -> None:
    """Have PostgreSQL want segments archived."""
    (clouds.home / "pg_wal/archive_status").mkdir(parents=True, exist_ok=True)
    for number in numbers:
        clouds.file(name_of(number), segment(number))
        (clouds.home / "pg_wal/archive_status" / f"{name_of(number)}.ready").touch()


def work(clouds: Clouds, first: str = "") -> Path:
    """Let a worker do all there is to do; return its spool."""
    spool = clouds.home / "spool/shop"
    spool.mkdir(parents=True, exist_ok=True)
    run(Worker(clouds.archive, spool, clouds.home / "pg_wal", 2, first).run(idle=0.0 if first else 0.2))
    return spool


def take(clouds: Clouds, number: int, **other: object) -> bool:
    path = str(clouds.home / "pg_wal" / name_of(number))
    archive = (replace(clouds, **other).archive if other else clouds.archive).identity  # type: ignore[arg-type]
    return spooled.take(str(clouds.home / "spool/shop"), path, archive)


def test_what_is_ready_is_archived_ahead_and_said_once(clouds: Clouds) -> None:
    """Histories first; both clouds have it before there is any word of it."""
    ready(clouds, 1, 2, 3)
    spool = work(clouds)
    assert {path.name for path in spool.iterdir()} == {f"{name_of(number)}.ok" for number in (1, 2, 3)}
    assert {f"wal/{name_of(number)}" for number in (1, 2, 3)} < set(clouds.stored("b2"))
    assert take(clouds, 1)
    with pytest.raises(FileNotFoundError):
        take(clouds, 1)


def test_word_of_other_bytes_or_another_archive_is_not_believed(clouds: Clouds) -> None:
    """It is used up all the same: what is true will be said again."""
    ready(clouds, 1, 2)
    work(clouds)
    clouds.file(name_of(1), segment(1, body=b"of a second server"))
    assert not take(clouds, 1)
    assert not take(clouds, 2, min_copies=2)
    assert not any((clouds.home / "spool/shop").iterdir())


def test_what_was_not_confirmed_has_no_word(clouds: Clouds) -> None:
    """Neither while too few clouds answer, nor what is no segment; nor what a dead worker was sending."""
    clouds.push(9)
    both = replace(clouds, min_copies=2)
    ready(both, 1)
    both.take_away("b2")
    spool = work(both)
    (spool / f"{name_of(5)}.busy").touch()
    assert not spooled.is_confirmed(str(spool), name_of(1))
    both.bring_back("b2")
    clouds.file(name_of(1), b"no segment")
    work(both)
    assert list(spool.iterdir()) == []


def test_the_first_call_starts_a_worker_and_the_next_ones_find_its_word(cli: Cli, clouds: Clouds) -> None:
    """As PostgreSQL calls them, one after the other; a call that finds the word loads nothing."""
    ready(clouds, 1, 2, 3)
    spool = clouds.home / "spool/shop"
    assert cli(*COMMAND, f"pg_wal/{name_of(1)}", "--cluster", "shop").code == 0
    assert f"wal/{name_of(1)}" in clouds.stored("r2")
    wait_until(lambda: all(spooled.is_confirmed(str(spool), name_of(number)) for number in (2, 3)))
    assert spooled.is_locked(str(spool))
    for number in (2, 3):
        assert cli(*COMMAND, f"pg_wal/{name_of(number)}", "--cluster", "shop").code == 0
        assert not spooled.is_confirmed(str(spool), name_of(number))
    # Without a word of it a file is sent, and other content is refused, worker or not.
    clouds.file(name_of(2), segment(2, body=b"other"))
    assert cli(*COMMAND, f"pg_wal/{name_of(2)}", "--cluster", "shop").code == 1


def test_a_word_that_is_found_costs_no_import(clouds: Clouds, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither argparse nor the configuration; when that has changed, the call does it the long way."""
    home = clouds.home
    monkeypatch.setattr("os.environ", {"XDG_STATE_HOME": str(home), "PATH": "/bin", "HOME": str(home)})
    (home / "fsbackup.yaml").write_text(CONFIG)
    ready(clouds, 1, 2)
    words = ["-c", str(home / "fsbackup.yaml"), "wal-push", str(home / "pg_wal" / name_of(1)), "--cluster", "shop"]
    assert not spooled.pushed_before(words)
    spooled.write_note(words[1], "shop", str(work(clouds)), clouds.archive.identity)
    assert not spooled.pushed_before([*words, "-v"])
    assert spooled.pushed_before(words)
    assert not spooled.pushed_before(words)
    (home / "fsbackup.yaml").write_text(CONFIG + "# changed\n")
    assert not spooled.pushed_before([*words[:3], str(home / "pg_wal" / name_of(2)), *words[4:]])


@pytest.mark.parametrize("words", [["wal-push", "x"], ["wal-fetch", "0", "x"]])
def test_what_is_done_before_is_found_without_a_library(tmp_path: Path, words: list[str]) -> None:
    """Such a call takes as long as the interpreter's own start."""
    code = "import fsbackup.cli; from fsbackup.postgres.spooled import *; import os\n"
    code += f"    os.environ['FSBACKUP_CONFIG'] = 'x'; words = {[*words, '--cluster', 'shop']}\n"
    code += "    pushed_before(words) or fetched_before(words)"
    heavy = ("asyncio", "pydantic", "argparse", "typing", "json", "re", "hashlib", "contextlib", "collections")
    assert loaded(code, tmp_path, *heavy) == set()


def test_a_spool_that_cannot_be_made_is_said_and_the_file_is_archived(cli: Cli, clouds: Clouds) -> None:
    """By the call itself, with the reason: there is no log of a worker to look into."""
    ready(clouds, 1)
    (clouds.home / "spool").write_text("a file is in the way")
    done = cli(*COMMAND, f"pg_wal/{name_of(1)}", "--cluster", "shop")
    assert done.code == 0
    assert "check `spool` of postgres.shop" in done.err
    assert f"wal/{name_of(1)}" in clouds.stored("b2")


def test_a_spool_without_room_starts_no_worker(
    clouds: Clouds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It could leave no word, and its log could not say why: the call says so."""
    ready(clouds, 1)
    monkeypatch.setattr(background, "start", lambda *_: pytest.fail("a worker was started"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            ensure(clouds.archive, tmp_path / "spool/shop", "c", clouds.home / "pg_wal" / name_of(1), 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list((tmp_path / "spool/shop").iterdir()) == []


def start_worker(place: Path, work: str = "time.sleep(60)", calls: int = 1) -> bytes:
    """Have a process start workers of a directory, and return what it has printed when it has ended."""
    code = (
        "import time; from pathlib import Path; from fsbackup.postgres import background\n"
        "print('said once', end=' ')\n"
        f"for _ in range({calls}): background.start(lambda: print({work}), Path({str(place)!r}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=30)
    return done.stdout + done.stderr


def test_of_two_calls_at_once_one_starts_a_worker(tmp_path: Path) -> None:
    """Neither waits for it, and who waits for them does not; it ends when it is told to."""
    assert start_worker(tmp_path, calls=2) == b"said once "
    wait_until(lambda: worker_of(tmp_path))
    background.stop(tmp_path)
    assert not spooled.is_locked(str(tmp_path))
    background.stop(tmp_path)


def test_a_worker_that_fails_leaves_word_of_it(tmp_path: Path) -> None:
    """In its log, where who looks after the spool looks; and nothing holds its lock."""
    assert start_worker(tmp_path, "1 / 0") == b"said once "
    wait_until(lambda: not spooled.is_locked(str(tmp_path)))
    assert "ZeroDivisionError" in (tmp_path / background.LOG).read_text()
