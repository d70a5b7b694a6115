"""A real PostgreSQL whose standby is backed up, or whose settings a drill must have; and a drill that is ended."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.integration.cli_helpers import wait_until
from tests.postgres.server import Home, Server, restored, temporary_home
from tests.postgres.test_cli_wal import CONFIG

pytestmark = pytest.mark.matrix


@pytest.fixture
def home() -> Iterator[Home]:
    """A directory in which two disks are the clouds."""
    with temporary_home(CONFIG.replace("patience: 0.1", "patience: 0.1, compress: zstd")) as made:
        yield made


def has_restored(home: Home, name: str) -> bool:
    """Return whether the server of a drill has fetched a segment."""
    return any(f'restored log file "{name}"' in log.read_text() for log in home.path.glob("fsbackup-drill-*/log"))


def processes_in(beginning: Path) -> list[int]:
    """Return the processes whose directory, removed or not, has a path that begins so."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if os.readlink(process / "cwd").startswith(str(beginning)):
                found.append(int(process.name))
    return found


def test_a_base_backup_of_a_standby_recovers(home: Home) -> None:
    """To the end, on its own: it does not follow the primary, and a drill of it ends."""
    server, standby = Server(home).create(), Server(home, "standby", port=5433)
    with server.running():
        server.insert(100)
        server.switch()
        home.run("pg_basebackup", "-D", str(standby.data), "-R", "-c", "fast")
        standby.set(archive_mode="always")
        with standby.running():
            server.insert(100)
            wait_until(lambda: standby.rows == server.committed)
            config = home.path / "fsbackup.yaml"
            config.write_text(config.read_text().replace("patience", "conninfo: port=5433, patience"))
            with home.started("base-backup", "shop") as backup:
                wait_until(lambda: switched(server) and backup.poll() is not None)
            assert backup.returncode == 0, (home.path / "started.log").read_text()
        server.insert(100)
        server.switch()
        restored(home, "again")
        with (again := Server(home, "again", port=5434)).running():
            again.wait_promoted()
            assert again.rows == server.committed
            assert again.sql("show primary_conninfo") == ""
        wanted = ("--sql", "select count(*) from rows", "--expect", "= 300", "--timeout", "2m")
        assert home.fsbackup("drill", "shop", *wanted).code == 0


def switched(server: Server) -> bool:
    """Have what is written so far archived, as the base backup of a standby waits for it."""
    server.sql("select pg_switch_wal()")
    return True


def configure(server: Server, **settings: int) -> None:
    """Change settings in the file that a drill does not take; it takes those of `alter system`."""
    with open(server.data / "postgresql.conf", "a") as file:
        file.writelines(f"{name} = {value}\n" for name, value in settings.items())


def prepare(server: Server, first: int, last: int) -> None:
    """Leave transactions prepared, one for each number."""
    server.home.run(
        "psql",
        "-qAtX",
        *(
            word
            for number in range(first, last)
            for word in ("-c", f"begin; insert into orders values ({number}); prepare transaction 'n{number}'")
        ),
    )


def test_a_drill_has_what_the_old_server_had(home: Home) -> None:
    """The size of segments, and room for prepared transactions; where there is too little, PostgreSQL says so."""
    server = Server(home).create(segment_mib=64)
    configure(server, max_prepared_transactions=150, max_connections=130)
    with server.running():
        server.sql("create table orders (n int)")
        server.switch()
        home.fsbackup("base-backup", "shop")
        prepare(server, 0, 120)
        server.switch()
        query = ("--directory", str(home.path), "--sql", "select count(*) from pg_prepared_xacts", "--json")
        assert home.fsbackup("drill", "shop", *query).json()["answer"] == "120"
    configure(server, max_prepared_transactions=200)
    with server.running():
        prepare(server, 120, 180)
        server.switch()
        failed = home.fsbackup("drill", "shop", *query, check=False).json()
    assert failed["status"] == "failed"
    assert "FATAL:  maximum number of prepared transactions reached" in failed["problem"]
    assert "HINT:  Increase max_prepared_transactions" in failed["problem"]
    assert list(home.path.glob("fsbackup-drill-*")) == []


def test_a_drill_says_what_it_did_not_find(home: Home) -> None:
    """No commit after the base backup; none after the target."""
    server = Server(home).create()
    with server.running():
        server.insert(10)
        server.switch()
        home.fsbackup("base-backup", "shop")
        done = home.fsbackup("drill", "shop")
        assert "recovered; the WAL after it has no commit" in done.out
        server.insert(10)
        moment = server.sql("select clock_timestamp()")
        server.switch()
        assert "recovered up to the commit at 20" in home.fsbackup("drill", "shop").out
        late = home.fsbackup("drill", "shop", "--to", moment, check=False)
    assert late.code == 1
    assert "recovery ended before configured recovery target was reached" in late.out
    assert "no commit after that time is archived: choose an earlier one, or leave out --to" in late.out


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_drill_that_is_ended_leaves_nothing(home: Home, number: signal.Signals) -> None:
    """While recovery waits for a segment: no server, no `wal-fetch`, and no copy of the cluster."""
    server = Server(home).create()
    with server.running():
        server.insert(10)
        server.switch()
        home.fsbackup("base-backup", "shop")
        names = []
        for _ in range(3):
            server.insert(10)
            names.append(server.switch())
    config = home.path / "fsbackup.yaml"
    config.write_text(config.read_text().replace("patience: 0.1", "patience: 60"))
    for path in home.path.glob(f"?2/**/{names[1]}*"):
        path.unlink()
    with home.started("drill", "shop", "--directory", str(home.path)) as drill:
        wait_until(lambda: has_restored(home, names[0]))
        assert processes_in(home.path / "fsbackup-drill-") != []
        drill.send_signal(number)
        assert drill.wait(60) == (143 if number == signal.SIGTERM else 130)
    left = processes_in(home.path / "fsbackup-drill-")
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == []
    assert list(home.path.glob("fsbackup-drill-*")) == []
