"""Repair beside others: uploads, deletes and other repairs. What they do counts; nothing old comes back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import product

import pytest
from botocore.exceptions import ClientError

from fsbackup import clock
from fsbackup.loop import run
from fsbackup.replication.repair import RepairOptions, RepairReport, repair
from fsbackup.stores.base import ObjectStore
from tests.matrix import matrix, sparing
from tests.replication.raw_replicas import manifest_name, proves, tombstone_name
from tests.replication.rig import ReplicaRig, content, released_when_announced
from tests.servers.faults import Hold

NAMES = ("local", "r2", "b2")
KEY = "backups/contested"
OLD, NEW = content(5000, seed=1), content(5000, seed=2)


class Repair(threading.Thread):
    """One repair in a thread of its own, with backends of its own."""

    def __init__(self, rig: ReplicaRig) -> None:
        super().__init__()
        self._store = rig.store(min_copies=1)
        self.report: RepairReport | None = None

    def run(self) -> None:
        self.report = self._store.repair()


def harmed(rig: ReplicaRig, name: str, harm: str) -> None:
    """Store an object everywhere, and lose or damage one copy."""
    rig.store().replicate(rig.file(OLD, "old"), KEY)
    rig.file(NEW, "new")
    raw = rig.raw_replicas[name]
    if harm == "rotten":
        insist(lambda: raw.put(KEY, bytes(len(OLD))))
        return
    insist(lambda: raw.drop(KEY))
    insist(lambda: raw.drop(manifest_name(KEY)))


def insist(call: Callable[[], None]) -> None:
    """Make a call behind the library's back until it is done: B2 is busy now and then."""
    while True:
        with suppress(ClientError):
            return call()


def harmed_rig(rig: ReplicaRig, name: str, harm: str, step: str) -> ReplicaRig:
    """Return the rig, with the records of the buckets where the step is, after `harmed`."""
    rig = rig.beside() if step != "inside" else rig
    harmed(rig, name, harm)
    return rig


def overtaken(
    rig: ReplicaRig, name: str, step: str, other: Callable[[], object], *, waits: bool = False
) -> RepairReport:
    """Hold a repair before a step, let another operation run from beginning to end, and let the repair go on.

    `waits`: the other one waits for the end of a repair that has announced itself, so the repair goes on before.
    """
    where = manifest_name(KEY) if step == "manifest" else KEY
    hold = rig.proxies[name].add(Hold("before"), on="put_object", key=f"{rig.prefix}/{where}", times=1)
    repair = Repair(rig)
    repair.start()
    hold.wait_reached()
    if waits and rig.raw_replicas[name].announced(KEY):
        released_when_announced(rig, name, KEY, hold, other)
    else:
        other()
        hold.release()
    repair.join(60)
    assert repair.report is not None
    return repair.report


def assert_all_have(rig: ReplicaRig, data: bytes) -> None:
    rig.clean(KEY)
    for name, raw in rig.raw_replicas.items():
        record = raw.manifest(KEY)
        assert raw.get(KEY) == data, name
        assert record is not None
        assert proves(record, data), name


#: By default each replica, each harm and each step once, in the two ways that end differently.
FIRST = [("r2", "missing", "inside"), ("b2", "rotten", "inside"), ("b2", "rotten", "manifest")]
STEPS = sparing(product(("r2", "b2"), ("missing", "rotten"), ("inside", "data", "manifest")), FIRST)


@pytest.mark.usefixtures("other_machines")
@pytest.mark.parametrize(("name", "harm", "step"), STEPS)
def test_an_upload_overtakes_a_repair(contested: ReplicaRig, name: str, harm: str, step: str) -> None:
    """A replacement ran while the repair stood before a step of its own: the new version is what all have."""
    rig = harmed_rig(contested, name, harm, step)
    store = rig.store(min_copies=1)
    report = overtaken(rig, name, step, lambda: store.replicate(rig.tmp / "new", KEY, overwrite=True), waits=True)
    if (name, harm) == ("r2", "missing") and step != "manifest":
        assert "refill" not in report.done  # where a store can refuse, the old data never comes
    for raw in rig.raw_replicas.values():
        assert raw.get(KEY) == NEW
    assert rig.store().repair().status == "complete"
    assert_all_have(rig, NEW)


@pytest.mark.usefixtures("other_machines")
@pytest.mark.parametrize(("name", "harm", "step"), STEPS)
def test_a_delete_overtakes_a_repair(contested: ReplicaRig, name: str, harm: str, step: str) -> None:
    """A delete was confirmed by all while the repair stood before its data or manifest: nothing comes back."""
    rig = harmed_rig(contested, name, harm, step)
    store = rig.store()
    overtaken(rig, name, step, lambda: store.remove(KEY))
    assert rig.store().repair().status == "complete"
    rig.clean()


