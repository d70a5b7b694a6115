"""kill -9 of a prune at each step of a removal, and others at work on the same key between any two of them."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from fsbackup.errors import ObjectNotFoundError
from fsbackup.replication.prune import PruneReport
from tests.replication.child import kill, running
from tests.replication.eyes import manifest_name
from tests.replication.prune_kit import days, expected_later, prune_later
from tests.replication.test_prune_servers import KEY, NEW, OLD, assert_only, fill, outcomes
from tests.replication.world import World
from tests.servers.faults import Hold

STEPS = [KEY, manifest_name(KEY)]
NEWER = b"replaced meanwhile"


@pytest.mark.each_choice
@pytest.mark.parametrize("step", STEPS, ids=["data", "manifest"])
@pytest.mark.parametrize("name", ["r2", "b2"])
def test_killed_after_any_step(contested: World, name: str, step: str) -> None:
    """It is absent there, also for whoever reads that backend alone; and the next prune finishes it."""
    world = fill(contested)
    hold = world.proxies[name].add(Hold("after"), on="delete", key=f"{world.prefix}/{step}")
    with running(world.places, "prune", KEY) as process:
        hold.wait_reached(30)
        kill(process)
    world.proxies[name].clear()
    assert world.eyes[name].get(KEY) is None
    assert (world.eyes[name].manifest(KEY) is None) == (step != KEY)
    alone = world.store(names=(name,))
    assert not alone.exists(KEY)
    with pytest.raises(ObjectNotFoundError):
        alone.restore(KEY, world.tmp / "back")
    store = world.store()
    assert store.download(KEY, str(world.tmp / "back"))
    assert (world.tmp / "back").read_bytes() == OLD
    verified = store.verify(expired=expected_later(store))
    assert (verified.status, verified.found) == ("complete", 0)
    assert store.repair(expired=expected_later(store)).steps == ()
    assert prune_later(store).status == "complete"
    for bucket in ("r2", "b2"):
        assert_only(world, bucket, NEW)
    assert_only(world, "local", KEY, NEW)


def interrupted(world: World, step: str, other: Callable[[], object]) -> PruneReport:
    """Hold a prune of R2 before a step, let something else run from beginning to end, and let the prune go on."""
    hold = world.proxies["r2"].add(Hold("before"), on="delete", key=f"{world.prefix}/{step}", times=1)
    reports: list[PruneReport] = []
    store = world.store()
    thread = threading.Thread(target=lambda: reports.append(prune_later(store, {"r2": days(30)})))
    thread.start()
    hold.wait_reached()
    other()
    hold.release()
    thread.join(60)
    return reports[0]


@pytest.mark.parametrize("step", STEPS, ids=["data", "manifest"])
def test_an_overwrite_meanwhile(contested: World, step: str) -> None:
    """The new version is never lost: what the prune had already asked for is named, and refilled by repair."""
    world = fill(contested)
    new = world.file(NEWER, "new")
    report = interrupted(world, step, lambda: world.store().replicate(new, KEY, overwrite=True))
    if step == KEY:
        assert (report.status, outcomes(report)) == ("degraded", {"r2": "blocked"})
        assert "another process is storing, or has stored, another version" in report.steps[0].reason
    for name in ("local", "b2"):
        assert world.eyes[name].provable(KEY) == NEWER
    store = world.store()
    if world.eyes["r2"].provable(KEY) != NEWER:
        assert [(each.backend, each.state) for each in store.verify().problems] in (
            [("r2", "missing")],
            [("r2", "no manifest")],
        )
    assert store.repair().status == "complete"
    world.clean(KEY, NEW)
    assert all(eye.provable(KEY) == NEWER for eye in world.eyes.values())


@pytest.mark.each_choice
@pytest.mark.parametrize("step", STEPS, ids=["data", "manifest"])
@pytest.mark.parametrize("other", ["delete", "prune", "repair"])
def test_others_meanwhile(contested: World, other: str, step: str) -> None:
    """A delete counts, a second prune does the same, and a repair that misses nothing does nothing."""
    world = fill(contested)

    def act() -> None:
        store = world.store()
        if other == "delete":
            assert store.remove(KEY).status == "complete"
        elif other == "prune":
            assert prune_later(store, {"r2": days(30)}).status == "complete"
        else:
            assert store.repair(expired=expected_later(store, {"r2": days(30)})).steps == ()

    report = interrupted(world, step, act)
    assert report.status == "complete", report.as_dict()
    if other == "delete":
        world.clean(NEW)
        return
    assert_only(world, "r2", NEW)
    for name in ("local", "b2"):
        assert_only(world, name, KEY, NEW)
