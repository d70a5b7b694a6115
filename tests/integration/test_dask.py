"""`verify` and `repair` over a real Dask cluster of processes, which know nothing but the configuration's path."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import distributed
import pytest
from distributed.protocol import pickle as wire

import fsbackup
from fsbackup import LocalStorage, ReplicatedStorage
from fsbackup.distributed import connect
from fsbackup.errors import ConfigError, ReplicationError
from fsbackup.loop import run
from fsbackup.replication import batches
from fsbackup.replication.batches import Fingerprint, check_same_storage
from fsbackup.replication.repair import RepairOptions, RepairReport, Step, repair, repair_with
from fsbackup.replication.verify import VerifyReport
from tests.integration.cli_helpers import wait_until
from tests.servers.endpoint import S3Endpoint, client, fresh_bucket
from tests.servers.faults import FaultProxy, Hold, Stall, fault_proxy
from tests.stuck_tasks import print_stuck_tasks

pytestmark = pytest.mark.matrix

SECRET_NAMES = ("DASK_TEST_KEY", "DASK_TEST_SECRET")
OBJECTS = 24
KEYS = [f"tree/{number:03}" for number in range(OBJECTS)]

CONFIG = """\
version: 1
backends:
  one: {{type: local, path: "{home}/one"}}
  two: {{type: local, path: "{home}/two"}}
  r2:
    type: s3
    bucket: {bucket}
    region: us-east-1
    endpoint_url: {endpoint}
    access_key_id: "${{DASK_TEST_KEY}}"
    secret_access_key: "${{DASK_TEST_SECRET}}"
    timeout: 60s
replication:
  triple: {{backends: [one, two, r2], min_copies: 2}}
