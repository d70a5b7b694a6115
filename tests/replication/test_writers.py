"""Any number of writers of one key, in threads and processes, beside deletes: nothing torn, no false success."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from fsbackup import LocalStorage, ReplicatedStorage
from fsbackup.backends import SingleBackend
from fsbackup.engine.delete import delete
from fsbackup.engine.results import Report
from fsbackup.errors import ConflictError
from fsbackup.loop import run
from fsbackup.stores.base import ObjectStat, ObjectWriter, WritePlan
from tests.integration.cli_helpers import wait_until
from tests.replication.memory import META, Gate, MemoryStore, MemoryWriter
from tests.replication.raw_replicas import RawDisk, proves
from tests.replication.rig import PART, ReplicaRig, content
from tests.servers.faults import Status

KEY = "backups/contested"
WRITERS = 8


def at_once(*calls: Callable[[], object]) -> list[object]:
    """Make the calls in threads of their own, all at once, and return their results."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], object]) -> object:
        barrier.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def assert_proven(raw: RawDisk, contents: list[bytes]) -> None:
    data, record = raw.get(KEY), raw.manifest(KEY)
    assert data in contents
    assert record is not None
    assert data is not None
    assert proves(record, data)


@pytest.mark.parametrize(("where", "size"), [("inside", 2000), ("beside", 2000), ("inside", PART + 1)])
def test_a_service_that_does_not_show_at_once_what_it_stored(rig: ReplicaRig, where: str, size: int) -> None:
    """Its 404 is no other writer's doing: it is asked again, and the upload is complete."""
    rig = rig.beside() if where == "beside" else rig
    source = rig.file(content(size))
    for proxy in rig.proxies.values():
        proxy.add(Status(404, "NoSuchKey"), on="head", key=KEY, times=4)
    report = rig.store().replicate(source, KEY)
    assert report.status == "complete", report.as_dict()
    assert all(raw.provable(KEY) == content(size) for raw in rig.raw_replicas.values())


