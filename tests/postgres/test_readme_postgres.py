"""The README's way from a running server to a drilled recovery, as it stands there."""

from __future__ import annotations

import sys

import pytest

from tests.integration.cli_helpers import wait_until
from tests.integration.test_readme import block_with, blocks
from tests.postgres.server import Home, Server, temporary_home
from tests.postgres.test_cli_wal import CONFIG

pytestmark = pytest.mark.matrix


def here(home: Home, text: str) -> str:
    """Return lines of the README with the places of the machine below a directory, where no user is needed."""
    for place in ("/etc/fsbackup", "/opt/fsbackup", "/var/lib/postgresql"):
        text = text.replace(place, f"{home.path}{place}")
    return text.replace("sudo ", "").replace("-o root -g postgres ", "")


def install(home: Home) -> None:
    """Have the configuration and the program where the README puts them; the program is the code under test."""
    (home.path / "configs").mkdir()
    (home.path / "configs/production.yaml").write_text(CONFIG.replace("path: ", f"path: {home.path}/"))
    _, configure = here(home, block_with("install -D")).splitlines()
    home.shell(configure)
    assert (home.path / "etc/fsbackup/config.yaml").stat().st_mode & 0o777 == 0o640
    (home.path / "var/lib/postgresql").mkdir(parents=True)
    program = home.path / "opt/fsbackup/bin/fsbackup"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m fsbackup "$@"\n')
    program.chmod(0o755)


def test_the_commands_of_the_readme_run_one_after_the_other() -> None:
    """On a server with the table that they ask for; the moment is one that can be recovered."""
    with temporary_home(CONFIG) as home:
        install(home)
        server = Server(home).create()
        with open(server.data / "postgresql.conf", "a") as file:
            file.write(here(home, *blocks("ini")))
        with server.running():
            server.sql("create database shop")
            orders = "create table orders (n int); insert into orders values (1)"
            home.run("psql", "-d", "shop", "-c", orders)
            server.switch()
            export, *lines = here(home, block_with("base-backup shop")).splitlines()
            backed_up = next(n for n, line in enumerate(lines) if "base-backup" in line) + 1
            home.shell(export, *lines[:backed_up])
            home.run("psql", "-d", "shop", "-c", "insert into orders values (2)")
            moment = server.sql("select clock_timestamp()")
            home.run("psql", "-d", "shop", "-c", "insert into orders values (3)")
            server.switch()
            for line in lines[backed_up:]:
                home.shell(export, line.replace("2026-11-29 18:30:00+00:00", moment))
        start, *look = here(home, block_with("pg_wal_replay_resume")).splitlines()
        restored = Server(home, "var/lib/postgresql/restored", port=5433)
        try:
            home.shell(start)
            wait_until(lambda: restored.sql("select pg_get_wal_replay_pause_state()") == "paused")
            said = [home.run("bash", "-euc", line).out for line in look]
            assert ["paused" in said[0], "\n     2\n" in said[1]] == [True, True]
            restored.wait_promoted()
        finally:
            restored.stop()
