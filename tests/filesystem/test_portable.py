"""Other processes: pickles, JSON and graphs carry the configuration's path and no secret; fork and spawn work."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import secrets
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import fsspec
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from fsbackup.errors import ConfigError
from fsbackup.filesystem import FsbackupFileSystem
from tests.filesystem.configured_set import ROOT, ConfiguredSet
from tests.matrix import matrix
from tests.replication.rig import MIB, content
from tests.servers.faults import Corrupt, Drop, Fault, Refuse
from tests.stuck_tasks import print_stuck_tasks

if TYPE_CHECKING:
    from distributed import Client


@pytest.fixture
def path() -> str:
    return f"{ROOT}/{secrets.token_hex(4)}/data.bin"


def _cat(fs: FsbackupFileSystem, path: str) -> bytes:
    data: bytes = fs.cat_file(path)
    return data


@pytest.mark.parametrize("method", ["fork", "spawn", matrix("forkserver")])
@pytest.mark.filterwarnings("ignore:This process")
def test_other_processes(buckets: ConfiguredSet, path: str, method: str) -> None:
    """A filesystem used here works there, for every start method."""
    fs = buckets.fs()
    fs.pipe_file(path, b"day")
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply(_cat, (fs, path)) == b"day"


def test_inherited_by_a_fork(buckets: ConfiguredSet, path: str) -> None:
    """The same object as in the parent, not a copy."""
    fs = buckets.fs()
    fs.pipe_file(path, b"day")
    child = os.fork()
    if not child:
        os._exit(0 if fs.cat_file(path) == b"day" and fs.exists(path) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert fs.cat_file(path) == b"day"


@pytest.mark.filterwarnings("ignore:This process")
def test_a_fork_while_threads_are_at_work(disks: ConfiguredSet, path: str) -> None:
    """What they hold or wait for at that moment has nobody in the child who would release or answer it."""
    fs, data, done = disks.fs(), content(2 * MIB), threading.Event()
    fs.pipe_file(path, data)

    def work(each: Callable[[], object]) -> None:
        while not done.is_set():
            each()

    def look_up() -> None:
        fs.invalidate_cache()
        fs.cat_file(path, 0, 9)

    with ThreadPoolExecutor(3) as threads:
        works: list[Callable[[], object]] = [
            look_up,
            partial(fs.pipe_file, f"{path}.large", content(40 * MIB)),
            partial(fs.info, path),
        ]
        working = [threads.submit(work, each) for each in works]
        try:
            codes = [_exit_code(partial(_copy, fs, path, f"{path}.{number}")) for number in range(10)]
        finally:
            done.set()
        assert [each.result() for each in working] == [None] * len(works)
    assert codes == [0] * len(codes)
    assert fs.cat_file(f"{path}.0") == data


def _copy(fs: FsbackupFileSystem, path: str, target: str) -> None:
    fs.pipe_file(target, _cat(fs, path))


def _exit_code(work: Callable[[], object]) -> int:
    """Return that of a forked child that does some work; one that does not end is ended by a signal."""
    if not (child := os.fork()):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(20)
        try:
            work()
        except BaseException:  # noqa: BLE001 - printed, and seen by the parent as a code
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_no_secret_leaves(buckets: ConfiguredSet, path: str) -> None:
    """Neither the filesystem, an open file nor a dask graph contains one."""
    import dask.dataframe as dd

    fs = buckets.fs()
    fs.pipe_file(path, b"a,b\n1,2\n")
    table = dd.read_csv(f"fsbackup://{path}", storage_options=buckets.options)
    with fs.open(path) as file:
        texts = [
            pickle.dumps(fs),
            fs.to_json().encode(),
            repr(fs).encode(),
            pickle.dumps(file),
            pickle.dumps(table.optimize().__dask_graph__()),
            json.dumps(fs.storage_options).encode(),
        ]
        for secret in buckets.secrets:
            assert not [each for each in texts if secret.encode() in each]
        assert pickle.loads(texts[3]).read() == b"a,b\n1,2\n"
    assert fs.storage_options == {"config": str(buckets.config)}
    assert fsspec.AbstractFileSystem.from_json(fs.to_json()).cat_file(path) == b"a,b\n1,2\n"


def test_a_file_sent_elsewhere_is_the_same_version(disks: ConfiguredSet, path: str) -> None:
    """After the object was replaced the file cannot be opened there."""
    fs = disks.fs()
    fs.pipe_file(path, b"old")
    with fs.open(path) as file:
        sent = pickle.dumps(file)
    fs.pipe_file(path, b"new")
    with pytest.raises(OSError, match="replaced"):
        pickle.loads(sent)


def test_tokens_are_the_same_in_every_process(disks: ConfiguredSet) -> None:
    """dask compares tasks by them."""
    from dask.base import tokenize

    fs = disks.fs()
    there = subprocess.run(
        [sys.executable, "-c", "import sys, fsspec; from dask.base import tokenize;"
         "print(tokenize(fsspec.filesystem('fsbackup', config=sys.argv[1])))", str(disks.config)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert there.stdout.strip() == tokenize(fs) == tokenize(disks.fs())
    assert fs == disks.fs()
    assert hash(fs) == hash(disks.fs())


def test_where_the_configuration_comes_from(
    disks: ConfiguredSet, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An option, fsspec's own configuration, the environment; an error names the file that was not found."""
    disks.fs().pipe_file(path, b"day")
    monkeypatch.setenv("FSBACKUP_CONFIG", str(disks.config))
    fs = fsspec.filesystem("fsbackup", skip_instance_cache=True)
    assert fs.cat_file(path) == b"day"
    assert fs.storage_options["config"] == str(disks.config)
    monkeypatch.delenv("FSBACKUP_CONFIG")
    monkeypatch.setitem(fsspec.config.conf, "fsbackup", {"config": str(disks.config)})
    assert fsspec.filesystem("fsbackup", skip_instance_cache=True).cat_file(path) == b"day"
    monkeypatch.delitem(fsspec.config.conf, "fsbackup")
    monkeypatch.setenv("FSBACKUP_CONFIG", "/nowhere.yaml")
    with pytest.raises(ConfigError, match=r"/nowhere\.yaml"):
        fsspec.filesystem("fsbackup", skip_instance_cache=True)