"""


@dataclass(frozen=True)
class Setup:
    """A set in two directories and a bucket behind a proxy, its configuration, and a cluster that is there."""

    home: Path
    proxy: FaultProxy
    cluster: Any
    secrets: tuple[str, str]

    @property
    def config(self) -> Path:
        return self.home / "config.yaml"

    def store(self) -> ReplicatedStorage:
        return ReplicatedStorage.from_config(self.config, "triple", errors="raise")

    def verify(self, prefix: str = "", **options: Any) -> VerifyReport:
        """Verify on the cluster."""
        with connect(self.cluster.scheduler_address) as client:
            return self.store().verify(prefix, executor=client, **options)

    def repair(self, prefix: str = "", **options: Any) -> RepairReport:
        """Repair on the cluster."""
        with connect(self.cluster.scheduler_address) as client:
            return self.store().repair(prefix, executor=client, **options)

    def damage(self) -> None:
        """Make something wrong in each place."""
        (self.home / "one/tree/003").unlink()
        (self.home / "two/tree/015").write_bytes(b"rotten".ljust(1000))
        client(self.proxy.endpoint).delete_object(Bucket=self.proxy.endpoint.bucket, Key="tree/020")


@pytest.fixture(scope="module")
def servers(moto: S3Endpoint) -> Iterator[FaultProxy]:
    with fault_proxy(fresh_bucket(moto)) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def cluster(servers: FaultProxy) -> Iterator[Any]:
    """Two workers, processes started afresh; only they and this process have the secrets."""
    secrets = (servers.endpoint.access_key_id, servers.endpoint.secret_access_key)
    with (
        pytest.MonkeyPatch.context() as patch,
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            env=dict(zip(SECRET_NAMES, secrets, strict=True)),
        ) as made,
    ):
        for name, value in zip(SECRET_NAMES, secrets, strict=True):
            patch.setenv(name, value)
        yield made


@pytest.fixture
def setup(servers: FaultProxy, cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Setup]:
    """Return the set with objects everywhere, in batches of two."""
    monkeypatch.setattr(batches, "BATCH_KEYS", 2)
    endpoint = servers.endpoint
    text = CONFIG.format(home=tmp_path, bucket=endpoint.bucket, endpoint=endpoint.endpoint_url)
    (tmp_path / "config.yaml").write_text(text)
    (tmp_path / "source").write_bytes(b"x" * 1000)
    made = Setup(tmp_path, servers, cluster, (endpoint.access_key_id, endpoint.secret_access_key))
    stored = made.store().replicate_many([(tmp_path / "source", key) for key in KEYS], overwrite=True)
    assert [each for each in stored if each.report is None or each.report.status != "complete"] == []
    yield made
    servers.clear()
    for item in client(endpoint).list_objects_v2(Bucket=endpoint.bucket).get("Contents", []):
        client(endpoint).delete_object(Bucket=endpoint.bucket, Key=item["Key"])


def plain(report: Any) -> dict[str, Any]:
    """Return a report without its time."""
    return {name: value for name, value in report.as_dict().items() if name != "seconds"}


@pytest.mark.parametrize("deep", [False, True])
def test_verify_reports_the_same(setup: Setup, deep: bool) -> None:
    setup.damage()
    here: list[Any] = []
    there: list[Any] = []
    alone = setup.store().verify("tree", deep=deep, on_problem=here.append)
    on_cluster = setup.verify("tree", deep=deep, on_problem=there.append)
    assert on_cluster.found == 3
    assert plain(on_cluster) == plain(alone)
    assert {each.key for each in there} == {each.key for each in here} == {"tree/003", "tree/015", "tree/020"}


def test_repair_does_the_same_and_clears_up_once(setup: Setup) -> None:
    """Objects are mended by the workers; a leftover and an announcement without an object, once, from here."""
    setup.damage()
    abandoned = setup.home / "one" / "tree" / f".{'0' * 32}.fsbackup-tmp"
    abandoned.write_bytes(b"never finished")
    announced = setup.home / "one/.fsbackup/pending" / f"{'1' * 32}-{'0' * 32}"
    announced.parent.mkdir(parents=True, exist_ok=True)
    announced.write_bytes(b"{")
    targets, options = setup.store().replica_set, RepairOptions(deep=True, safe_age=0.0)
    planned = run(repair(targets, replace(options, dry_run=True)))
    steps: list[Step] = []
    with connect(setup.cluster.scheduler_address) as client:
        report = repair_with(client, (str(setup.config), "triple"), targets, options, steps.append)
    assert dict(report.done) == dict(planned.done) == {"refill": 3, "clear leftover": 2}
    assert (report.status, report.objects, report.unresolved) == ("complete", planned.objects, 0)
    assert len(steps) == len(report.steps) == 5
    assert {step.outcome for step in steps} == {"done"}
    assert not abandoned.exists()
    assert not announced.exists()
    assert setup.store().verify(deep=True).status == "complete"


def test_a_replica_that_is_away_is_known_to_all(setup: Setup) -> None:
    """It is found here, and no worker waits for it."""
    setup.proxy.add(Stall())
    text = setup.config.read_text()
    setup.config.write_text(text.replace("60s", "1s"))
    setup.proxy.forget()
    report = setup.verify("tree")
    assert (report.status, report.objects, report.found) == ("degraded", OBJECTS, 0)
    assert "no byte moved" in str(report.backends["r2"].error)
    assert setup.proxy.count() == 1


def test_threads_of_this_process_do_the_same(setup: Setup) -> None:
    """Any `concurrent.futures` executor will do."""
    setup.damage()
    alone = setup.store().verify("tree")
    with ThreadPoolExecutor(2) as executor:
        assert plain(setup.store().verify("tree", executor=executor)) == plain(alone)
        report = setup.store().repair("tree", deep=True, executor=executor)
    assert (report.status, dict(report.done)) == ("complete", {"refill": 3})


@contextmanager
def under_way(setup: Setup, key: str) -> Iterator[Any]:
    """Yield the future of a deep verification that is stuck reading one object while the block runs."""
    hold = setup.proxy.add(Hold(), on="get", key=key, times=1)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(lambda: setup.verify("tree", deep=True))
        try:
            hold.wait_reached(60)
            yield running
        finally:
            hold.release()


def test_a_worker_that_dies_costs_nothing(setup: Setup) -> None:
    """What it had in hand is done by another one; nothing is counted twice. Few batches are submitted ahead."""
    with under_way(setup, "tree/012") as running, distributed.Client(setup.cluster) as watcher:
        stuck: list[str] = []

        def is_alone() -> bool:
            """Tell whether the stuck worker is the only busy one: soon the other one may be, too."""
            stuck[:] = busy(watcher)
            return len(stuck) == 1

        wait_until(is_alone)
        assert len(setup.cluster.scheduler.tasks) <= 4
        pids = watcher.run(os.getpid)
        before = setup.proxy.count("get", "tree/012")
        os.kill(pids[stuck[0]], signal.SIGKILL)
        report = running.result(60)
    assert (report.problems, report.status, report.objects) == ((), "complete", OBJECTS)
    assert report.bytes_read == 3 * OBJECTS * 1000
    assert setup.proxy.count("get", "tree/012") > before


def busy(watcher: Any) -> list[str]:
    """Return the workers that have something in hand."""
    return [worker for worker, tasks in watcher.processing().items() if tasks]


def test_the_scheduler_gets_no_secret(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[bytes] = []
    submit = distributed.Client.submit

    def listening(self: Any, *arguments: Any, **options: Any) -> Any:
        sent.append(wire.dumps((arguments, options)))
        return submit(self, *arguments, **options)

    monkeypatch.setattr(distributed.Client, "submit", listening)
    assert setup.repair("tree", deep=True).status == "complete"
    assert len(sent) == OBJECTS // 2
    for secret in setup.secrets:
        assert not any(secret.encode() in each for each in sent)
    assert all(str(setup.config).encode() in each for each in sent)


def test_a_worker_without_the_configuration_is_named(setup: Setup) -> None:
    store = setup.store()
    setup.config.unlink()
    with (
        connect(setup.cluster.scheduler_address) as client,
        pytest.raises(ConfigError, match=r"worker .+:\d+: .*config\.yaml: No such file"),
    ):
        store.verify(executor=client)


def test_a_worker_without_the_secrets_is_named(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONLY_HERE", "x")
    setup.config.write_text(setup.config.read_text().replace("us-east-1", "${ONLY_HERE}"))
    with pytest.raises(ConfigError, match=r"(?s)worker .+:\d+: .*ONLY_HERE.*environment of every worker"):
        setup.verify()


def test_a_worker_with_another_disk_is_refused(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """An emptied place is refused at once; accepted, a bucket is what it is, and a disk may be another one."""
    monkeypatch.setattr(batches, "this_machine", lambda: "elsewhere/0")
    assert setup.verify().status == "complete"
    for item in client(setup.proxy.endpoint).list_objects_v2(Bucket=setup.proxy.endpoint.bucket)["Contents"]:
        client(setup.proxy.endpoint).delete_object(Bucket=setup.proxy.endpoint.bucket, Key=item["Key"])
    assert list(setup.repair().unreachable) == ["r2"]
    report = setup.repair(accept_empty=["r2"])
    assert (report.status, dict(report.done)) == ("complete", {"refill": OBJECTS})
    shutil.rmtree(setup.home / "two")
    assert list(setup.repair().unreachable) == ["two"]
    assert not (setup.home / "two").exists()
    with pytest.raises(ConfigError, match=r"two: .*/two seems to be other storage than on elsewhere: it is empty"):
        setup.repair(accept_empty=["two"])
    assert [path.name for path in (setup.home / "two").rglob("*") if path.is_file()] == ["backend"]


@pytest.mark.parametrize(
    ("there", "why"),
    [
        (Fingerprint("local", "/other/path", ("key",), "elsewhere/0"), "there it is /other/path"),
        (Fingerprint("local", "{base}", ("no/such/key",), "elsewhere/0"), "none of the objects listed"),
        (Fingerprint("local", "{base}", (), "elsewhere/0"), "it is empty"),
        (Fingerprint("more", "/x", (), "elsewhere/0"), "other backends"),
    ],
)
def test_other_storage_is_refused(tmp_path: Path, there: Fingerprint, why: str) -> None:
    disk = LocalStorage(tmp_path, errors="raise")
    (tmp_path / "source").write_bytes(b"x")
    there = replace(there, location=there.location.format(base=tmp_path))
    with pytest.raises(ConfigError, match=why):
        run(check_same_storage([disk.store], [there]))
    for same in (("gone", "source"), ("source",)):
        run(check_same_storage([disk.store], [Fingerprint("local", str(tmp_path), same, "elsewhere/0")]))


def test_a_set_without_a_configuration_cannot_be_sent(tmp_path: Path) -> None:
    store = ReplicatedStorage([LocalStorage(tmp_path)], errors="raise")
    with ThreadPoolExecutor(1) as executor, pytest.raises(ConfigError, match="from_config"):
        store.verify(executor=executor)


def test_where_there_is_no_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fsbackup.distributed._CONNECT", 1)
    with pytest.raises(ReplicationError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"):
        connect("tcp://127.0.0.1:9").__enter__()
    with pytest.raises(ConfigError, match="tcp://host:8786"):
        connect("nonsense://127.0.0.1:9").__enter__()


# --- the command --------------------------------------------------------------------------------------------


def command(setup: Setup, *arguments: str, before: str = "") -> list[str]:
    code = f"import sys\n{before}\nfrom fsbackup.cli import main\nsys.exit(main())"
    return [sys.executable, "-c", code, *arguments, "-c", str(setup.config)]


def environ() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(fsbackup.__file__).parents[1])}


def run_command(setup: Setup, *arguments: str, before: str = "") -> tuple[int, str, str]:
    words = command(setup, *arguments, before=before)
    try:
        done = subprocess.run(words, env=environ(), capture_output=True, text=True, check=False, timeout=60)
    except subprocess.TimeoutExpired:
        with distributed.Client(setup.cluster) as workers:
            print_stuck_tasks(workers)
        raise
    return done.returncode, done.stdout, done.stderr


def test_the_command_prints_the_same(setup: Setup) -> None:
    setup.damage()
    address = setup.cluster.scheduler_address
    for words in (["verify", "--deep"], ["repair", "--deep", "--dry-run"]):
        code, out, _ = run_command(setup, *words)
        there, on_cluster, errors = run_command(setup, *words, "--dask", address)
        assert (there, sorted(on_cluster.splitlines())) == (code, sorted(out.splitlines())), errors
        assert errors == ""
    assert code == 3


def test_without_the_extra_it_says_what_to_install(setup: Setup) -> None:
    code, _, errors = run_command(
        setup, "verify", "--dask", "tcp://127.0.0.1:9", before="sys.modules['distributed'] = None"
    )
    assert code == 2
    assert "pip install 'fsbackup[dask]'" in errors


def test_ctrl_c_takes_back_what_is_not_under_way(setup: Setup) -> None:
    hold = setup.proxy.add(Hold(), on="get", key="tree/", times=8)
    arguments = command(setup, "verify", "--deep", "--dask", setup.cluster.scheduler_address)
    with subprocess.Popen(arguments, env=environ(), stderr=subprocess.PIPE, text=True) as process:
        try:
            hold.wait_reached(60)
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130
        finally:
            process.kill()
            hold.release()
        assert process.stderr is not None
        assert "interrupted" in process.stderr.read()
    wait_until(lambda: not setup.cluster.scheduler.tasks)
