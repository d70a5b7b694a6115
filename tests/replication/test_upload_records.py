"""The record of an object of several parts: it tells that an upload is ours, and no completed one loses it."""

from __future__ import annotations

import threading
from typing import Any, Literal

import pytest

from fsbackup.loop import run
from fsbackup.replication.repair import RepairOptions, RepairReport, repair
from tests.matrix import matrix, sparing
from tests.replication.child import kill, running
from tests.replication.raw_replicas import RECORDS, proves
from tests.replication.rig import PART, ReplicaRig, content
from tests.servers import s3
from tests.servers.faults import Hold, LoseResponse, Status
from tests.servers.operations import Operation

KEY = "full/2025-10-05.tar"
OLD, NEW = content(PART + 100, seed=1), content(PART + 100, seed=2)
PLACE = f"{RECORDS}{KEY}/"
#: The requests of an upload that may leave something, as (operation, part of the key, which of them).
STEPS: list[tuple[Operation, str, int]] = [
    ("put_object", PLACE, 1),
    ("upload_part", KEY, 1),
    ("put_object", PLACE, 2),
    ("complete", KEY, 1),
]
#: At B2 the record is written over the note; R2 takes one write of a name per second: there are two objects.
CASES = [(name, step, when) for name in ("b2", "r2") for step in STEPS for when in ("before", "after")]
DEFAULT = [("b2", STEPS[1], "after"), ("b2", STEPS[2], "after"), ("r2", STEPS[2], "after")]


def records_of(rig: ReplicaRig, name: str) -> set[str]:
    """Return the names of the records in a bucket, with the prefix."""
    return set(s3.list_keys(rig.endpoints[name], f"{rig.prefix}/{PLACE}"))


def repaired(rig: ReplicaRig, name: str, age: float) -> RepairReport:
    return run(repair(rig.store(names=(name,), min_copies=1).replica_set, RepairOptions(safe_age=age)))


@pytest.mark.parametrize(("name", "step", "when"), sparing(CASES, DEFAULT), ids=str)
def test_an_abandoned_upload_is_ours_for_a_day_and_then_cleared(
    rig: ReplicaRig, name: str, step: tuple[Operation, str, int], when: Literal["before", "after"]
) -> None:
    """Killed at any request: a repair leaves it alone, one a day later clears the upload and its record."""
    raw = rig.raw_replicas[name]
    hold = rig.proxies[name].add(Hold(when), on=step[0], key=step[1], first=step[2])
    with running(rig.places, "create", KEY, rig.file(NEW)) as process:
        hold.wait_reached(30)
        kill(process)
    rig.settle()
    is_stored, before = raw.get(KEY) is not None, (records_of(rig, name), raw.unfinished())
    is_noted = bool(before[0])
    assert is_noted or (step, when) == (STEPS[0], "before")
    assert repaired(rig, name, 86_400.0).done == {}
    assert (records_of(rig, name), raw.unfinished()) == before
    assert before[1] == ([] if is_stored else [f"{rig.prefix}/{KEY}"])
    assert ("clear leftover" in repaired(rig, name, 0.0).done) == (len(before[0]) > is_stored)
    assert len(raw.unfinished()) == int(not is_noted), "only what has no part, and nobody knows to be ours"
    assert len(records_of(rig, name)) == int(is_stored)


def test_requests_of_an_upload_of_parts(rig: ReplicaRig) -> None:
    """One for the record when the upload begins, one before it is completed; at R2 one to remove the note.

    Apart from those that only look.
    """
    wanted = ["create_multipart", "put_object", "upload_part", "upload_part", "put_object", "complete"]
    for name, more in (("b2", []), ("r2", ["delete"])):
        store, proxy = rig.store(names=(name,), min_copies=1), rig.proxies[name]
        store.replicate(rig.file(b"x", "one"), "one")
        proxy.forget()
        store.replicate(rig.file(OLD, "old"), KEY)
        asked = [each.operation for each in proxy.requests]
        assert [each for each in asked if each not in ("head", "get", "list", "list_versions")] == wanted + more, (
            name
        )
        puts = [each.key for each in proxy.requests if each.operation == "put_object"]
        assert (len(set(puts)) == 2) == (name == "r2"), "R2 takes one write of a name per second"


def test_versions_of_a_record_are_not_left(contested: ReplicaRig) -> None:
    """Where the bucket keeps versions, the note does not stay behind the record that was written over it."""
    contested.store().replicate(contested.file(NEW), KEY)
    listed = [each.key for each in s3.list_versions(contested.endpoints["b2"]) if PLACE in each.key]
    assert len(listed) == 1


