"""The README's way from a running server to a drilled recovery, as it stands there."""

from __future__ import annotations

import pytest

from tests.integration.test_readme import block_with
from tests.postgres.server import Server, temporary_home
from tests.postgres.test_cli_wal import CONFIG

pytestmark = pytest.mark.matrix


def test_the_commands_of_the_readme_run_one_after_the_other() -> None:
    """On a server with the table that they ask for; the moment is one that can be recovered."""
    with temporary_home(CONFIG) as home:
        (home.path / "configs").mkdir()
        (home.path / "configs/production.yaml").write_text(
            CONFIG.replace("path: r2", f"path: {home.path}/r2").replace("path: b2", f"path: {home.path}/b2")
        )
        with (server := Server(home).create()).running():
            server.sql("create table orders (n int); insert into orders values (1)")
            server.sql("create database shop")
            server.switch()
            first, *rest = [line for line in block_with("base-backup shop").splitlines() if line]
            export, backup = first, rest.pop(0)
            home.shell(export, backup)
            server.sql("insert into orders values (2)")
            moment = server.sql("select clock_timestamp()")
            server.sql("insert into orders values (3)")
            server.switch()
            for line in rest:
                line = line.replace("2026-11-29 18:30:00+00:00", moment).replace("--database shop ", "")
                home.shell(export, line)
        with (restored := Server(home, "restored")).running():
            assert restored.sql("select count(*) from orders") == "2"
