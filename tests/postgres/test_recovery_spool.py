"""A real PostgreSQL whose spool is full, unwritable, a dead worker's or another cluster's; kills; and prune."""

from __future__ import annotations

import math
import os
import random
import re
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from fsbackup.postgres import spooled
from tests.integration.cli_helpers import is_running, wait_until
from tests.postgres.server import Home, Server, restored, temporary_home
from tests.postgres.test_cli_wal import CONFIG
from tests.postgres.test_spool import worker_of

pytestmark = pytest.mark.matrix


@pytest.fixture
def home() -> Iterator[Home]:
    """A directory in which two disks are the clouds, and the spool of the cluster is."""
    with temporary_home(CONFIG) as made:
        settings = f"patience: 0.1, workers: 2, spool: {made.path}/spool"
        config = CONFIG.replace("patience: 0.1", settings).replace("path: ", f"path: {made.path}/")
        (made.path / "fsbackup.yaml").write_text(config)
        (made.path / "spool").mkdir()
        yield made
        for worker in workers(made):
            os.kill(worker, signal.SIGKILL)


def workers(home: Home) -> list[int]:
    """Return the processes that archive or fetch ahead."""
    spool = home.path / "spool/shop"
    return [found for place in (spool, spool / "fetch") if (found := worker_of(place)) is not None]


def burst(server: Server) -> None:
    """Write some segments at once, and wait until all are archived."""
    server.insert(20_000)
    server.switch()


def archived(home: Home) -> Server:
    """Return a server that is running, with a base backup."""
    server = Server(home).create()
    server.start()
    server.insert(10)
    server.switch()
    home.fsbackup("base-backup", "shop")
    return server


def show_recovery(home: Home, server: Server, *, quiet: bool = True) -> None:
    """Stop the server, and see that everything that it has committed comes back."""
    server.stop()
    if quiet:
        assert "archive command failed" not in server.log
    assert home.fsbackup("pg-status", "shop").code == 0
    with (again := restored(home, "again")).running():
        again.wait_promoted()
        assert again.rows == server.committed


def test_a_full_spool_is_said_and_everything_is_archived_and_recovered(home: Home) -> None:
    """Each call sends its own file; when there is room again, a worker goes on."""
    home.small_disk = (home.path / "spool", 256 << 10)
    with (server := Server(home).create()).running():
        pid = (server.data / "postmaster.pid").read_text().split()[0]
        spool = Path(f"/proc/{pid}/root{home.path}/spool")
        filler = spool / "filler"
        while True:  # to the last byte
            try:
                with open(filler, "ab", buffering=0) as file:
                    file.write(bytes(4096))
            except OSError:
                break
        server.insert(10)
        server.switch()
        home.fsbackup("base-backup", "shop")
        burst(server)
        assert "No space left on device" in server.log
        filler.unlink()
        burst(server)
        assert (spool / "shop/worker.lock").exists()
        server.stop()
        show_recovery(home, server)


def test_a_spool_that_cannot_be_written_is_said_and_everything_is_archived_and_recovered(home: Home) -> None:
    """With what to look at, in PostgreSQL's log."""
    (home.path / "spool").chmod(0o500)
    server = archived(home)
    try:
        burst(server)
        assert f"spool: {home.path}/spool/shop: Permission denied: nothing is archived ahead" in server.log
        show_recovery(home, server)
    finally:
        server.stop("immediate")


@pytest.mark.parametrize("seed", range(2))
def test_what_workers_leave_that_are_killed_at_random_instants_loses_nothing(home: Home, seed: int) -> None:
    """Of those that archive ahead, and of those that fetch ahead; PostgreSQL sees no failure of either."""
    chance = random.Random(seed)
    server = archived(home)
    try:
        for _ in range(4):
            server.insert(8000)
            time.sleep(chance.uniform(0.0, 1.0))
            for worker in workers(home):
                os.kill(worker, signal.SIGKILL)
        server.switch()
        server.stop()
        again = restored(home, "again")
        again.set(recovery_target_action="promote")
        again.start(check=False)
        for _ in range(3):
            time.sleep(chance.uniform(0.0, 1.0))
            for worker in workers(home):
                os.kill(worker, signal.SIGKILL)
        again.wait_promoted()
        assert again.rows == server.committed
        again.stop()
    finally:
        server.stop("immediate")
    assert "archive command failed" not in server.log


