"""kill -9 between any two steps: the old or the new state, each provable; the same run again completes."""

from __future__ import annotations

import io
from typing import Literal

import pytest

from tests.matrix import matrix, sparing
from tests.replication.child import INTERRUPTED, interrupt, kill, running
from tests.replication.raw_replicas import (
    PENDING,
    RECORDS,
    manifest_name,
    pending_name,
    pending_prefix,
    tombstone_name,
)
from tests.replication.rig import PART, ReplicaRig, content
from tests.servers.faults import Hold
from tests.servers.operations import Operation

KEY = "wal/000000010000000000000042"
OLD, NEW = content(PART + 100, seed=1), content(PART + 100, seed=2)
#: The writing requests that one S3 replica gets, in order, as (operation, part of the key).
STEPS_INSIDE: dict[str, list[tuple[Operation, str]]] = {
    "create": [
        ("create_multipart", KEY),
        ("upload_part", KEY),
        ("put_object", f"{RECORDS}{KEY}/"),
        ("complete", KEY),
    ],
    "overwrite": [
        ("create_multipart", KEY),
        ("upload_part", KEY),
        ("put_object", f"{RECORDS}{KEY}/"),
        ("complete", KEY),
        ("delete", f"{RECORDS}{KEY}/"),
    ],
    "delete": [
        ("put_object", tombstone_name(KEY)),
        ("delete", f"/{KEY}"),
        ("delete", f"{RECORDS}{KEY}/"),
        ("delete", tombstone_name(KEY)),
    ],
}
STEPS_BESIDE: dict[str, list[tuple[Operation, str]]] = {
    "create": [
        ("create_multipart", KEY),
        ("upload_part", KEY),
        ("complete", KEY),
        ("put_object", manifest_name(KEY)),
    ],
    "overwrite": [
        ("create_multipart", KEY),
        ("upload_part", KEY),
        ("put_object", pending_prefix(KEY)),
        ("complete", KEY),
        ("put_object", manifest_name(KEY)),
        ("delete", pending_prefix(KEY)),
    ],
    "delete": [
        ("put_object", tombstone_name(KEY)),
        ("delete", f"/{KEY}"),
        ("delete", manifest_name(KEY)),
        ("delete", tombstone_name(KEY)),
    ],
}
#: Before a step is hardly another moment than after the one before it, except where the step is what counts.
CASES = [
    (records, action, step, when)
    for records, all_steps in (("inside", STEPS_INSIDE), ("beside", STEPS_BESIDE))
    for action, steps in all_steps.items()
    for when, some in (("after", steps), ("before", steps[-3:-1]))
    for step in some
]
#: By default each action is killed between its data and its manifest.
FIRST = [
    (records, action, steps[-2], "after")
    for records, all_steps in (("inside", STEPS_INSIDE), ("beside", STEPS_BESIDE))
    for action, steps in all_steps.items()
]


def prepared(rig: ReplicaRig, action: str) -> tuple[bytes | None, bytes | None]:
    """Store what the action starts from; return the content before and after it."""
    if action != "create":
        rig.store().replicate(rig.file(OLD, "old"), KEY)
    rig.file(NEW, "new")
    return None if action == "create" else OLD, None if action == "delete" else NEW


def assert_old_or_new(rig: ReplicaRig, states: tuple[bytes | None, bytes | None]) -> None:
    """Check each replica by hand, then that the library reads one of the two states."""
    for name, raw in rig.raw_replicas.items():
        assert raw.provable(KEY) in states, name
    for target in (rig.tmp / "back", io.BytesIO()):
        try:
            rig.store().restore(KEY, target)
        except FileNotFoundError:
            assert None in states
        else:
            back = target.getvalue() if isinstance(target, io.BytesIO) else target.read_bytes()
            assert back in states


def is_cleared_in_a_day(name: str) -> bool:
    """Return whether a repair removes what was killed there: a record behind an id, an intent or a temp file."""
    return name.startswith((RECORDS, PENDING)) or name.endswith(".fsbackup-tmp")


def run_again(rig: ReplicaRig, action: str) -> None:
    """Run the action again, without a crash, and check that it completes."""
    store = rig.store()
    if action == "delete":
        assert store.remove(KEY).status == "complete"
        left = {each for raw in rig.raw_replicas.values() for each in raw.names()}
        assert not {each for each in left if not is_cleared_in_a_day(each)}
        return
    report = store.replicate(rig.tmp / "new", KEY, overwrite=action == "overwrite")
    assert report.status == "complete", report.as_dict()
    for name, raw in rig.raw_replicas.items():
        assert raw.get(KEY) == NEW, name
        assert raw.provable(KEY) == NEW, name


