"""A real PostgreSQL archived to two S3 servers, recovered while one is in trouble: exact, or it stops."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.integration.cli_helpers import wait_until
from tests.postgres.server import Home, Server, restored, temporary_home
from tests.servers.endpoint import S3Endpoint, fresh_bucket
from tests.servers.faults import Corrupt, Fault, FaultProxy, Hold, Refuse, Stall, Status, fault_proxy

pytestmark = pytest.mark.matrix

_FOR_WRITING = "database system is ready to accept connections"


@dataclass
class Sky:
    """Two buckets behind proxies, and what was archived there by a server that is stopped by now."""

    home: Home
    proxies: dict[str, FaultProxy]
    server: Server
    #: A moment, and the rows at that time.
    then: str = ""
    rows_then: tuple[str, ...] = ()
    #: Segments, in order.
    names: list[str] = field(default_factory=list)

    def configure(self, **settings: Any) -> None:
        """Write the configuration, with these settings of the cluster besides."""
        clouds = {name: {**proxy.endpoint.backend, "timeout": "2s"} for name, proxy in self.proxies.items()}
        shop = {"replication": "wal", "prefix": "pg/shop", "patience": 0.1, "workers": 2, **settings}
        sets = {"wal": {"backends": list(clouds), "min_copies": 1}}
        config = {"version": 1, "backends": clouds, "replication": sets, "postgres": {"shop": shop}}
        (self.home.path / "fsbackup.yaml").write_text(json.dumps(config))

    def archive(self) -> None:
        """Have the server write something, back it up, and write more."""
        with self.server.create().running():
            self.server.insert(10)
            self.server.switch()
            self.home.fsbackup("base-backup", "shop")
            for number in range(4):
                self.server.insert(50)
                if number == 1:
                    self.then, self.rows_then = self.server.sql("select clock_timestamp()"), self.server.committed
                    self.server.sql("select pg_create_restore_point('here')")
                self.names.append(self.server.switch())

    def clear(self) -> None:
        """Have everything answer again, and nobody remember that it did not."""
        for proxy in self.proxies.values():
            proxy.clear()
            proxy.cut_connections()
        shutil.rmtree(self.home.path / ".state/fsbackup", ignore_errors=True)


@pytest.fixture(scope="module")
def archived(moto: S3Endpoint, seaweedfs: S3Endpoint) -> Iterator[Sky]:
    """The archive, made once."""
    with ExitStack() as stack:
        home = stack.enter_context(temporary_home(""))
        places = {"r2": fresh_bucket(moto), "b2": fresh_bucket(seaweedfs)}
        proxies = {name: stack.enter_context(fault_proxy(place)) for name, place in places.items()}
        sky = Sky(home, proxies, Server(home))
        sky.configure()
        sky.archive()
        yield sky


@pytest.fixture
def sky(archived: Sky) -> Iterator[Sky]:
    """The archive, with every cloud well."""
    archived.clear()
    archived.configure()
    yield archived
    archived.clear()


@contextmanager
def recovered(sky: Sky, name: str, *more: str) -> Iterator[Server]:
    """Yield a server that has recovered, and was opened for writing."""
    with (server := restored(sky.home, name, *more)).running():
        server.wait_promoted()
        yield server


@pytest.mark.parametrize(
    "fault", [Stall(), Status(503, "SlowDown"), Refuse()], ids=["hangs", "answers 503", "refuses"]
)
def test_a_cloud_that_does_not_answer_ends_no_recovery(
    sky: Sky, fault: Fault, request: pytest.FixtureRequest
) -> None:
    """Without it nothing is proven absent, so recovery to the end stops; the other one is trusted by name only."""
    name = request.node.callspec.id.replace(" ", "-")
    sky.proxies["r2"].add(fault)
    doubtful = restored(sky.home, f"{name}-doubtful")
    doubtful.start(check=False)
    doubtful.wait_for_log("database system is shut down")
    assert _FOR_WRITING not in doubtful.log
    assert "too few answered" in doubtful.log
    with recovered(sky, f"{name}-trusting", "--trust", "b2") as server:
        assert server.rows == sky.server.committed


def test_an_empty_bucket_in_place_of_a_cloud_is_no_answer(sky: Sky, moto: S3Endpoint) -> None:
    """As after a mistake in the configuration: it says of nothing that it is absent."""
    with fault_proxy(fresh_bucket(moto)) as empty:
        whole = sky.proxies
        sky.proxies = {**whole, "r2": empty}
        try:
            sky.configure()
        finally:
            sky.proxies = whole
        doubtful = restored(sky.home, "empty-doubtful")
        doubtful.start(check=False)
        doubtful.wait_for_log("database system is shut down")
        assert _FOR_WRITING not in doubtful.log
        with recovered(sky, "empty-trusting", "--trust", "b2") as server:
            assert server.rows == sky.server.committed


@pytest.mark.parametrize(
    "fault", [Corrupt(at=5000), Status(404, "NoSuchKey")], ids=["wrong bytes", "denies what it has"]
)
def test_a_cloud_that_lies_is_found_out(sky: Sky, fault: Fault, request: pytest.FixtureRequest) -> None:
    """Segments come from the other one; nothing else is needed."""
    sky.proxies["r2"].add(fault, on="get", key="/wal/0000")
    if isinstance(fault, Status):
        sky.proxies["r2"].add(fault, on="head", key="/wal/0000")
    with recovered(sky, request.node.callspec.id.replace(" ", "-")) as server:
        assert server.rows == sky.server.committed
    assert fault.hits > 0


@pytest.mark.parametrize("spool", [False, True], ids=["each call its own", "fetched ahead"])
def test_an_outage_in_the_middle_of_recovery_stops_it(sky: Sky, *, spool: bool) -> None:
    """At the segment at which both go away; PostgreSQL is not opened, and goes on when it is started again."""
    if spool:
        sky.configure(spool=str(sky.home.path / "fetch-spool"))
    server = restored(sky.home, f"outage-{spool}")
    held = [proxy.add(Hold(), key=sky.names[2]) for proxy in sky.proxies.values()]
    starting = threading.Thread(target=server.start, kwargs={"check": False})
    starting.start()
    wait_until(lambda: any(each.hits for each in held))
    server.wait_for_log(f'restored log file "{sky.names[1]}"')
    for proxy in sky.proxies.values():
        proxy.add(Refuse())
        proxy.cut_connections()
    starting.join()
    server.wait_for_log("database system is shut down")
    assert _FOR_WRITING not in server.log
    sky.clear()
    with server.running():
        server.wait_promoted()
        assert server.rows == sky.server.committed


def test_recovery_to_a_moment_and_to_a_restore_point(sky: Sky) -> None:
    """The same rows: the point was made right after the moment."""
    with recovered(sky, "moment", "--to", sky.then) as server:
        assert server.rows == sky.rows_then
    server = restored(sky.home, "point")
    server.set(recovery_target_name="here")
    with server.running():
        server.wait_promoted()
        assert server.rows == sky.rows_then


def test_a_standby_that_archives_always_sends_nothing_again(sky: Sky) -> None:
    """`archive_mode = always`: it hands on each segment that it has fetched; that is success for each."""
    standby = restored(sky.home, "standby")
    (standby.data / "recovery.signal").unlink()
    (standby.data / "standby.signal").touch()
    standby.set(archive_mode="always")
    before = {name: proxy.count("put_object", "/wal/") for name, proxy in sky.proxies.items()}
    with standby.running():
        wait_until(lambda: standby.sql("select last_archived_wal from pg_stat_archiver") == sky.names[-1])
        wait_until(lambda: standby.rows == sky.server.committed)  # it is handed on before it is replayed
        assert standby.sql("select failed_count from pg_stat_archiver") == "0"
    assert {name: proxy.count("put_object", "/wal/") for name, proxy in sky.proxies.items()} == before
