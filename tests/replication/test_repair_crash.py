"""kill -9 of a repair between any two steps: what was proven stays proven, and a second repair completes it."""

from __future__ import annotations

from typing import Literal

import pytest

from fsbackup.loop import run
from fsbackup.replication.repair import RepairOptions, repair
from tests.matrix import matrix, sparing
from tests.replication.child import kill, running
from tests.replication.raw_replicas import (
    RECORDS,
    RawBucket,
    manifest_name,
    pending_prefix,
    proves,
    tombstone_name,
)
from tests.replication.rig import MIB, PART, ReplicaRig, content
from tests.replication.test_repair import drop_all, replace_while_away, switched_off, unfinish
from tests.servers import s3
from tests.servers.endpoint import client
from tests.servers.faults import Hold
from tests.servers.operations import Operation

KEY = "backups/2025/shop.dump"
OLD, NEW = content(PART + MIB, seed=1), content(PART + MIB, seed=2)
#: Read from each replica with several requests.
LONG = content(6 * PART, seed=3)
DATA: list[tuple[Operation, str]] = [("create_multipart", KEY), ("upload_part", KEY), ("complete", KEY)]
MANIFEST: tuple[Operation, str] = ("put_object", manifest_name(KEY))
TOMBSTONE: tuple[Operation, str] = ("put_object", tombstone_name(KEY))
ANNOUNCE: tuple[Operation, str] = ("put_object", pending_prefix(KEY))
UNANNOUNCE: tuple[Operation, str] = ("delete", pending_prefix(KEY))
RECORD: tuple[Operation, str] = ("put_object", f"{RECORDS}{KEY}/")
UNRECORD: tuple[Operation, str] = ("delete", f"{RECORDS}{KEY}/")
#: Every changing request that a repair sends to the one replica that needs it, with manifests inside the objects.
STEPS_INSIDE: dict[str, list[tuple[Operation, str]]] = {
    "missing": [*DATA[:2], RECORD, DATA[2]],
    "stale": [*DATA[:2], RECORD, DATA[2], UNRECORD],
    "rotten": [*DATA[:2], RECORD, DATA[2]],
    "no manifest": [RECORD, ("copy_object", KEY)],
    "deleted": [TOMBSTONE, ("delete", f"/{KEY}"), UNRECORD, ("delete", tombstone_name(KEY))],
}
#: The same with manifests beside the objects.
STEPS_BESIDE: dict[str, list[tuple[Operation, str]]] = {
    "missing": [*DATA, MANIFEST],
    "stale": [*DATA[:2], ANNOUNCE, DATA[2], MANIFEST, UNANNOUNCE],
    "rotten": [*DATA[:2], ANNOUNCE, DATA[2], MANIFEST, UNANNOUNCE],
    "no manifest": [MANIFEST],
    "unfinished": [MANIFEST, UNANNOUNCE],
    "deleted": [
        TOMBSTONE,
        ("delete", f"/{KEY}"),
        ("delete", manifest_name(KEY)),
        ("delete", tombstone_name(KEY)),
    ],
}
STEPS = {"inside": STEPS_INSIDE, "beside": STEPS_BESIDE}
CASES = [
    (records, harm, step, when)
    for records, all_steps in STEPS.items()
    for harm, steps in all_steps.items()
    for step in steps
    for when in ("before", "after")
]
#: One side of a step is hardly another moment than the other side of the one next to it.
CASES = [case for number, case in enumerate(CASES) if case[3] == "after" or number % 4 == 0]
#: By default the repair of each harm is killed once, after the last thing that it asks for.
FIRST = [
    (records, harm, steps[-1], "after")
    for records, all_steps in STEPS.items()
    for harm, steps in all_steps.items()
    if records == "inside" or harm in ("stale", "unfinished")
]


