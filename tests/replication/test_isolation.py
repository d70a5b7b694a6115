"""One replica fails in every way: the others complete, the report names it, and it keeps nothing of ours."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator

import pytest

from fsbackup.engine.results import Report
from fsbackup.loop import run
from fsbackup.replication.repair import RepairOptions, repair
from tests.matrix import sparing
from tests.replication.raw_replicas import MARKER, manifest_name, mark, pending_prefix, tombstone_name
from tests.replication.rig import MIB, PART, ReplicaRig, content
from tests.servers.faults import Drop, Fault, LoseResponse, Refuse, Stall, Status, WrongEtag

KEY = "backups/db.dump"
SMALL, LARGE = 2000, PART + 99

#: fault: (how to make it, the error types that may name it).
FAULTS: dict[str, tuple[Callable[[], Fault], set[str]]] = {
    "refused": (Refuse, {"BackendUnavailableError"}),
    "stalled": (Stall, {"BackendUnavailableError"}),
    "403": (lambda: Status(403, "AccessDenied"), {"AccessDeniedError"}),
    "500": (lambda: Status(500, "InternalError"), {"TransientError", "BackendUnavailableError"}),
    "SlowDown": (lambda: Status(503, "SlowDown"), {"TransientError", "BackendUnavailableError"}),
    "quota": (lambda: Status(403, "QuotaExceeded"), {"OutOfSpaceError"}),
}
DATA_FAULTS: dict[str, tuple[Callable[[], Fault], set[str]]] = {
    **FAULTS,
    "dropped in the middle": (lambda: Drop(request_bytes=1000), {"BackendUnavailableError", "TransientError"}),
    "stalled in the middle": (lambda: Stall(request_bytes=1000), {"BackendUnavailableError"}),
    "wrong ETag": (WrongEtag, {"IntegrityError"}),
}


def assert_degraded(rig: ReplicaRig, report: Report, failed: str, types: set[str], data: bytes) -> None:
    """Check the report and, by hand, that the other replicas hold the object."""
    assert report.status == "degraded", report.as_dict()
    results = report.replicas
    assert [name for name, result in results.items() if not result.ok] == [failed]
    assert results[failed].error_type in types, results[failed].error
    for name, raw in rig.raw_replicas.items():
        if name != failed:
            assert raw.provable(KEY) == data, name
            assert raw.names() == {KEY, manifest_name(KEY)}, name
        assert raw.unfinished() == [], name


#: (fault, size, overwrite): every fault once; the matrix has more of those that depend on how the data is sent.
FIRST_CASES = [
    (fault, LARGE if number % 2 else SMALL, number % 3 == 0) for number, fault in enumerate(DATA_FAULTS)
]
DATA_CASES = [
    *FIRST_CASES,
    ("stalled in the middle", SMALL, True),
    ("dropped in the middle", LARGE, True),
    ("wrong ETag", LARGE, True),
    ("wrong ETag", SMALL, True),
    ("403", SMALL, True),
]


@pytest.mark.parametrize(("fault", "size", "overwrite"), sparing(DATA_CASES, FIRST_CASES))
def test_a_fault_on_the_data_fails_only_that_replica(
    rig: ReplicaRig, fault: str, size: int, overwrite: bool
) -> None:
    """The data of one replica cannot be sent: the rest is stored, and that replica has the old object or none."""
    old = content(size, seed=9) if overwrite else None
    if old is not None:
        rig.store().replicate(rig.file(old, "old"), KEY)
    make, types = DATA_FAULTS[fault]
    operation = "put_object" if size == SMALL else "upload_part"
    rig.proxies["r2"].add(make(), on=operation, key=f"{rig.prefix}/{KEY}")  # type: ignore[arg-type]
    report = rig.store(min_copies=2, timeout=4).replicate(rig.file(content(size)), KEY, overwrite=overwrite)
    assert_degraded(rig, report, "r2", types, content(size))
    if fault == "wrong ETag" and size == SMALL:
        assert rig.raw_replicas["r2"].get(KEY) in (
            old,
            content(size),
        )  # what was stored was right, only its ETag was wrong
    else:
        assert rig.raw_replicas["r2"].get(KEY) == old
    rig.proxies["r2"].clear()
    again = rig.store().replicate(rig.file(content(size)), KEY, overwrite=overwrite)
    assert again.status == "complete", again.as_dict()
    rig.clean(KEY)


@pytest.mark.each_choice
@pytest.mark.parametrize("step", [pending_prefix(KEY), manifest_name(KEY)], ids=["intent", "manifest"])
@pytest.mark.parametrize("fault", ["403", "stalled"])
def test_a_fault_on_a_record_fails_only_that_replica(rig: ReplicaRig, fault: str, step: str) -> None:
    """The write intent or the manifest of a replacement cannot be written: one version stays provable."""
    rig = rig.beside()
    old = content(SMALL, seed=9)
    rig.store().replicate(rig.file(old, "old"), KEY)
    make, types = FAULTS[fault]
    rig.proxies["r2"].add(make(), on="put_object", key=step)
    report = rig.store(min_copies=2, timeout=4).replicate(rig.file(content(SMALL)), KEY, overwrite=True)
    assert_degraded(rig, report, "r2", types, content(SMALL))
    assert rig.raw_replicas["r2"].provable(KEY) in (old, content(SMALL))
    rig.proxies["r2"].clear()
    assert rig.store().replicate(rig.file(content(SMALL)), KEY, overwrite=True).status == "complete"
    run(repair(rig.store().replica_set, RepairOptions(safe_age=0.0)))  # without locks, intents stay for a day
    rig.clean(KEY)


@pytest.mark.parametrize("fault", ["403", "500"])
def test_a_fault_on_the_tombstone_is_reported_and_the_object_counts_as_deleted(
    rig: ReplicaRig, fault: str
) -> None:
    """A delete is degraded while one replica has no tombstone; for readers the object is deleted all the same."""
    rig.store().replicate(rig.file(content(SMALL)), KEY)
    make, types = FAULTS[fault]
    rig.proxies["r2"].add(make(), on="put_object", key=tombstone_name(KEY))
    report = rig.store(timeout=4, min_copies=2).remove(KEY)
    assert report.status == "degraded"
    assert report.replicas["r2"].error_type in types
    rig.proxies["r2"].clear()
    assert rig.raw_replicas["r2"].get(KEY) == content(SMALL)
    assert rig.store().exists(KEY) is False
    with pytest.raises(FileNotFoundError):
        rig.store().restore(KEY, rig.tmp / "back")
    assert rig.store().remove(KEY).status == "complete"
    rig.clean()


@pytest.mark.parametrize(("size", "operation"), [(SMALL, "put_object"), (LARGE, "complete")])
def test_a_lost_answer_is_found_to_be_success(rig: ReplicaRig, size: int, operation: str) -> None:
    """The server completed the request and its answer was lost: HEAD shows it; no failure, no second write."""
    rig.proxies["r2"].add(LoseResponse(), on=operation, times=1)  # type: ignore[arg-type]
    report = rig.store().replicate(rig.file(content(size)), KEY)
    assert report.status == "complete", report.as_dict()
    rig.clean(KEY)


def test_too_few_copies_is_failed(rig: ReplicaRig) -> None:
    """With two of three replicas down and `min_copies` 2 nothing is sent to the third either."""
    for proxy in rig.proxies.values():
        proxy.add(Refuse())
    report = rig.store(min_copies=2, timeout=4).replicate(rig.file(content(SMALL)), KEY)
    assert report.status == "failed"
    assert "nothing was sent, because r2, b2 cannot be reached" in str(report.failure())
    assert rig.raw_replicas["local"].names() == set()


@pytest.fixture
def small_disk(rig: ReplicaRig) -> Iterator[ReplicaRig]:
    """Mount a disk of 8 MiB as the local replica's base."""
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", rig.base], capture_output=True)
    if done.returncode:
        pytest.skip("needs the right to mount")
    rig.raw_replicas["local"].put(MARKER, mark())
    yield rig
    subprocess.run(["umount", rig.base], check=True)


