"""A real PostgreSQL through outages, gaps, a new timeline and kills: recovery is exact, or it stops."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.cli_helpers import wait_until
from tests.postgres.segments import Clouds, name_of, segment
from tests.postgres.server import Home, Server, restored, temporary_home
from tests.postgres.test_cli_wal import CONFIG

pytestmark = pytest.mark.matrix


@pytest.fixture
def home() -> Iterator[Home]:
    """A directory in which two disks are the clouds."""
    with temporary_home(CONFIG) as made:
        yield made


@pytest.fixture
def archived(home: Home) -> tuple[Server, tuple[str, ...]]:
    """A server that was stopped, with a base backup and later segments in its archive; and its rows."""
    server = Server(home).create()
    with server.running():
        server.insert(10)
        server.switch()
        home.fsbackup("base-backup", "shop")
        for _ in range(4):
            server.insert(50)
            server.switch()
        return server, server.committed


def away(home: Home, cloud: str) -> None:
    """Have one of the disks answer with errors."""
    (home.path / cloud).rename(home.path / f"{cloud}-away")
    (home.path / cloud).touch()


def back(home: Home, cloud: str) -> None:
    (home.path / cloud).unlink()
    (home.path / f"{cloud}-away").rename(home.path / cloud)


def test_a_drill_shows_the_rows_and_is_kept(home: Home, archived: tuple[Server, tuple[str, ...]]) -> None:
    """To the end of the WAL; a wrong answer is a failure. What it starts archives nothing."""
    _, rows = archived
    segments = sorted((home.path / "r2/pg/shop/wal").iterdir())
    query = ("--directory", str(home.path), "--sql", "select count(*) from rows")
    report = home.fsbackup("drill", "shop", *query, "--expect", f"= {rows[0]}", "--json").json()
    assert (report["status"], report["answer"]) == ("complete", rows[0])
    assert report["recovered_to"] is not None
    assert home.fsbackup("status", "--drill-age", "1d", check=False).code == 0
    assert home.fsbackup("drill", "shop", *query, "--expect", "> 1000000", check=False).code == 1
    assert list(home.path.glob("fsbackup-drill-*")) == []
    assert sorted((home.path / "r2/pg/shop/wal").iterdir()) == segments


def test_the_end_of_the_wal_is_reached_with_one_cloud_gone(
    home: Home, archived: tuple[Server, tuple[str, ...]]
) -> None:
    """Only `--trust`, by name, says that there is no more where one cloud alone says so."""
    _, rows = archived
    away(home, "b2")
    doubtful = restored(home, "doubtful")
    assert doubtful.start(check=False).code != 0
    assert "too few answered" in doubtful.log
    with (trusting := restored(home, "trusting", "--trust", "r2")).running():
        trusting.wait_promoted()
        assert trusting.rows == rows


def test_an_outage_in_the_middle_stops_recovery_and_it_goes_on_afterwards(
    home: Home, archived: tuple[Server, tuple[str, ...]]
) -> None:
    """PostgreSQL ends with an error, and is not opened with what it had."""
    _, rows = archived
    server = restored(home, "again")
    for cloud in ("r2", "b2"):
        away(home, cloud)
    assert server.start(check=False).code != 0
    assert "database system is ready to accept connections" not in server.log
    back(home, "r2")
    assert server.start(check=False).code != 0
    back(home, "b2")
    with server.running():
        server.wait_promoted()
        assert server.rows == rows


def test_a_worker_archives_ahead_and_everything_is_there(home: Home) -> None:
    """A burst of segments; PostgreSQL's log has no failure of the archiver, and recovery is exact."""
    config = home.path / "fsbackup.yaml"
    config.write_text(CONFIG.replace("patience: 0.1", f"patience: 0.1, spool: {home.path}/spool, workers: 3"))
    with (server := Server(home).create()).running():
        server.insert(10)
        server.switch()
        home.fsbackup("base-backup", "shop")
        server.insert(40_000)  # a dozen segments
        server.switch()
        rows = server.committed
    assert "archive command failed" not in server.log
    assert home.fsbackup("pg-status", "shop").code == 0
    with (again := restored(home, "again")).running():
        again.wait_promoted()
        assert again.rows == rows


@pytest.mark.usefixtures("archived")
def test_a_gap_is_named_and_recovery_does_not_end_there(home: Home) -> None:
    """The segment is missing on both; pg-status says which."""
    server = restored(home, "gap")
    names = sorted(path.name for path in (home.path / "r2/pg/shop/wal").iterdir() if len(path.name) == 24)
    for cloud in ("r2", "b2"):
        for place in (".", ".fsbackup/manifests"):
            (home.path / cloud / place / "pg/shop/wal" / names[-2]).unlink()
    status = home.fsbackup("pg-status", "shop", check=False)
    assert status.code == 1
    assert f"gap: {names[-2]} missing" in status.out
    server.start(check=False)  # it may take connections that only read, up to the gap
    server.wait_for_log(f"{names[-2]} is missing")
    server.wait_for_log("database system is shut down")
    assert "database system is ready to accept connections" not in server.log