def harmed(rig: ReplicaRig, harm: str) -> tuple[bytes | None, ...]:
    """Make something for repair to do at R2; return what the object may be from here on, the final state last."""
    rig.store().replicate(rig.file(OLD, "old"), KEY)
    if harm == "missing":
        drop_all(rig, "r2")
    elif harm == "stale":
        replace_while_away(rig, "r2", NEW)
        return OLD, NEW
    elif harm == "rotten":
        rig.raw_replicas["r2"].put(KEY, bytes(len(OLD)))
    elif harm == "no manifest":
        rig.raw_replicas["r2"].drop(manifest_name(KEY))
    elif harm == "unfinished":
        unfinish(rig, "r2")
        return OLD, NEW
    else:
        with switched_off(rig, "r2"):
            rig.store().remove(KEY)
        return OLD, None
    return (OLD,)


@pytest.mark.parametrize(("records", "harm", "step", "when"), sparing(CASES, FIRST), ids=str)
def test_killed_at_any_step(
    rig: ReplicaRig, records: str, harm: str, step: tuple[Operation, str], when: Literal["before", "after"]
) -> None:
    """A repair killed before or after any request leaves each replica as it was or right, the object readable."""
    rig = rig.beside() if records == "beside" else rig
    states = harmed(rig, harm)
    hold = rig.proxies["r2"].add(Hold(when), on=step[0], key=step[1])
    with running(rig.places, "repair", KEY) as process:
        hold.wait_reached(30)
        kill(process)
    rig.settle()
    for name in ("local", "b2") if harm in ("rotten", "missing") else rig.raw_replicas:
        assert rig.raw_replicas[name].provable(KEY) in states, name
    if harm == "rotten":
        assert rig.raw_replicas["r2"].get(KEY) in (bytes(len(OLD)), OLD)
    elif harm == "missing":
        assert rig.raw_replicas["r2"].get(KEY) in (None, OLD)
    assert_readable(rig, states)
    report = run(repair(rig.store().replica_set, RepairOptions(safe_age=0.0)))
    assert report.status == "complete", report.as_dict()
    if step[0] == "create_multipart":
        abort_empty_upload(rig)
    assert_final(rig, states[-1])


def abort_empty_upload(rig: ReplicaRig) -> None:
    """Abort what was begun a moment before it could be recorded as ours, so that nobody may: it has no part."""
    raw = rig.raw_replicas["r2"]
    assert isinstance(raw, RawBucket)
    for upload in s3.list_uploads(raw.endpoint, raw.prefix):
        where = {"Bucket": raw.endpoint.bucket, "Key": upload.key, "UploadId": upload.upload_id}
        assert not client(raw.endpoint).list_parts(**where).get("Parts")
        client(raw.endpoint).abort_multipart_upload(**where)


def assert_readable(rig: ReplicaRig, states: tuple[bytes | None, ...]) -> None:
    target = rig.tmp / "back"
    try:
        rig.store().restore(KEY, target)
    except FileNotFoundError:
        assert None in states
    else:
        assert target.read_bytes() in states


def assert_final(rig: ReplicaRig, data: bytes | None) -> None:
    if data is None:
        rig.clean()
        return
    rig.clean(KEY)
    for name, raw in rig.raw_replicas.items():
        record = raw.manifest(KEY)
        assert raw.get(KEY) == data, name
        assert record is not None
        assert proves(record, data), name


@pytest.mark.parametrize("harm", ["missing", matrix("rotten")])
def test_killed_while_a_disk_is_refilled(rig: ReplicaRig, harm: str) -> None:
    """A repair of the local replica killed while it reads: what is there stays, and nothing torn appears."""
    rig.store().replicate(rig.file(LONG, "old"), KEY)
    rotten = bytes(len(LONG))
    if harm == "missing":
        drop_all(rig, "local")
    else:
        rig.raw_replicas["local"].put(KEY, rotten)
    holds = [proxy.add(Hold(), on="get", key=f"{rig.prefix}/{KEY}", first=2) for proxy in rig.proxies.values()]
    with running(rig.places, "repair", KEY) as process:
        holds[0].wait_reached(30)
        kill(process)
    rig.settle()
    assert rig.raw_replicas["local"].get(KEY) == (None if harm == "missing" else rotten)
    assert_readable(rig, (LONG,))
    report = run(repair(rig.store().replica_set, RepairOptions(safe_age=0.0)))
    assert report.status == "complete", report.as_dict()
    assert_final(rig, LONG)