@pytest.mark.parametrize("kind", ["file", "stream"])
def test_a_full_disk_fails_only_the_local_replica(small_disk: ReplicaRig, kind: str) -> None:
    """No room on the local disk, known beforehand (a file) or met on the way (a stream): the buckets complete."""
    data = content(2 * PART)
    path = small_disk.file(data)
    store = small_disk.store(min_copies=2)
    if kind == "file":
        report = store.replicate(path, KEY)
    else:
        with path.open("rb") as stream:
            report = store.replicate(stream, KEY)
    assert_degraded(small_disk, report, "local", {"OutOfSpaceError"}, data)
    assert small_disk.raw_replicas["local"].names() == set()
    assert [path.name for path in small_disk.base.iterdir()] == [".fsbackup"]


def test_an_unusable_base_fails_only_the_local_replica(rig: ReplicaRig) -> None:
    """A base path that is a file fails that replica and no other."""
    shutil.rmtree(rig.base)
    rig.base.write_bytes(b"in the way")
    report = rig.store(min_copies=2).replicate(rig.file(content(MIB)), KEY)
    assert report.status == "degraded"
    assert report.replicas["local"].error_type is not None
    for name in ("r2", "b2"):
        assert rig.raw_replicas[name].provable(KEY) == content(MIB)
