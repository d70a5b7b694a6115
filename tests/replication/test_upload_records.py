"""The record of an object of several parts: it tells that an upload is ours, and no completed one loses it."""

from __future__ import annotations

import threading
from typing import Any, Literal

import pytest

from fsbackup.loop import run
from fsbackup.replication.repair import RepairOptions, RepairReport, repair
from tests.matrix import sparing
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
CASES = [(step, when) for step in STEPS for when in ("before", "after")]


def records_of(rig: ReplicaRig) -> set[str]:
    """Return the names of the records at R2, with the prefix."""
    return set(s3.list_keys(rig.endpoints["r2"], f"{rig.prefix}/{PLACE}"))


def repaired(rig: ReplicaRig, age: float) -> RepairReport:
    return run(repair(rig.store(names=("r2",), min_copies=1).replica_set, RepairOptions(safe_age=age)))


@pytest.mark.parametrize(("step", "when"), sparing(CASES, [(STEPS[1], "after"), (STEPS[2], "after")]), ids=str)
def test_an_abandoned_upload_is_ours_for_a_day_and_then_cleared(
    rig: ReplicaRig, step: tuple[Operation, str, int], when: Literal["before", "after"]
) -> None:
    """Killed at any request: a repair leaves it alone, one a day later clears the upload and its record."""
    raw = rig.raw_replicas["r2"]
    hold = rig.proxies["r2"].add(Hold(when), on=step[0], key=step[1], first=step[2])
    with running(rig.places, "create", KEY, rig.file(NEW)) as process:
        hold.wait_reached(30)
        kill(process)
    rig.settle()
    is_stored, before = raw.get(KEY) is not None, (records_of(rig), raw.unfinished())
    is_noted = bool(before[0])
    assert is_noted or (step, when) == (STEPS[0], "before")
    assert repaired(rig, 86_400.0).done == {}
    assert (records_of(rig), raw.unfinished()) == before
    assert (len(before[0]), before[1]) == (int(is_noted), [] if is_stored else [f"{rig.prefix}/{KEY}"])
    assert ("clear leftover" in repaired(rig, 0.0).done) == (is_noted and not is_stored)
    assert len(raw.unfinished()) == int(not is_noted), "only what has no part, and nobody knows to be ours"
    assert len(records_of(rig)) == int(is_stored)


def test_requests_of_an_upload_of_parts(rig: ReplicaRig) -> None:
    """One request for the record when the upload begins, one before it is completed, and none afterwards."""
    store, proxy = rig.store(names=("r2",), min_copies=1), rig.proxies["r2"]
    store.replicate(rig.file(b"x", "one"), "one")
    proxy.forget()
    store.replicate(rig.file(OLD, "old"), KEY)
    wanted = ["create_multipart", "put_object", "upload_part", "upload_part", "put_object", "complete", "head"]
    asked = [each.operation for each in proxy.requests]
    assert asked[asked.index("create_multipart") :] == wanted
    proxy.forget()
    store.replicate(rig.file(NEW, "new"), KEY, overwrite=True)
    asked = [each.operation for each in proxy.requests]
    assert asked[asked.index("create_multipart") :] == [*wanted, "delete"], "and that of the version before goes"


def test_versions_of_a_record_are_not_left(contested: ReplicaRig) -> None:
    """Where the bucket keeps versions, the note does not stay behind the record that was written over it."""
    contested.store().replicate(contested.file(NEW), KEY)
    listed = [each.key for each in s3.list_versions(contested.endpoints["b2"]) if PLACE in each.key]
    assert len(listed) == 1


@pytest.mark.parametrize("fault", ["complete lost", "record refused"])
def test_an_upload_that_fails_leaves_nothing_or_what_is_stored(rig: ReplicaRig, fault: str) -> None:
    """Where the answer to the last request is lost, and then all others: the object keeps its record."""
    proxy, raw = rig.proxies["r2"], rig.raw_replicas["r2"]
    store = rig.store(names=("r2",), min_copies=1, errors="return", timeout=1.0)
    if fault == "record refused":
        proxy.add(Status(403, "AccessDenied"), on="put_object", key=PLACE, first=2)
    else:
        proxy.add(LoseResponse(), on="complete", times=1)
        proxy.add(Status(503, "SlowDown"), on="head", key=KEY, first=2)
        proxy.add(Status(503, "SlowDown"), on="complete", first=2)
    assert not store.replicate(rig.file(NEW), KEY)
    rig.settle()
    if fault == "record refused":
        assert (raw.names(), raw.unfinished()) == (set(), [])
        return
    record: Any = raw.manifest(KEY)
    assert raw.get(KEY) == NEW
    assert proves(record, NEW)


def test_a_record_is_looked_at_after_its_upload(rig: ReplicaRig) -> None:
    """An upload is completed just after a repair has seen that its object is another one: the record stays."""
    rig.store().replicate(rig.file(OLD, "old"), KEY)
    proxy, raw = rig.proxies["r2"], rig.raw_replicas["r2"]
    writing = proxy.add(Hold(), on="complete")
    writer = threading.Thread(
        target=lambda: rig.store(names=("r2",), min_copies=1).replicate(rig.file(NEW, "new"), KEY, overwrite=True)
    )
    writer.start()
    writing.wait_reached(30)
    looking = proxy.add(Hold(), on="list_uploads", first=2)
    repairing = threading.Thread(target=lambda: repaired(rig, -60.0))
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
    store = rig.store(names=("r2",), min_copies=1)
    store.replicate(rig.file(OLD, "old"), KEY)
    (old,) = records_of(rig)
    note = s3.read_bytes(rig.endpoints["r2"], old)
    hold = rig.proxies["r2"].add(Hold(), on="get", key=PLACE, times=1)
    found: list[Any] = []
    reader = threading.Thread(target=lambda: found.append(rig.store(names=("r2",), min_copies=1).stat(KEY)))
    reader.start()
    hold.wait_reached(30)
    store.replicate(rig.file(NEW, "new"), KEY, overwrite=True)
    s3.put_bytes(rig.endpoints["r2"], old, note[: len(note) // 2])
    hold.release()
    reader.join()
    assert found[0].latest == store.stat(KEY).latest
    s3.put_bytes(rig.endpoints["r2"], records_of(rig).difference({old}).pop(), b"{}")
    assert [each.state for each in store.verify().problems] == ["damaged"], "where the object is the same"