def test_what_is_not_shown_at_all_blames_nobody(rig: ReplicaRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fsbackup.engine.replica_upload.SHOWN_AFTER", (0.0,))
    rig.proxies["b2"].add(Status(404, "NoSuchKey"), on="head", key=KEY)
    report = rig.store(min_copies=2).replicate(rig.file(b"1"), KEY)
    assert report.status == "degraded"
    assert "another writer" not in str(report.replicas["b2"].exception)
    assert "it was stored, and is not there" in str(report.replicas["b2"].exception)


def test_threads_upload_one_key_of_a_disk(tmp_path: Path) -> None:
    """What stands there is one of the contents, proven, and a download gives it back; round after round."""
    contents = [content(70_000, seed=number) for number in range(WRITERS)]
    for number, data in enumerate(contents):
        (tmp_path / f"source{number}").write_bytes(data)
    raw = RawDisk(tmp_path / "disk")
    for _ in range(5):
        disks = [LocalStorage(raw.base) for _ in contents]
        uploads = [
            lambda disk=disk, number=number: disk.upload(str(tmp_path / f"source{number}"), KEY)
            for number, disk in enumerate(disks)
        ]
        assert any(at_once(*uploads))
        assert_proven(raw, contents)
        assert disks[0].download(KEY, str(tmp_path / "back"))
        assert (tmp_path / "back").read_bytes() == raw.get(KEY)
        assert raw.names() == {KEY, f".fsbackup/manifests/{KEY}"}


def test_threads_replace_one_key_everywhere(rig: ReplicaRig) -> None:
    """Every replica of a set ends with a proven content, and after a repair all with the same."""
    contents = [content(5000, seed=number) for number in range(4)]
    paths = [rig.file(data, f"source{number}") for number, data in enumerate(contents)]
    for _ in range(3):
        stores = [rig.store(min_copies=2) for _ in paths]
        at_once(
            *(
                lambda s=s, path=path: s.replicate(path, KEY, overwrite=True)
                for s, path in zip(stores, paths, strict=True)
            )
        )
        for name, raw in rig.raw_replicas.items():
            data, record = raw.get(KEY), raw.manifest(KEY)
            assert data in contents, name
            assert record is not None
            assert proves(record, data), name
        assert rig.store(min_copies=1).repair().unresolved == 0
        assert len({raw.get(KEY) for raw in rig.raw_replicas.values()}) == 1


#: Replaces the key again and again, until the file "stop" is there.
WRITE = """
import sys
from pathlib import Path
from fsbackup import LocalStorage
disk, source, stop = LocalStorage(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
while not stop.exists():
    disk.upload(source, "backups/contested")
"""


def test_processes_replace_one_key_of_a_disk(tmp_path: Path) -> None:
    """At every instant a reader of the disk gets one of the contents, proven."""
    contents = [content(20_000, seed=number) for number in range(3)]
    raw, stop = RawDisk(tmp_path / "disk"), tmp_path / "stop"
    processes = []
    for number, data in enumerate(contents):
        source = tmp_path / f"source{number}"
        source.write_bytes(data)
        command = [sys.executable, "-c", WRITE, str(raw.base), str(source), str(stop)]
        processes.append(subprocess.Popen(command))
    try:
        reads, deadline = 0, time.monotonic() + 60
        while reads < 40 and time.monotonic() < deadline:
            target = tmp_path / "back"
            if LocalStorage(raw.base).download(KEY, str(target)):
                assert target.read_bytes() in contents
                reads += 1
    finally:
        stop.touch()
        codes = [process.wait(60) for process in processes]
    assert codes == [0, 0, 0]
    assert reads == 40
    assert_proven(raw, contents)


def test_a_killed_process_holds_no_lock(tmp_path: Path) -> None:
    """The kernel releases the lock of a process that is killed in the middle of its commit."""
    (tmp_path / "source").write_bytes(b"content")
    hold = (
        "import sys, time; from fsbackup.stores.local.lock import try_lock;"
        "from fsbackup.stores.local.directory import SafeDirectory;"
        "file = try_lock(SafeDirectory(sys.argv[1], create=True), 'backups/contested');"
        "print(file, flush=True); time.sleep(60)"
    )
    base = tmp_path / "disk"
    process = subprocess.Popen([sys.executable, "-c", hold, str(base)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().strip() != "None"
        assert not LocalStorage(base, timeout=0.3).upload(str(tmp_path / "source"), KEY)
        assert LocalStorage(base, timeout=0.3).upload(str(tmp_path / "source"), "another/key")
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    assert LocalStorage(base, timeout=10).upload(str(tmp_path / "source"), KEY)


@pytest.mark.parametrize("role", ["local", "r2", "b2"])
def test_a_delete_gives_way_to_what_was_stored_since(rig: ReplicaRig, role: str) -> None:
    """A delete looked, another host stored a new version and was told complete: the delete leaves that alone."""
    store = rig.store(names=(role,))
    old = store.replicate(rig.file(content(100, seed=1)), KEY)
    assert store.replicate(rig.file(content(100, seed=2)), KEY, overwrite=True)
    with pytest.raises(ConflictError):
        run(delete(store.replica_set, KEY, generation=old.generation))
    assert rig.raw_replicas[role].get(KEY) == content(100, seed=2)


class Host(MemoryStore):
    """What one of several hosts sees of a place that cannot refuse to replace; it can be held in its last step."""

    def __init__(self, place: MemoryStore, host: str) -> None:
        super().__init__(host)
        self.objects, self.gate, self.has_looked = place.objects, Gate(), threading.Event()

    def writer(self, name: str, plan: WritePlan, on_progress: Callable[[int], None]) -> ObjectWriter:
        return _HeldWriter(self, name, plan, on_progress)

    async def list(self, prefix: str = "", start_after: str = "") -> AsyncIterator[ObjectStat]:
        async for stat in super().list(prefix, start_after):
            yield stat
        if prefix.startswith(f"{META}pending/"):
            self.has_looked.set()

    def create(self, data: bytes) -> Report:
        """Store an object where nothing is."""
        return ReplicatedStorage([SingleBackend(self)]).replicate(io.BytesIO(data), KEY)


class _HeldWriter(MemoryWriter):
    """Stops between its look whether the name is taken and its write."""

    async def commit(self, metadata: Mapping[str, str] | None = None) -> ObjectStat:
        if self._name == KEY and KEY not in self._store.objects:
            await cast("Host", self._store).gate.enter()
            self._plan = replace(self._plan, create_only=False)  # it has looked
        return await super().commit(metadata)


@pytest.fixture
def hosts() -> tuple[Host, Host]:
    """Return two hosts at one place, of which the first is held in its last step."""
    place = MemoryStore("place")
    first, second = Host(place, "first"), Host(place, "second")
    second.gate.release()
    return first, second


def test_one_of_two_hosts_creates_a_key_where_nothing_refuses_the_other(hosts: tuple[Host, Host]) -> None:
    """He who comes while the other one is about to write waits for him, and is told."""
    first, second = hosts
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(first.create, b"one")
        first.gate.wait_reached()
        two = pool.submit(second.create, b"two")
        wait_until(lambda: second.has_looked.is_set() or two.done())
        assert KEY not in first.objects
        first.gate.release()
        assert (one.result().status, two.result().status) == ("complete", "failed")
    assert isinstance(two.result().replicas["second"].exception, ConflictError)
    assert first.objects[KEY] == b"one"


def test_a_host_does_not_wait_for_one_that_creates_the_same(hosts: tuple[Host, Host]) -> None:
    """As one that was killed, and whose upload is made again."""
    first, second = hosts
    with ThreadPoolExecutor(1) as pool:
        one = pool.submit(first.create, b"one")
        first.gate.wait_reached()
        assert second.create(b"one").status == "complete"
        first.gate.release()
        assert one.result().status == "complete"
