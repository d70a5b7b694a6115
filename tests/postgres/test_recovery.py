"""A real PostgreSQL: archived to two places, restored to a moment and to the end, row by row as it was."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator

import pytest

from tests.postgres.server import Home, Server, temporary_home
from tests.postgres.test_cli_wal import CONFIG


@pytest.fixture
def home() -> Iterator[Home]:
    """A directory in which two disks are the clouds."""
    with temporary_home(CONFIG.replace("patience: 0.1", "patience: 0.1, compress: zstd")) as made:
        yield made


def test_recovery_to_a_moment(home: Home) -> None:
    """What was committed before it is there, row by row, and nothing after it; from the one disk that is left."""
    server = Server(home).create()
    with server.running():
        server.insert(100)
        server.switch()
        taken = home.fsbackup("base-backup", "shop", "--json").json()
        assert taken["status"] == "complete"
        server.insert(100)
        then, at_that_time = server.sql("select clock_timestamp()"), server.committed
        server.insert(100)
        newest = server.switch()
    status = home.fsbackup("pg-status", "shop", "--json").json()
    assert (status["status"], status["together"]["newest"]) == ("complete", newest)
    assert status["system_identifier"] == taken["system_identifier"]
    shutil.rmtree(home.path / "r2/pg/shop/wal")
    home.fsbackup("pg-restore", "shop", "then", "--to", then)
    assert server.secret == Server(home, "then").secret, "which pg_resetwal and initdb alone make anew"
    with (restored := Server(home, "then")).running():
        assert restored.rows == at_that_time
        assert restored.sql("select pg_is_in_recovery()") == "t"  # paused at the target, as by default


@pytest.mark.matrix
def test_a_quiet_cluster_is_recovered_to_each_end_of_its_window(home: Home) -> None:
    """A base backup that ends after the last commit does not divide it, and the listing cuts the last second."""
    server = Server(home).create()
    with server.running():
        server.insert(10)
        server.switch()
        first = home.fsbackup("base-backup", "shop", "--json").json()
        server.insert(10)
        then, at_that_time = server.sql("select clock_timestamp()"), server.committed
        server.insert(10)
        newest = server.switch()
        cut(home, newest)
        server.insert(10)
        second = home.fsbackup("base-backup", "shop", "--json").json()
        cut(home, second["last"])
    line = home.fsbackup("pg-status", "shop").out.splitlines()[-1]
    [window] = home.fsbackup("pg-status", "shop", "--json").json()["together"]["windows"]
    assert (window["base"], window["last"]) == (first["label"], second["last"])
    begin, end = re.findall(r"(\d\S+ [:0-9]+\S{6})", line)[:2]
    assert begin < end
    for name, to, rows in (("then", then, at_that_time), ("all", None, server.committed)):
        home.fsbackup("pg-restore", "shop", name, *(("--to", to) if to else ()))
        (restored := Server(home, name)).set(archive_mode="off", recovery_target_action="promote")
        with restored.running():
            restored.wait_promoted()
            assert restored.rows == rows
    home.fsbackup("pg-restore", "shop", "last", "--to", end)


def cut(home: Home, name: str) -> None:
    """Have a listing give whole seconds, as many services do."""
    for cloud in ("r2", "b2"):
        path = next((home.path / cloud / ".fsbackup/manifests/pg/shop/wal").glob(f"{name}*"))
        second = int(path.stat().st_mtime)
        os.utime(path, (second, second))
