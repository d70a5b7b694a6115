"""The world before the operation: the objects, what repair shall mend, and what somebody else put there."""

from __future__ import annotations

import time
from pathlib import Path

from fsbackup import ReplicatedStorage
from tests.faults.child import MIN_COPIES
from tests.faults.damage import damage
from tests.faults.plan import FOLDER, KEYS, REPLICAS, Harm, ObjectPlan, Plan
from tests.faults.promises import Expectations
from tests.replication.raw_replicas import RawBucket, manifest_name
from tests.replication.rig import ReplicaRig
from tests.servers.endpoint import client

#: Names that other programs give beside our objects; some look a little like ours.
THEIRS = ("backups/.2025.sql.Xk29aB", "theirs/notes.txt", "backups/old.fsbackup-tmp", ".fsbackup/readme.txt")
THEIR_UPLOAD = f"{FOLDER}/2025-10-01.sql"
EARLIER = b"what was in the target before"


def prepare(rig: ReplicaRig, plan: Plan, store: ReplicatedStorage, targets: Path) -> Expectations:
    """Build it, and return what may become of it."""
    expected = Expectations(rig.raw_replicas)
    for planned in plan.objects_planned:
        both = (planned.before, planned.after)
        expected.allowed[planned.key] = frozenset(None if each is None else each.data for each in both)
        if planned.before is None:
            expected.bare.add(planned.key)
        if plan.ruled and planned.key != KEYS[-1]:
            expected.expiring[planned.key] = frozenset(plan.ruled)
    _put_objects(rig, plan, store)
    _put_theirs(expected, plan)
    targets.mkdir()
    if plan.earlier:
        for key in KEYS:
            (targets / Path(key).name).write_bytes(EARLIER)
    for planned in plan.objects_planned:
        if planned.harm and plan.harmed:
            _damage(rig, plan, expected, planned, planned.harm)
        elif planned.after is not None and planned.changes:
            rig.file(planned.after.data, Path(planned.key).name)
    return expected


def _put_objects(rig: ReplicaRig, plan: Plan, store: ReplicatedStorage) -> None:
    *rest, last = [planned for planned in plan.objects_planned if planned.before is not None]
    _put(rig, store, rest)
    if plan.ruled:
        # Objects of one second count as equally old, and what is newer is what retention keeps.
        time.sleep(1.02 - time.time() % 1)
    _put(rig, store, [last])


def _put(rig: ReplicaRig, store: ReplicatedStorage, objects_planned: list[ObjectPlan]) -> None:
    items = [
        (rig.file(each.before.data, f"old-{Path(each.key).name}"), each.key)
        for each in objects_planned
        if each.before
    ]
    for outcome in store.replicate_many(items):
        assert outcome.report is not None, outcome.error
        assert outcome.report.status == "complete", outcome.report.as_dict()


def _put_theirs(expected: Expectations, plan: Plan) -> None:
    """Put other programs' files on one replica, and for one in four rounds an unfinished upload of theirs."""
    chance = plan.chance
    name = chance.choice(REPLICAS)
    expected.theirs[name] = {each: each.encode() for each in THEIRS}
    for each, data in expected.theirs[name].items():
        expected.raw_replicas[name].put(each, data)
    raw = expected.raw_replicas[name]
    if isinstance(raw, RawBucket) and chance.random() < 0.25:
        expected.uploads[name] = {THEIR_UPLOAD}
        where = {"Bucket": raw.endpoint.bucket, "Key": raw.prefix + THEIR_UPLOAD}
        where["UploadId"] = client(raw.endpoint).create_multipart_upload(**where)["UploadId"]
        client(raw.endpoint).upload_part(**where, PartNumber=1, Body=b"theirs")


def _damage(rig: ReplicaRig, plan: Plan, expected: Expectations, planned: ObjectPlan, harm: Harm) -> None:
    """Make something for repair to mend; from here on there is one content to be had."""
    assert plan.harmed is not None
    assert planned.after is not None
    raw, key = rig.raw_replicas[plan.harmed], planned.key
    if harm == "stale":
        others = tuple(name for name in REPLICAS if name != plan.harmed)
        path = rig.file(planned.after.data, Path(key).name)
        report = rig.store(names=others, min_copies=MIN_COPIES).replicate(path, key, overwrite=True)
        assert report.status == "complete", report.as_dict()
    elif harm in ("rotten", "short"):
        assert damage(raw, "flip" if harm == "rotten" else "truncate", [key], plan.chance, hidden=True)
    else:
        for name in {"missing": (key, manifest_name(key)), "no data": (key,)}.get(harm, (manifest_name(key),)):
            raw.drop(name)
    expected.due[key] = planned.after.data
    expected.allowed[key] = frozenset({planned.after.data})
    expected.excused[plan.harmed, key] = frozenset({raw.get(key), planned.after.data})