def test_a_misspelt_option_opens_no_other_configuration(
    disks: ConfiguredSet, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused, and the error lists the options; fsspec's general ones are accepted."""
    monkeypatch.setenv("FSBACKUP_CONFIG", "/nowhere.yaml")
    with pytest.raises(TypeError, match="has no option 'confg'; it takes config, cache_size"):
        pd.read_csv(f"fsbackup://{path}", storage_options={"confg": str(disks.config)})
    disks.fs(use_listings_cache=True, listings_expiry_time=9, batch_size=4).pipe_file(path, b"a\n1\n")
    assert len(pd.read_csv(f"fsbackup://{path}", storage_options=disks.options)) == 1


def test_importing_is_cheap() -> None:
    """`import fsbackup` loads neither fsspec nor this; the filesystem loads no data-frame library and no S3."""
    code = (
        "import sys, fsbackup; assert 'fsspec' not in sys.modules; import fsbackup.filesystem;"
        "print([each for each in ('pandas', 'dask', 'pyarrow', 's3fs', 'botocore') if each in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


@pytest.fixture(scope="module")
def workers() -> Iterator[Client]:
    """Return a client of two worker processes, spawned."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", host="127.0.0.1") as made,
        Client(made) as client,
    ):
        yield client


@pytest.fixture
def cluster(workers: Client) -> Iterator[Client]:
    """Return the same; what is still at work when a test has ended is printed."""
    yield workers
    if any(workers.processing().values()):
        print_stuck_tasks(workers)


@pytest.mark.matrix
@pytest.mark.filterwarnings("ignore")  # distributed's own, on its way down
@pytest.mark.parametrize(
    "fault", [Refuse(), Corrupt(at=1000), Drop(answer_bytes=1000)], ids=["gone", "rotten", "dying"]
)
def test_dask_workers(cluster: Client, buckets: ConfiguredSet, path: str, fault: Fault) -> None:
    """Workers with only the configuration's path write and read, whatever fault a replica has."""
    import dask.dataframe as dd

    frame = pd.DataFrame({"id": range(50_000), "name": [f"n{each}" for each in range(50_000)]})
    base = f"fsbackup://{path}"
    dd.from_pandas(frame, npartitions=4).to_parquet(f"{base}/parquet", storage_options=buckets.options)
    dd.from_pandas(frame, npartitions=4).to_csv(f"{base}/csv/*.csv", index=False, storage_options=buckets.options)
    buckets.proxies["moto0"].add(fault, on="get", key=buckets.data("moto0", path.partition("/")[2]))
    back = dd.read_parquet(f"{base}/parquet", storage_options=buckets.options).compute()
    assert_frame_equal(back, frame, check_dtype=False)
    lines = dd.read_csv(f"{base}/csv/*.csv", storage_options=buckets.options).compute()
    assert_frame_equal(lines.reset_index(drop=True), frame, check_dtype=False)
    assert fault.hits
    assert cluster.scheduler_info()["workers"]
