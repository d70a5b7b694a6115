"""kill -9 between any two steps: the old or the new state, each provable; the same run again completes."""

from __future__ import annotations

import io
from typing import Literal

import pytest

from tests.matrix import sparing
from tests.replication.child import INTERRUPTED, interrupt, kill, running
from tests.replication.eyes import manifest_name, pending_name
from tests.replication.world import PART, World, content
from tests.servers.faults import Hold
from tests.servers.operations import Operation

KEY = "wal/000000010000000000000042"
OLD, NEW = content(PART + 100, seed=1), content(PART + 100, seed=2)
#: The writing requests that one S3 replica gets, in order, as (operation, part of the key).
STEPS: dict[str, list[tuple[Operation, str]]] = {
    "create": [
        ("create_multipart", KEY),
        ("upload_part", KEY),
        ("complete", KEY),
        ("put_object", manifest_name(KEY)),
    ],
    "overwrite": [
        ("create_multipart", KEY),
        ("upload_part", KEY),
        ("put_object", pending_name(KEY)),
        ("complete", KEY),
        ("put_object", manifest_name(KEY)),
        ("delete", pending_name(KEY)),
    ],
    "delete": [("put_object", manifest_name(KEY)), ("delete", f"/{KEY}"), ("delete", manifest_name(KEY))],
}
#: Before a step is hardly another moment than after the one before it, except where the step is what counts.
CASES = [
    *((action, step, "after") for action, steps in STEPS.items() for step in steps),
    *((action, step, "before") for action, steps in STEPS.items() for step in steps[-3:-1]),
]
#: By default each action is killed between its data and its manifest.
FIRST = [(action, steps[-2], "after") for action, steps in STEPS.items()]


def prepared(world: World, action: str) -> tuple[bytes | None, bytes | None]:
    """Store what the action starts from; return the content before and after it."""
    if action != "create":
        world.store().replicate(world.file(OLD, "old"), KEY)
    world.file(NEW, "new")
    return None if action == "create" else OLD, None if action == "delete" else NEW


def assert_old_or_new(world: World, states: tuple[bytes | None, bytes | None]) -> None:
    """Check each replica by hand, then that the library reads one of the two states."""
    for name, eye in world.eyes.items():
        assert eye.provable(KEY) in states, name
    for target in (world.tmp / "back", io.BytesIO()):
        try:
            world.store().restore(KEY, target)
        except FileNotFoundError:
            assert None in states
        else:
            back = target.getvalue() if isinstance(target, io.BytesIO) else target.read_bytes()
            assert back in states


def run_again(world: World, action: str) -> None:
    """Run the action again, without a crash, and check that it completes."""
    store = world.store()
    if action == "delete":
        assert store.remove(KEY).status == "complete"
        assert all(eye.provable(KEY) is None and eye.manifest(KEY) is None for eye in world.eyes.values())
        return
    report = store.replicate(world.tmp / "new", KEY, overwrite=action == "overwrite")
    assert report.status == "complete", report.as_dict()
    for name, eye in world.eyes.items():
        assert eye.get(KEY) == NEW, name
        assert eye.provable(KEY) == NEW, name


@pytest.mark.parametrize(("action", "step", "when"), sparing(CASES, FIRST), ids=str)
def test_killed_at_any_step(
    world: World, action: str, step: tuple[Operation, str], when: Literal["before", "after"]
) -> None:
    """A process killed before or after any request of one replica leaves each replica old or new."""
    states = prepared(world, action)
    hold = world.proxies["r2"].add(Hold(when), on=step[0], key=step[1])
    with running(world.places, action, KEY, world.tmp / "new") as process:
        hold.wait_reached(30)
        kill(process)
    world.settle()
    assert_old_or_new(world, states)
    run_again(world, action)


@pytest.mark.parametrize("step", STEPS["overwrite"][2:5], ids=str)
def test_killed_everywhere_at_the_same_step(world: World, step: tuple[Operation, str]) -> None:
    """All replicas stopped behind the same step of a replacement: still one version or the other."""
    world.store(names=("r2", "b2")).replicate(world.file(OLD, "old"), KEY)
    world.file(NEW, "new")
    holds = [proxy.add(Hold("after"), on=step[0], key=step[1]) for proxy in world.proxies.values()]
    with running(world.places, "overwrite", KEY, world.tmp / "new") as process:
        for hold in holds:
            hold.wait_reached(30)
        kill(process)
    world.settle()
    for name in ("r2", "b2"):
        assert world.eyes[name].provable(KEY) in (OLD, NEW)
        for target in (world.tmp / "back", io.BytesIO()):
            world.store(names=("r2", "b2")).restore(KEY, target)
            back = target.getvalue() if isinstance(target, io.BytesIO) else target.read_bytes()
            assert back in (OLD, NEW)


def test_the_old_content_is_sent_again_after_a_crash_replaced_its_data(world: World) -> None:
    """A crash left new data under an old manifest, of the same size: the old content must be sent again."""
    store = world.store(names=("local",))
    store.replicate(world.file(OLD, "old"), KEY)
    before = world.eyes["local"].get(manifest_name(KEY))
    store.replicate(world.file(NEW, "new"), KEY, overwrite=True)
    after = world.eyes["local"].get(manifest_name(KEY))
    assert before is not None
    assert after is not None
    world.eyes["local"].put(pending_name(KEY), after)  # the instant after the data's rename
    world.eyes["local"].put(manifest_name(KEY), before)
    assert world.eyes["local"].provable(KEY) == NEW
    assert store.upload(world.tmp / "old", KEY)
    assert world.eyes["local"].get(KEY) == OLD


@pytest.mark.parametrize(
    ("action", "step"),
    [
        ("create", STEPS["create"][1]),
        ("create", STEPS["create"][3]),
        *(("overwrite", step) for step in STEPS["overwrite"][2:4]),
    ],
    ids=str,
)
def test_ctrl_c_leaves_nothing_unfinished(world: World, action: str, step: tuple[Operation, str]) -> None:
    """Ctrl-C while a request hangs ends the process with no multipart upload left and nothing torn."""
    states = prepared(world, action)
    hold = world.proxies["r2"].add(Hold("before"), on=step[0], key=step[1])
    with running(world.places, action, KEY, world.tmp / "new") as process:
        hold.wait_reached(30)
        interrupt(process)
        process.join(25)
        assert process.exitcode == INTERRUPTED
    world.proxies["r2"].clear()
    assert [eye.unfinished() for eye in world.eyes.values()] == [[], [], []]
    assert not [name for name in world.eyes["local"].names() if name.endswith("-tmp")]
    assert_old_or_new(world, states)
