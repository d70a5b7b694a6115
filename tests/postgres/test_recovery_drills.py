"""A real PostgreSQL whose standby is backed up."""

from __future__ import annotations

from collections.abc import Iterator

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
