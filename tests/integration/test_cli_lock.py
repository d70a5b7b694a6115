"""Two `fsbackup run` of one job: exit code 75, waiting for the other one, and what kill -9 leaves."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.integration.cli_helpers import TIMEOUT, Cli, wait_until


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Return the command line with a job `slow`, whose command ends when somebody has written to a FIFO."""
    made = Cli(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    command = ["sh", "-c", "touch started; cat fifo; rm started"]
    job = {"source": {"command": command}, "destination": "s", "replication": "triple", "overwrite": True}
    path = tmp_path / "fsbackup.yaml"
    path.write_text(f"{path.read_text()}  slow: {json.dumps(job)}\n")
    return made


def finish(cli: Cli) -> None:
    """Let the command of the job end."""
    (cli.home / "fifo").write_text("dump")


def test_a_second_run_ends_at_once(cli: Cli) -> None:
    """The other jobs run; after kill -9 of the first the next one starts."""
    with cli.started("run", "slow") as first:
        wait_until((cli.home / "started").exists)
        done = cli("run", "slow", "note")
        assert done.code == 75
        assert f"fsbackup: job slow is already running: process {first.pid} since 20" in done.err
        assert done.out.splitlines()[-1] == "slow: busy, note: complete"
        lines = cli("run", "slow", "--json").lines()
        assert (lines[-1]["status"], lines[0]["error"]["type"]) == ("busy", "AlreadyRunningError")
        assert cli("run", "slow", "--dry-run").code == 0
        first.kill()
        first.wait()
        finish(cli)
        wait_until(lambda: not (cli.home / "started").exists())
    with cli.started("run", "slow") as again:
        wait_until((cli.home / "started").exists)
        finish(cli)
        assert again.wait(TIMEOUT) == 0
    assert cli.stored("disk1")["s"] == b"dump"


def test_a_second_run_can_wait(cli: Cli) -> None:
    """For so long, and then it runs."""
    with cli.started("run", "slow") as first:
        wait_until((cli.home / "started").exists)
        assert cli("run", "slow", "--lock-wait", "1s").code == 75
        with cli.started("run", "slow", "-v", "--lock-wait", "1h") as second:
            assert second.stderr is not None
            assert f"already running: process {first.pid}".encode() in second.stderr.readline()
            finish(cli)
            assert first.wait(TIMEOUT) == 0
            wait_until((cli.home / "started").exists)
            finish(cli)
            assert second.wait(TIMEOUT) == 0