@pytest.mark.usefixtures("other_machines")
@pytest.mark.parametrize("name", ["r2", "b2"])
def test_a_prune_has_counted_on_the_copy_of_a_repair(contested: ReplicaRig, name: str) -> None:
    """It let go of all others before the repair looked again: without a tombstone nobody takes a copy back."""
    rig = contested
    harmed(rig, name, "missing")
    hold = rig.proxies[name].add(Hold("after"), on="put_object", key=f"{rig.prefix}/{KEY}", times=1)
    repair = Repair(rig)
    repair.start()
    hold.wait_reached()
    for other in set(NAMES) - {name}:
        insist(partial(rig.raw_replicas[other].drop, KEY))
        insist(partial(rig.raw_replicas[other].drop, manifest_name(KEY)))
    hold.release()
    repair.join(60)
    assert rig.raw_replicas[name].get(KEY) == OLD
    assert rig.store().repair().status == "complete"
    assert_all_have(rig, OLD)


@pytest.mark.usefixtures("other_machines")
def test_a_delete_leaves_its_tombstones_to_a_repair_at_work(
    contested: ReplicaRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also to one that is killed before it can look for them: its mark counts for a day."""
    rig = contested
    rig.store().replicate(rig.file(OLD, "old"), KEY)
    mark = ".fsbackup/repairs/killed-0"
    insist(partial(rig.raw_replicas["r2"].put, mark, b"{}"))
    assert rig.store().remove(KEY).status == "complete"
    assert rig.store().repair().done == {}
    assert all(raw.tombstone(KEY) is not None for raw in rig.raw_replicas.values())
    now = clock.now
    monkeypatch.setattr(clock, "now", lambda: now() + 2 * 86_400)
    report = rig.store().repair()
    assert report.done == {"forget delete": 1, "clear leftover": 1}
    rig.clean()


@pytest.mark.usefixtures("other_machines")
@pytest.mark.parametrize(("name", "harm", "step"), STEPS)
def test_two_repairs_at_once(contested: ReplicaRig, name: str, harm: str, step: str) -> None:
    """One repair stands before a step while the other does all of it: both end well, and so does the object."""
    rig = harmed_rig(contested, name, harm, step)
    second = Repair(rig)

    def overtake() -> None:
        second.start()
        second.join(60)

    first = overtaken(rig, name, step, overtake)
    assert first.status == "complete", first.as_dict()
    assert second.report is not None
    assert second.report.status == "complete", second.report.as_dict()
    # Who has ended while he saw the other's intent has left his own, which goes after a day.
    run(repair(rig.store().replica_set, RepairOptions(safe_age=0.0)))
    assert_all_have(rig, OLD)


@pytest.mark.parametrize("step", ["tombstone", matrix("data")])
def test_a_repair_that_finishes_a_delete_gives_way_to_an_upload(
    contested: ReplicaRig, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replica slept through a delete; before repair finishes it there somebody stores the key again."""
    rig = contested
    rig.store().replicate(rig.file(OLD, "old"), KEY)
    rig.file(NEW, "new")
    deleted = rig.raw_replicas["r2"].manifest(KEY)
    assert deleted is not None
    rig.store(names=("local", "b2")).remove(KEY)
    rig.raw_replicas["local"].set_tombstone(KEY, generation=deleted["generation"])
    operation = (
        {"on": "put_object", "key": tombstone_name(KEY)} if step == "tombstone" else {"on": "delete", "key": KEY}
    )
    hold = rig.proxies["r2"].add(Hold("before"), times=1, **operation)  # type: ignore[arg-type]
    repair = Repair(rig)
    repair.start()
    hold.wait_reached()
    # What is held holds the lock of its replica, which the upload waits for as long as for any answer.
    monkeypatch.setattr(ObjectStore, "hard_timeout_margin", 1.0)
    report = rig.store(timeout=2.0).replicate(rig.tmp / "new", KEY, overwrite=True)
    hold.release()
    repair.join(60)
    final = rig.store().repair()
    assert final.status == "complete", final.as_dict()
    if report.replicas["local"].ok and report.replicas["b2"].ok:
        assert_all_have(rig, NEW)


def test_repairs_beside_uploads_and_deletes(contested: ReplicaRig) -> None:
    """Two repairs run on and on while one writer replaces and deletes: the last thing done is what there is."""
    rig = contested
    store = rig.store(min_copies=1)
    stop = threading.Event()
    failed: list[Exception] = []

    def repair() -> None:
        own = rig.store(min_copies=1)
        try:
            while not stop.is_set():
                own.repair()
        except Exception as error:  # noqa: BLE001 - raised again by the test
            failed.append(error)

    threads = [threading.Thread(target=repair) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for number in range(12):
            last = content(3000, seed=number)
            if number % 4 == 3:
                store.remove(KEY)
                harm = None
            else:
                store.replicate(rig.file(last, "new"), KEY, overwrite=True)
                harm = NAMES[number % 3]
            if harm is not None:
                insist(partial(rig.raw_replicas[harm].put, KEY, b"rotten"))
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
    assert not failed
    assert number % 4 == 3
    for _ in range(2):
        report = rig.store().repair()
    assert report.status == "complete", report.as_dict()
    rig.clean()