def test_a_cluster_with_tablespaces_is_not_backed_up_and_not_recovered_beside_itself(home: Home) -> None:
    """Recovery of one that was made after the base backup would write into the running cluster's own files."""
    place = home.path / "fast"
    place.mkdir()
    with (server := Server(home).create()).running():
        server.insert(10)
        server.switch()
        server.sql(f"create tablespace fast location '{place}'")
        refused = home.fsbackup("base-backup", "shop", check=False)
        assert refused.code == 1
        assert f"fast ({place}); nothing was stored" in refused.err
        assert not (home.path / "r2/pg/shop/base").exists()
        server.sql("drop tablespace fast")
        home.fsbackup("base-backup", "shop")
        server.sql(f"create tablespace fast location '{place}'")
        server.sql("create table quick (n int) tablespace fast; insert into quick values (1)")
        server.switch()
        for command in (("drill", "shop"), ("pg-restore", "shop", "again")):
            done = home.fsbackup(*command, check=False)
            assert done.code == 2
            assert f"into which recovery would write: fast ({place})" in done.err
        assert not (home.path / "again").exists()
        assert server.sql("select n from quick") == "1"


def test_recovery_follows_a_new_timeline(home: Home, archived: tuple[Server, tuple[str, ...]]) -> None:
    """A restored server goes on archiving: from the old base backup to what it wrote."""
    old, rows = archived
    server = restored(home, "second")
    server.set(archive_mode="on")
    server.ledger = list(old.ledger)
    with server.running():
        server.wait_promoted()
        server.insert(70)
        moment, between = server.sql("select clock_timestamp()"), server.committed
        server.insert(30)
        at_the_end = server.committed
        server.switch()
    status = home.fsbackup("pg-status", "shop", "--json").json()
    assert status["status"] == "complete"
    assert set(status["together"]["timelines"]) == {"1", "2"}
    for name, more, expected in (("end", (), at_the_end), ("between", ("--to", moment), between)):
        with (again := restored(home, name, *more)).running():
            again.wait_promoted()
            assert again.rows == expected
    assert rows != between != at_the_end
    # The one that was left behind writes other content under a name of its own timeline: nothing of it is lost.
    with old.running():
        old.insert(10)
        old.switch()
    assert home.fsbackup("pg-status", "shop", check=False).code == 0


def test_a_restored_server_that_stays_on_the_same_timeline_cannot_overwrite(
    home: Home, archived: tuple[Server, tuple[str, ...]]
) -> None:
    """A copy of the data directory is a second primary of the timeline: exactly one of the two is archived."""
    server, _ = archived
    shutil.copytree(server.data, home.path / "copy", symlinks=True)
    with server.running():
        server.insert(10)
        name = server.switch()
    copy = Server(home, "copy")
    with copy.running():
        copy.insert(20)
        copy.sql("select pg_switch_wal()")
        copy.wait_for_log(f"other content under {name}")
    first = (home.path / "r2/pg/shop/wal" / name).read_bytes()
    assert (home.path / "b2/pg/shop/wal" / name).read_bytes() == first


def test_two_primaries_of_one_timeline_at_once(home: Home, archived: tuple[Server, tuple[str, ...]]) -> None:
    """Both hand on each segment at the same time; both clouds have one of the two, and the same one."""
    server, _ = archived
    shutil.copytree(server.data, home.path / "copy", symlinks=True)
    copy = Server(home, "copy", port=5433)
    with server.running(), copy.running():
        for each in (server, copy, server, copy):
            each.insert(20)
            each.sql("select pg_switch_wal()")
        wait_until(lambda: "other content under" in server.log + copy.log)
        [loser] = [each for each in (server, copy) if "other content under" in each.log]
        wait_until(lambda: loser.sql("select failed_count > 0 from pg_stat_archiver") == "t")
    wal = {path.name: path.read_bytes() for path in (home.path / "r2/pg/shop/wal").iterdir()}
    assert wal == {path.name: path.read_bytes() for path in (home.path / "b2/pg/shop/wal").iterdir()}


@pytest.mark.parametrize("seed", range(3))
def test_a_push_that_is_killed_at_any_instant_is_finished_by_the_next(tmp_path: Path, seed: int) -> None:
    """The repetition is success, and both clouds have the whole segment."""
    clouds, chance = Clouds(tmp_path), random.Random(seed)
    home = Home(tmp_path)
    (tmp_path / "fsbackup.yaml").write_text(CONFIG)
    for number in range(1, 6):
        path = clouds.file(name_of(number), segment(number, body=chance.randbytes(900_000)))
        command = home.command("wal-push", str(path), "--cluster", "shop")
        with subprocess.Popen(command, env=home.environ, cwd=tmp_path) as process:
            time.sleep(chance.uniform(0.1, 0.6))
            process.send_signal(signal.SIGKILL)
        assert home.fsbackup("wal-push", str(path), "--cluster", "shop").code == 0
        for cloud in ("r2", "b2"):
            assert clouds.stored(cloud)[f"wal/{path.name}"] == path.read_bytes()
    assert home.fsbackup("verify", "--deep").code == 0
