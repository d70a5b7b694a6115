"""One run of a job at a time: who gets the lock, who waits for it, and who is told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fsbackup.config import Config, parse_config
from fsbackup.errors import AlreadyRunningError
from fsbackup.jobs import run_job
from fsbackup.state import run_lock, state_directory


def config(tmp_path: Path, disk: str = "disk", state: str = "state") -> Config:
    """Return a configuration with the jobs `j` and `k` of one file."""
    (tmp_path / "note").write_text("x")
    job = "{source: {path: note}, destination: %s, replication: s}"
    return parse_config(
        f"version: 1\nstate_dir: {state}\nbackends: {{d: {{type: local, path: {disk}}}}}\n"
        f"replication: {{s: {{backends: [d]}}}}\njobs: {{j: {job % 'a'}, k: {job % 'b'}}}\n",
        directory=tmp_path,
    )


def test_a_second_run_is_told_who_runs(tmp_path: Path) -> None:
    """And stores nothing; another job, and a job of the same name to another place, run beside it."""
    run_job(config(tmp_path), "j")
    [lock] = (tmp_path / "state/locks").iterdir()
    with run_lock(tmp_path / "state", lock.stem, "job j"):
        with pytest.raises(
            AlreadyRunningError, match=f"job j is already running: process {os.getpid()} since 20.*-wait"
        ):
            run_job(config(tmp_path), "j")
        assert run_job(config(tmp_path), "k").status == "complete"
        assert run_job(config(tmp_path, disk="other"), "j").status == "complete"
    assert run_job(config(tmp_path), "j").status == "complete"


def test_a_lock_is_free_after_an_error(tmp_path: Path) -> None:
    """However the block ends."""
    with pytest.raises(KeyError), run_lock(tmp_path, "x", "x"):
        raise KeyError
    with run_lock(tmp_path, "x", "x"):
        pass


def test_a_commands_children_do_not_hold_the_lock(tmp_path: Path) -> None:
    """What a job starts may go on for longer than the job."""
    with run_lock(tmp_path, "x", "x"):
        pipe = os.popen("sleep 1000 & echo $!")
        child = int(pipe.readline())
    try:
        with run_lock(tmp_path, "x", "x"):
            pass
    finally:
        os.kill(child, 9)
        pipe.close()


def test_without_a_place_for_locks_the_job_runs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A backup is worth more than a lock; it is said each time."""
    (tmp_path / "state").write_text("no directory")
    assert run_job(config(tmp_path), "j").status == "complete"
    assert "job j runs without a lock: " in caplog.text


def test_where_state_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """As configured; else by the XDG variable, if it is absolute; else by user."""
    assert state_directory("/x") == Path("/x")
    monkeypatch.setenv("XDG_STATE_HOME", "/s")
    assert state_directory() == Path("/s/fsbackup")
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert state_directory() == Path("/var/lib/fsbackup")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert state_directory() == Path("/home/me/.local/state/fsbackup")
