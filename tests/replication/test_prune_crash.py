"""kill -9 of a prune at each step of a removal, and others at work on the same key between any two of them."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from fsbackup.errors import ObjectNotFoundError
from fsbackup.loop import run
from fsbackup.replication.prune import PruneReport
from fsbackup.replication.repair import RepairOptions, repair
from tests.replication.child import kill, running
from tests.replication.prune_helpers import days, expected_later, prune_later
from tests.replication.raw_replicas import manifest_name
from tests.replication.rig import ReplicaRig, released_when_announced
from tests.replication.test_prune_servers import KEY, NEW, OLD, assert_only, fill, outcomes
from tests.servers.faults import Hold

STEPS = [KEY, manifest_name(KEY)]
NEWER = b"replaced meanwhile"


@pytest.mark.each_choice
@pytest.mark.parametrize("step", STEPS, ids=["data", "manifest"])
@pytest.mark.parametrize("name", ["r2", "b2"])
def test_killed_after_any_step(contested: ReplicaRig, name: str, step: str) -> None:
    """It is absent there, also for whoever reads that backend alone; and a prune finishes it a day later.

    Not at once: the other bucket was at any step too, and there the intent of the killed prune counts for a day.
    """
    rig = fill(contested if step == KEY else contested.beside())
    hold = rig.proxies[name].add(Hold("after"), on="delete", key=f"{rig.prefix}/{step}")
    with running(rig.places, "prune", KEY) as process:
        hold.wait_reached(30)
        kill(process)
    rig.proxies[name].clear()
    assert rig.raw_replicas[name].get(KEY) is None
    assert rig.raw_replicas[name].manifest(KEY) is None
    alone = rig.store(names=(name,))
    assert not alone.exists(KEY)
    with pytest.raises(ObjectNotFoundError):
        alone.restore(KEY, rig.tmp / "back")
    store = rig.store()
    assert store.download(KEY, str(rig.tmp / "back"))
    assert (rig.tmp / "back").read_bytes() == OLD
    verified = store.verify(expired=expected_later(store))
    assert (verified.status, verified.found) == ("complete", 0)
    assert store.repair(expired=expected_later(store)).steps == ()
    run(repair(store.replica_set, RepairOptions(expired=expected_later(store), safe_age=0.0)))  # what announced it
    assert prune_later(store).status == "complete"
    for bucket in ("r2", "b2"):
        assert_only(rig, bucket, NEW)
    assert_only(rig, "local", KEY, NEW)


def interrupted(rig: ReplicaRig, step: str, other: Callable[[], object], *, waits: bool = False) -> PruneReport:
    """Hold a prune of R2 before a step, let something else run from beginning to end, and let the prune go on.

    `waits`: something else waits for the end of the prune, so that goes on as soon as the other is announced.
    """
    hold = rig.proxies["r2"].add(Hold("before"), on="delete", key=f"{rig.prefix}/{step}", times=1)
    reports: list[PruneReport] = []
    store = rig.store()
    thread = threading.Thread(target=lambda: reports.append(prune_later(store, {"r2": days(30)})))
    thread.start()
    hold.wait_reached()
    if waits:
        released_when_announced(rig, "r2", KEY, hold, other)
    else:
        other()
        hold.release()
    thread.join(60)
    return reports[0]


@pytest.mark.usefixtures("other_machines")
@pytest.mark.parametrize("step", STEPS, ids=["data", "manifest"])
def test_an_overwrite_meanwhile(contested: ReplicaRig, step: str) -> None:
    """The new version is never lost: it waits for the end of the prune, which goes no further where it sees it."""
    rig = fill(contested.beside())
    new = rig.file(NEWER, "new")
    report = interrupted(rig, step, lambda: rig.store().replicate(new, KEY, overwrite=True), waits=True)
    if step == KEY:
        assert (report.status, outcomes(report)) == ("degraded", {"r2": "blocked"})
        assert "another process is storing, or has stored, another version" in report.steps[0].reason
    rig.clean(KEY, NEW)
    assert all(raw.provable(KEY) == NEWER for raw in rig.raw_replicas.values())


@pytest.mark.usefixtures("other_machines")
@pytest.mark.each_choice
@pytest.mark.parametrize("step", STEPS, ids=["data", "manifest"])
@pytest.mark.parametrize("other", ["delete", "prune", "repair"])
def test_others_meanwhile(contested: ReplicaRig, other: str, step: str) -> None:
    """A delete counts, a second prune does the same or nothing, a repair that misses nothing does nothing."""
    rig = fill(contested if step == KEY else contested.beside())

    def act() -> None:
        store = rig.store()
        if other == "delete":
            assert store.remove(KEY).status == "complete"
        elif other == "prune":
            second = prune_later(store, {"r2": days(30)})
            assert second.status == "complete" or outcomes(second) == {
                "r2": "blocked"
            }  # it gives way to the first
        else:
            assert store.repair(expired=expected_later(store, {"r2": days(30)})).steps == ()

    report = interrupted(rig, step, act)
    assert report.status == "complete", report.as_dict()
    if other == "delete":
        rig.clean(NEW)
        return
    assert_only(rig, "r2", NEW)
    for name in ("local", "b2"):
        assert_only(rig, name, KEY, NEW)