@pytest.mark.parametrize("name", ["b2", matrix("r2")])
@pytest.mark.parametrize("fault", ["complete lost", "record refused"])
def test_an_upload_that_fails_leaves_nothing_or_what_is_stored(rig: ReplicaRig, name: str, fault: str) -> None:
    """Where the answer to the last request is lost, and then all others: the object keeps its record."""
    proxy, raw = rig.proxies[name], rig.raw_replicas[name]
    store = rig.store(names=(name,), min_copies=1, errors="return", timeout=1.0)
    if fault == "record refused":
        proxy.add(Status(403, "AccessDenied"), on="put_object", key=PLACE, first=2)
    else:
        proxy.add(LoseResponse(), on="complete", times=1)
        proxy.add(Status(503, "SlowDown"), on="head", key=KEY, first=3 if name == "b2" else 2)
        proxy.add(Status(503, "SlowDown"), on="complete", first=2)
    assert not store.replicate(rig.file(NEW), KEY)
    rig.settle()
    if fault == "record refused":
        assert (raw.names(), raw.unfinished()) == (set(), [])
        return
    record: Any = raw.manifest(KEY)
    assert raw.get(KEY) == NEW
    assert proves(record, NEW)


def test_who_may_not_list_uploads_repairs_all_else(rig: ReplicaRig, caplog: pytest.LogCaptureFixture) -> None:
    """What an upload left is not even looked for, and none of its records goes."""
    rig.store().replicate(rig.file(OLD), KEY)
    left = f"{rig.prefix}/{PLACE}{'0' * 32}"
    s3.put_bytes(rig.endpoints["b2"], left, b"{}")
    rig.raw_replicas["r2"].drop(KEY)
    rig.proxies["b2"].add(Status(403, "AccessDenied"), on="list_uploads")
    report = run(repair(rig.store(min_copies=1).replica_set, RepairOptions(safe_age=0.0)))
    assert (report.status, report.done) == ("complete", {"refill": 1})
    assert "b2: what unfinished writes left there stays" in caplog.text
    assert left in records_of(rig, "b2")
    rig.proxies["b2"].clear()
    assert repaired(rig, "b2", 0.0).done == {"clear leftover": 1}
    assert left not in records_of(rig, "b2")


def test_a_record_is_looked_at_after_its_upload(rig: ReplicaRig) -> None:
    """An upload is completed just after a repair has seen that its object is another one: the record stays."""
    rig.store().replicate(rig.file(OLD, "old"), KEY)
    proxy, raw = rig.proxies["b2"], rig.raw_replicas["b2"]
    writing = proxy.add(Hold(), on="complete")
    writer = threading.Thread(
        target=lambda: rig.store(names=("b2",), min_copies=1).replicate(rig.file(NEW, "new"), KEY, overwrite=True)
    )
    writer.start()
    writing.wait_reached(30)
    looking = proxy.add(Hold(), on="list_uploads", first=2)
    repairing = threading.Thread(target=lambda: repaired(rig, "b2", -60.0))
    proxy.add(Status(403, "AccessDenied"), on="abort")  # so that the upload is still there for its writer
    repairing.start()
    looking.wait_reached(30)
    writing.release()
    writer.join()
    looking.release()
    repairing.join()
    record: Any = raw.manifest(KEY)
    assert (raw.get(KEY), proves(record, NEW)) == (NEW, True)


def test_a_record_that_is_not_written_yet_is_asked_for_again(rig: ReplicaRig) -> None:
    """A reader has seen the object before it was replaced, and finds a note where its record was."""
    store = rig.store(names=("b2",), min_copies=1)
    store.replicate(rig.file(OLD, "old"), KEY)
    (old,) = records_of(rig, "b2")
    note = s3.read_bytes(rig.endpoints["b2"], old)
    hold = rig.proxies["b2"].add(Hold(), on="get", key=PLACE, times=1)
    found: list[Any] = []
    reader = threading.Thread(target=lambda: found.append(rig.store(names=("b2",), min_copies=1).stat(KEY)))
    reader.start()
    hold.wait_reached(30)
    store.replicate(rig.file(NEW, "new"), KEY, overwrite=True)
    s3.put_bytes(rig.endpoints["b2"], old, note[: len(note) // 2])
    hold.release()
    reader.join()
    assert found[0].latest == store.stat(KEY).latest
    s3.put_bytes(rig.endpoints["b2"], records_of(rig, "b2").difference({old}).pop(), b"{}")
    assert [each.state for each in store.verify().problems] == ["damaged"], "where the object is the same"
