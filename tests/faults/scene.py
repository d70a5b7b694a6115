"""The world before the operation: the objects, what repair shall mend, and what somebody else put there."""

from __future__ import annotations

import time
from pathlib import Path

from fsbackup import ReplicatedStorage
from tests.faults.child import MIN_COPIES
from tests.faults.damage import damage
from tests.faults.plan import FOLDER, KEYS, REPLICAS, Harm, Plan, Thing
from tests.faults.promises import Ledger
from tests.replication.eyes import BucketEye, manifest_name
from tests.replication.world import World
from tests.servers.endpoint import client

#: Names that other programs give beside our objects; some look a little like ours.
THEIRS = ("backups/.2025.sql.Xk29aB", "theirs/notes.txt", "backups/old.fsbackup-tmp", ".fsbackup/readme.txt")
THEIR_UPLOAD = f"{FOLDER}/2025-10-01.sql"
EARLIER = b"what was in the target before"


def prepare(world: World, plan: Plan, store: ReplicatedStorage, targets: Path) -> Ledger:
    """Build it, and return what may become of it."""
    ledger = Ledger(world.eyes)
    for thing in plan.things:
        both = (thing.before, thing.after)
        ledger.allowed[thing.key] = frozenset(None if each is None else each.data for each in both)
        if thing.before is None:
            ledger.bare.add(thing.key)
        if plan.ruled and thing.key != KEYS[-1]:
            ledger.expiring[thing.key] = frozenset(plan.ruled)
    _put_objects(world, plan, store)
    _put_theirs(ledger, plan)
    targets.mkdir()
    if plan.earlier:
        for key in KEYS:
            (targets / Path(key).name).write_bytes(EARLIER)
    for thing in plan.things:
        if thing.harm and plan.harmed:
            _harm(world, plan, ledger, thing, thing.harm)
        elif thing.after is not None and thing.changes:
            world.file(thing.after.data, Path(thing.key).name)
    return ledger


def _put_objects(world: World, plan: Plan, store: ReplicatedStorage) -> None:
    *rest, last = [thing for thing in plan.things if thing.before is not None]
    _put(world, store, rest)
    if plan.ruled:
        # Objects of one second count as equally old, and what is newer is what retention keeps.
        time.sleep(1.02 - time.time() % 1)
    _put(world, store, [last])


def _put(world: World, store: ReplicatedStorage, things: list[Thing]) -> None:
    items = [
        (world.file(each.before.data, f"old-{Path(each.key).name}"), each.key) for each in things if each.before
    ]
    for outcome in store.replicate_many(items):
        assert outcome.report is not None, outcome.error
        assert outcome.report.status == "complete", outcome.report.as_dict()


def _put_theirs(ledger: Ledger, plan: Plan) -> None:
    """Put other programs' files on one replica, and for one in four rounds an unfinished upload of theirs."""
    chance = plan.chance
    name = chance.choice(REPLICAS)
    ledger.theirs[name] = {each: each.encode() for each in THEIRS}
    for each, data in ledger.theirs[name].items():
        ledger.eyes[name].put(each, data)
    eye = ledger.eyes[name]
    if isinstance(eye, BucketEye) and chance.random() < 0.25:
        ledger.uploads[name] = {THEIR_UPLOAD}
        where = {"Bucket": eye.endpoint.bucket, "Key": eye.prefix + THEIR_UPLOAD}
        where["UploadId"] = client(eye.endpoint).create_multipart_upload(**where)["UploadId"]
        client(eye.endpoint).upload_part(**where, PartNumber=1, Body=b"theirs")


def _harm(world: World, plan: Plan, ledger: Ledger, thing: Thing, harm: Harm) -> None:
    """Make something for repair to mend; from here on there is one content to be had."""
    assert plan.harmed is not None
    assert thing.after is not None
    eye, key = world.eyes[plan.harmed], thing.key
    if harm == "stale":
        others = tuple(name for name in REPLICAS if name != plan.harmed)
        path = world.file(thing.after.data, Path(key).name)
        report = world.store(names=others, min_copies=MIN_COPIES).replicate(path, key, overwrite=True)
        assert report.status == "complete", report.as_dict()
    elif harm in ("rotten", "short"):
        assert damage(eye, "flip" if harm == "rotten" else "truncate", [key], plan.chance, hidden=True)
    else:
        for name in {"missing": (key, manifest_name(key)), "no data": (key,)}.get(harm, (manifest_name(key),)):
            eye.drop(name)
    ledger.due[key] = thing.after.data
    ledger.allowed[key] = frozenset({thing.after.data})
    ledger.excused[plan.harmed, key] = frozenset({eye.get(key), thing.after.data})