@pytest.mark.parametrize(("records", "action", "step", "when"), sparing(CASES, FIRST), ids=str)
def test_killed_at_any_step(
    rig: ReplicaRig, records: str, action: str, step: tuple[Operation, str], when: Literal["before", "after"]
) -> None:
    """A process killed before or after any request of one replica leaves each replica old or new."""
    rig = rig.beside() if records == "beside" else rig
    states = prepared(rig, action)
    hold = rig.proxies["r2"].add(Hold(when), on=step[0], key=step[1])
    with running(rig.places, action, KEY, rig.tmp / "new") as process:
        hold.wait_reached(30)
        kill(process)
    rig.settle()
    assert_old_or_new(rig, states)
    run_again(rig, action)


@pytest.mark.parametrize(
    ("records", "step"),
    [
        *(("inside", step) for step in STEPS_INSIDE["overwrite"][2:4]),
        ("beside", STEPS_BESIDE["overwrite"][3]),
        *map(
            matrix,
            ["inside", "beside", "beside"],
            [STEPS_INSIDE["overwrite"][4], *STEPS_BESIDE["overwrite"][2:5:2]],
        ),
    ],
    ids=str,
)
def test_killed_everywhere_at_the_same_step(rig: ReplicaRig, records: str, step: tuple[Operation, str]) -> None:
    """All replicas stopped behind the same step of a replacement: still one version or the other."""
    rig = rig.beside() if records == "beside" else rig
    rig.store(names=("r2", "b2")).replicate(rig.file(OLD, "old"), KEY)
    rig.file(NEW, "new")
    holds = [proxy.add(Hold("after"), on=step[0], key=step[1]) for proxy in rig.proxies.values()]
    with running(rig.places, "overwrite", KEY, rig.tmp / "new") as process:
        for hold in holds:
            hold.wait_reached(30)
        kill(process)
    rig.settle()
    for name in ("r2", "b2"):
        assert rig.raw_replicas[name].provable(KEY) in (OLD, NEW)
        for target in (rig.tmp / "back", io.BytesIO()):
            rig.store(names=("r2", "b2")).restore(KEY, target)
            back = target.getvalue() if isinstance(target, io.BytesIO) else target.read_bytes()
            assert back in (OLD, NEW)


def test_the_old_content_is_sent_again_after_a_crash_replaced_its_data(rig: ReplicaRig) -> None:
    """A crash left new data under an old manifest, of the same size: the old content must be sent again."""
    store = rig.store(names=("local",))
    store.replicate(rig.file(OLD, "old"), KEY)
    before = rig.raw_replicas["local"].get(manifest_name(KEY))
    store.replicate(rig.file(NEW, "new"), KEY, overwrite=True)
    after = rig.raw_replicas["local"].get(manifest_name(KEY))
    assert before is not None
    assert after is not None
    rig.raw_replicas["local"].put(pending_name(KEY), after)  # the instant after the data's rename
    rig.raw_replicas["local"].put(manifest_name(KEY), before)
    assert rig.raw_replicas["local"].provable(KEY) == NEW
    assert store.upload(rig.tmp / "old", KEY)
    assert rig.raw_replicas["local"].get(KEY) == OLD


@pytest.mark.parametrize(
    ("records", "action", "step"),
    [
        ("inside", "create", STEPS_INSIDE["create"][1]),
        *(matrix("inside", "overwrite", step) for step in STEPS_INSIDE["overwrite"][2:4]),
        matrix("beside", "create", STEPS_BESIDE["create"][3]),
        *(("beside", "overwrite", step) for step in STEPS_BESIDE["overwrite"][2:4]),
    ],
    ids=str,
)
def test_ctrl_c_leaves_nothing_unfinished(
    rig: ReplicaRig, records: str, action: str, step: tuple[Operation, str]
) -> None:
    """Ctrl-C while a request hangs ends the process with no multipart upload left and nothing torn."""
    rig = rig.beside() if records == "beside" else rig
    states = prepared(rig, action)
    hold = rig.proxies["r2"].add(Hold("before"), on=step[0], key=step[1])
    # What tidies up may come after the request that hangs, and waits for its timeout.
    with running(rig.places, action, KEY, rig.tmp / "new", timeout=4.0) as process:
        hold.wait_reached(30)
        interrupt(process)
        process.join(25)
        assert process.exitcode == INTERRUPTED
    rig.proxies["r2"].clear()
    assert [raw.unfinished() for raw in rig.raw_replicas.values()] == [[], [], []]
    assert not [name for name in rig.raw_replicas["local"].names() if name.endswith("-tmp")]
    assert_old_or_new(rig, states)