def test_the_spool_of_another_cluster_is_not_believed(home: Home) -> None:
    """A new cluster under the old name, with words of the old one's segments: it is refused, and named."""
    server = archived(home)
    server.stop()
    spool = home.path / "spool/shop"
    for path in (server.data / "pg_wal").iterdir():
        if len(path.name) == 24:
            note = next((home.path / ".state/fsbackup/spools").iterdir())
            archive = note.read_text().split("\0")[2]
            spooled.confirm(str(spool), str(path), archive, spooled.fingerprint(str(path)))
    before = {path: path.read_bytes() for path in (home.path / "r2/pg/shop").rglob("*") if path.is_file()}
    other = Server(home, "other").create()
    try:
        other.start()
        other.insert(10)
        other.sql("select pg_switch_wal()")
        other.wait_for_log("this segment is of the cluster")
        assert other.sql("select archived_count from pg_stat_archiver") == "0"
    finally:
        other.stop("immediate")
    assert {path: path.read_bytes() for path in (home.path / "r2/pg/shop").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("seed", range(2))
def test_a_server_that_is_killed_at_random_instants_archives_every_segment_once(home: Home, seed: int) -> None:
    """With the pushes on their way; what it had handed on and not noted is handed on again."""
    chance = random.Random(seed)
    server = archived(home)
    for _ in range(3):
        server.insert(6000)
        time.sleep(chance.uniform(0.0, 1.5))
        pid = int((server.data / "postmaster.pid").read_text().split()[0])
        os.kill(pid, signal.SIGSTOP)  # it would start others in place of those that are killed
        killed = [*children(pid), *workers(home), pid]
        for each in killed:
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        wait_until(lambda those=killed: not any(map(is_running, those)))  # type: ignore[misc]
        for lock in (server.data / "postmaster.pid", *home.path.glob(".s.PGSQL.*")):
            lock.unlink(missing_ok=True)  # who has not been waited for yet looks alive to PostgreSQL
        server.start()
    server.switch()
    show_recovery(home, server, quiet=False)
    assert "other content" not in server.log


def children(pid: int) -> list[int]:
    """Return the processes below one, however deep."""
    parents = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(process.name)] = int((process / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found, level = [], [pid]
    while level := [child for child, parent in parents.items() if parent in level]:
        found += level
    return found


def test_prune_and_then_recovery_to_the_first_second_of_the_window(home: Home) -> None:
    """It is the end of the oldest base backup that is kept; what is earlier is refused, and gone."""
    config = home.path / "fsbackup.yaml"
    config.write_text(config.read_text().replace("patience", "retention: {window: 1s}, patience"))
    server = archived(home)
    try:
        burst(server)
        second = home.fsbackup("base-backup", "shop", "--json").json()
        at_its_end = server.committed
        wait_until(lambda: time.time() > math.ceil(datetime.fromisoformat(second["stopped_at"]).timestamp()) + 1)
        for _ in range(2):
            server.insert(50)
            server.switch()
        home.fsbackup("prune", "pg/shop/", "--set", "wal")
        kept = sorted(path.name for path in (home.path / "r2/pg/shop/wal").glob("?" * 24))
        assert kept[0] == second["first"]
        assert [path.name for path in (home.path / "b2/pg/shop/base").iterdir()] == [second["label"]]
    finally:
        server.stop()
    first = re.search("any archived commit from (.{25}) to", home.fsbackup("pg-status", "shop").out)
    assert first is not None
    early = datetime.fromisoformat(second["stopped_at"]) - timedelta(milliseconds=1)
    refused = home.fsbackup("pg-restore", "shop", "early", "--to", str(early), check=False)
    assert refused.code == 2
    assert "is outside of what can be recovered" in refused.err
    with (again := restored(home, "first", "--to", first[1])).running():
        again.wait_promoted()
        assert again.rows == at_its_end
