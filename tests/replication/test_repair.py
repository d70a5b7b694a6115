"""`repair`: every wrong state on every kind of replica made right, from proven bytes; nothing else touched."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fsbackup import LocalStorage, ReplicatedStorage
from fsbackup.engine import breaker
from fsbackup.loop import run
from fsbackup.replication.repair import RepairOptions, RepairReport, repair
from tests.integration.cli_helpers import wait_until
from tests.replication.child import kill, running
from tests.replication.raw_replicas import (
    PENDING,
    RawBucket,
    manifest_name,
    pending_name,
    pending_prefix,
    proves,
    sealed,
)
from tests.replication.rig import MIB, PART, ReplicaRig, connect, content
from tests.servers import s3
from tests.servers.endpoint import client
from tests.servers.faults import Hold, Refuse, Status

NAMES = ("local", "r2", "b2")
KEY = "backups/2025/shop.dump"
#: Two parts, so that both ways of storing an object in a bucket are used (see `SMALL`).
OLD, NEW = content(PART + MIB, seed=1), content(PART + MIB, seed=2)
SMALL = content(5000, seed=3)


@contextmanager
def switched_off(rig: ReplicaRig, name: str) -> Iterator[None]:
    """Have a replica answer nobody while the block runs; what comes after it is another process, and later."""
    if name != "local":
        rig.proxies[name].add(Refuse())
        yield
        rig.proxies[name].clear()
        return
    away = rig.base.with_name("away")
    rig.base.rename(away)
    rig.base.write_bytes(b"no directory")
    yield
    rig.base.unlink()
    away.rename(rig.base)
    breaker.forget()


def others(name: str) -> tuple[str, ...]:
    return tuple(each for each in NAMES if each != name)


def flipped(data: bytes, at: int) -> bytes:
    """Return data with one bit of one byte turned over."""
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def drop_all(rig: ReplicaRig, name: str) -> None:
    rig.raw_replicas[name].drop(KEY)
    rig.raw_replicas[name].drop(manifest_name(KEY))


def replace_while_away(rig: ReplicaRig, name: str, data: bytes = NEW) -> None:
    with switched_off(rig, name):
        report = rig.store(min_copies=2).replicate(rig.file(data, "new"), KEY, overwrite=True)
        assert report.status == "degraded"


def unfinish(rig: ReplicaRig, name: str) -> None:
    """Leave a replacement as a crash does between its data and its manifest, begun on one replica only."""
    before = rig.raw_replicas[name].get(manifest_name(KEY))
    assert before is not None
    assert rig.store(names=(name,)).replicate(rig.file(NEW, "new"), KEY, overwrite=True)
    after = rig.raw_replicas[name].get(manifest_name(KEY))
    assert after is not None
    rig.raw_replicas[name].put(pending_name(KEY), after)
    rig.raw_replicas[name].put(manifest_name(KEY), before)


#: What is done to one replica, the first action that mends it, and what it holds then.
WRONG: dict[str, tuple[Callable[[ReplicaRig, str], None], str, bytes]] = {
    "missing": (drop_all, "refill", OLD),
    "data gone": (lambda rig, name: rig.raw_replicas[name].drop(KEY), "refill", OLD),
    "manifest gone": (lambda rig, name: rig.raw_replicas[name].drop(manifest_name(KEY)), "write manifest", OLD),
    "manifest damaged": (
        lambda rig, name: rig.raw_replicas[name].put(manifest_name(KEY), b'{"format": 1'),
        "write manifest",
        OLD,
    ),
    "short": (lambda rig, name: rig.raw_replicas[name].put(KEY, OLD[:-1]), "refill", OLD),
    "rotten": (lambda rig, name: rig.raw_replicas[name].put(KEY, flipped(OLD, PART + 7)), "refill", OLD),
    "stale": (replace_while_away, "refill", NEW),
    "unfinished": (unfinish, "finish", NEW),
}


def other_data(rig: ReplicaRig, name: str) -> None:
    rig.raw_replicas[name].drop(manifest_name(KEY))
    rig.raw_replicas[name].put(KEY, NEW)


WRONG["other data without a manifest"] = (other_data, "refill", OLD)


def mend(rig: ReplicaRig, **options: Any) -> RepairReport:
    return rig.store(min_copies=1).repair(**options)


def assert_right(rig: ReplicaRig, data: bytes, *, key: str = KEY) -> None:
    """Check by hand that every replica holds and proves one and the same version, and nothing else is there."""
    rig.clean(key)
    for name, raw in rig.raw_replicas.items():
        record = raw.manifest(key)
        assert raw.get(key) == data, name
        assert record is not None
        assert proves(record, data), name
        assert version(rig, name, key) == version(rig, "local", key)


def version(rig: ReplicaRig, name: str, key: str = KEY) -> dict[str, Any]:
    """Return what a replica's manifest says, but for what differs from replica to replica."""
    record = rig.raw_replicas[name].manifest(key)
    assert record is not None
    return {
        field: value
        for field, value in record.items()
        if field not in ("etag", "version_id", "upload_id", "checksum")
    }


@pytest.mark.each_choice
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("wrong", WRONG)
def test_every_wrong_state_is_mended(rig: ReplicaRig, name: str, wrong: str) -> None:
    """What one replica lacks, has wrong or missed is made right, everywhere, and then there is nothing to do."""
    harm, action, data = WRONG[wrong]
    rig = rig.beside() if wrong == "unfinished" else rig
    rig.store().replicate(rig.file(OLD, "old"), KEY)
    before = version(rig, others(name)[0])
    harm(rig, name)
    report = mend(rig)
    assert report.status == "complete", report.as_dict()
    assert (report.steps[0].action.kind, report.steps[0].action.backend) == (action, name)
    assert report.steps[0].action.reason
    if wrong == "unfinished" and name != "local":  # without locks, what announced it stays for a day
        report = run(repair(rig.store(min_copies=1).replica_set, RepairOptions(safe_age=0.0)))
        assert report.done == {"clear intent": 1}
    assert_right(rig, data)
    if data is OLD:
        assert version(rig, name) == before
    again = mend(rig)
    assert (again.status, again.done, again.steps) == ("complete", {}, ())


def tags(rig: ReplicaRig) -> dict[str, str]:
    """Return what the copy at R2 is tagged with, but for what tells one upload from another."""
    stat = run(rig.backend("r2").store.stat(KEY))
    assert stat is not None
    return {name: value for name, value in stat.metadata.items() if name != "fsbackup-upload"}


def test_the_copy_is_like_an_uploaded_one(rig: ReplicaRig) -> None:
    """Modification time, mode and tags of a refilled copy are those of the file that was backed up."""
    path = rig.file(SMALL, "small")
    os.utime(path, ns=(1_700_000_000_123_456_000, 1_700_000_000_123_456_000))
    path.chmod(0o640)
    rig.store().replicate(path, KEY)
    before = tags(rig)
    for name in ("local", "r2"):
        drop_all(rig, name)
    assert mend(rig).status == "complete"
    stat = (rig.base / KEY).stat()
    assert abs(stat.st_mtime_ns - 1_700_000_000_123_456_000) < 1000
    assert stat.st_mode & 0o777 == 0o640
    assert tags(rig) == before


def test_a_long_copy_is_whole_whatever_its_pieces(tmp_path: Path) -> None:
    """It is read in pieces, and written in parts that end within one, from memory that is used again and again."""
    data, part_size = content(24 * MIB + 5), PART + 12_345
    store = ReplicatedStorage([LocalStorage(tmp_path / name, name=name) for name in "ab"], part_size=part_size)
    (tmp_path / "source").write_bytes(data)
    assert store.replicate(tmp_path / "source", KEY).status == "complete"
    (tmp_path / "a" / KEY).unlink()
    assert store.repair().status == "complete"
    assert (tmp_path / "a" / KEY).read_bytes() == data


def test_deep_finds_what_only_bytes_can_tell(rig: ReplicaRig) -> None:
    """A byte that turned over on a disk, with size and times as before, is found by deep, and then mended."""
    rig.store().replicate(rig.file(OLD, "old"), KEY)
    path = rig.base / KEY
    stat = path.stat()
    path.write_bytes(flipped(OLD, 3 * MIB))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert mend(rig).done == {}
    assert mend(rig, deep=True).done == {"refill": 1}
    assert_right(rig, OLD)


def test_a_source_that_lies_is_found_out_and_mended_too(rig: ReplicaRig) -> None:
    """A refill meets rotten bytes in a copy that looked right: it takes another one, and then mends that."""
    rig.store().replicate(rig.file(OLD, "old"), KEY)
    path = rig.base / KEY
    stat = path.stat()
    path.write_bytes(bytes(len(OLD)))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    drop_all(rig, "b2")
    report = mend(rig)
    assert report.status == "complete", report.as_dict()
    assert [step.action.backend for step in report.steps] == ["b2", "local"]
    assert_right(rig, OLD)


def test_one_read_serves_all_that_need_it(rig: ReplicaRig) -> None:
    """Two replicas are refilled from the third, which gives each byte once."""
    rig.store().replicate(rig.file(OLD, "old"), KEY)
    for name in ("local", "b2"):
        drop_all(rig, name)
    rig.proxies["r2"].forget()
    report = mend(rig)
    assert report.done == {"refill": 2}
    assert report.bytes_sent == 2 * len(OLD)
    reads = [
        each for each in rig.proxies["r2"].requests if each.operation == "get" and each.key.endswith(f"/{KEY}")
    ]
    assert sum(each.answer_bytes for each in reads if ".fsbackup" not in each.key) == len(OLD)
    assert_right(rig, OLD)


def test_good_blocks_of_several_bad_copies_make_the_whole(rig: ReplicaRig) -> None:
    """One block is rotten here, another there, and the third copy is gone: still all three become right."""
    rig.store().replicate(rig.file(OLD, "old"), KEY)
    rig.raw_replicas["local"].put(KEY, flipped(OLD, 10))
    rig.raw_replicas["r2"].put(KEY, flipped(OLD, PART + 9))
    drop_all(rig, "b2")
    report = mend(rig)
    assert report.status == "complete", report.as_dict()
    assert_right(rig, OLD)


def snapshot(rig: ReplicaRig) -> dict[str, dict[str, tuple[bytes | None, str | None]]]:
    """Return everything that is anywhere."""
    return {
        name: {each: (raw.get(each), raw.etag(each)) for each in raw.names()}
        for name, raw in rig.raw_replicas.items()
    }


def test_lost_is_said_and_nothing_touched(rig: ReplicaRig) -> None:
    """The same block is rotten in every copy: they stay as they are, and the report says what each has."""
    rig.store().replicate(rig.file(OLD, "old"), KEY)
    for name in NAMES:
        rig.raw_replicas[name].put(KEY, flipped(OLD, 10))
    before = snapshot(rig)
    report = mend(rig)
    assert (report.status, report.unrecoverable, report.under_replicated) == ("failed", 1, 1)
    said = [step.action for step in report.steps if step.action.problem == "unrecoverable"]
    assert len(said) == 1
    assert all(name in said[0].reason for name in NAMES)
    # A refill announces itself only when it has all the bytes.
    assert snapshot(rig) == before


def test_gone_everywhere_is_lost_and_the_manifests_stay(rig: ReplicaRig) -> None:
    """Manifests without data anywhere: lost, and what they say is kept."""
    rig.store().replicate(rig.file(SMALL, "small"), KEY)
    for raw in rig.raw_replicas.values():
        raw.drop(KEY)
    before = snapshot(rig)
    report = mend(rig)
    assert (report.status, report.unrecoverable) == ("failed", 1)
    assert snapshot(rig) == before


def test_of_two_contents_under_one_generation_one_wins_everywhere(rig: ReplicaRig) -> None:
    """The later one, or else the one with the larger hash, for readers too."""
    rig.store(names=("local",)).replicate(rig.file(OLD, "old"), KEY)
    rig.store(names=("r2",)).replicate(rig.file(NEW, "new"), KEY)
    one, other = (rig.raw_replicas[name].manifest(KEY) for name in ("local", "r2"))
    assert one is not None
    assert other is not None
    rig.raw_replicas["r2"].set_manifest(KEY, {**other, "generation": one["generation"]})
    winner = max((each["created_at"], each["sha256"]) for each in (one, other))[1]
    assert rig.store().stat(KEY).as_dict()["sha256"] == winner
    assert mend(rig).status == "complete"
    assert_right(rig, OLD if winner == one["sha256"] else NEW)


@pytest.mark.parametrize("name", NAMES)
def test_a_rotten_copy_stays_when_its_refill_fails(rig: ReplicaRig, name: str) -> None:
    """Until proven bytes take its place, what is there stays there."""
    rig.store().replicate(rig.file(OLD, "old"), KEY)
    rotten = flipped(OLD, PART + 7)
    rig.raw_replicas[name].put(KEY, rotten)
    source = others(name)
    if name == "local":
        for each in source:
            rig.proxies[each].add(Status(403, "AccessDenied"), on="get", key=f"{rig.prefix}/{KEY}")
    else:
        rig.proxies[name].add(Status(403, "AccessDenied"), on="upload_part")
    report = mend(rig)
    assert report.status == "degraded", report.as_dict()
    assert report.failed
    assert rig.raw_replicas[name].get(KEY) == rotten
    for proxy in rig.proxies.values():
        proxy.clear()
    assert mend(rig).status == "complete"
    assert_right(rig, OLD)


class TestAdopt:
    """Data without a manifest anywhere."""

    def put(self, rig: ReplicaRig, *names: str, data: bytes = OLD) -> None:
        for name in names:
            rig.raw_replicas[name].put(KEY, data)

    def test_it_is_left_and_named_unless_asked_for(self, rig: ReplicaRig) -> None:
        """Nobody knows what it is."""
        self.put(rig, "local", "r2")
        before = snapshot(rig)
        report = mend(rig)
        assert [step.action.problem for step in report.steps] == ["no manifest"]
        assert report.status == "failed"
        assert snapshot(rig) == before

    def test_the_same_bytes_get_a_manifest_and_go_everywhere(self, rig: ReplicaRig) -> None:
        """One first version, on every replica."""
        self.put(rig, "local", "r2")
        report = mend(rig, adopt=True)
        assert report.status == "complete", report.as_dict()
        assert report.done == {"adopt": 2, "refill": 1}
        assert_right(rig, OLD)
        assert "replaces" not in rig.raw_replicas["b2"].manifest(KEY)  # type: ignore[operator]

    def test_an_object_with_much_metadata_of_its_own(self, strict_b2: s3.StrictEndpoint) -> None:
        """The manifest has no room beside it: it is an object of its own."""
        strict_b2.control.reset()
        strict_b2.control.configure(unavailable_every=0)
        s3.put_bytes(strict_b2, KEY, b"small")
        s3.replace_metadata(strict_b2, KEY, {"note": "x" * 1700})
        store = ReplicatedStorage([connect("b2", strict_b2, "")], errors="return")
        assert store.repair(adopt=True).status == "complete"
        assert store.verify(deep=True).status == "complete"
        found = s3.head(strict_b2, KEY)
        assert found is not None
        assert found.metadata["note"] == "x" * 1700

    def test_different_bytes_are_a_conflict(self, rig: ReplicaRig) -> None:
        """Neither is touched."""
        self.put(rig, "local")
        self.put(rig, "r2", data=NEW)
        before = snapshot(rig)
        report = mend(rig, adopt=True)
        assert [step.action.problem for step in report.steps] == ["conflict"]
        assert snapshot(rig) == before

    def test_not_while_a_replica_is_away(self, rig: ReplicaRig) -> None:
        """It might have the manifest."""
        self.put(rig, "local", "r2")
        with switched_off(rig, "b2"):
            report = mend(rig, adopt=True)
        assert [step.action.problem for step in report.steps] == ["unreachable"]
        assert rig.raw_replicas["local"].manifest(KEY) is None


@pytest.mark.parametrize("name", NAMES)
class TestDelete:
    """An object that was deleted while a replica was away."""

    def test_the_delete_is_finished_and_then_forgotten(self, rig: ReplicaRig, name: str) -> None:
        """The replica that slept loses it too, and no tombstone stays."""
        rig.store().replicate(rig.file(SMALL, "small"), KEY)
        with switched_off(rig, name):
            assert not rig.store().remove(KEY)
            # Nothing can be finished yet, and nobody forgets.
            assert mend(rig).status == "degraded"
        assert rig.raw_replicas[others(name)[0]].is_deleted(KEY)
        report = mend(rig)
        assert report.status == "complete", report.as_dict()
        assert report.done == {"delete": 1, "forget delete": 1}
        rig.clean()

    def test_data_that_may_be_another_version_stays(self, rig: ReplicaRig, name: str) -> None:
        """Nothing says that data without any record is what was deleted."""
        rig.store().replicate(rig.file(SMALL, "small"), KEY)
        with switched_off(rig, name):
            rig.store().remove(KEY)
        rig.raw_replicas[name].drop(manifest_name(KEY))
        report = mend(rig)
        assert [step.action.problem for step in report.steps] == ["no manifest"]
        assert rig.raw_replicas[name].get(KEY) == SMALL


@pytest.mark.parametrize("name", NAMES)
def test_a_replica_that_is_down_is_left_out_and_served_later(rig: ReplicaRig, name: str) -> None:
    """It is named, the rest is mended, and running again when it is back does what remained."""
    rig.store().replicate(rig.file(OLD, "old"), KEY)
    one, two = others(name)
    drop_all(rig, one)
    drop_all(rig, name)
    with switched_off(rig, name):
        report = mend(rig)
        assert report.status == "degraded"
        assert list(report.unreachable) == [name]
        assert rig.raw_replicas[one].provable(KEY) == OLD
        assert rig.raw_replicas[two].provable(KEY) == OLD
    assert mend(rig).status == "complete"
    assert_right(rig, OLD)


def test_what_could_not_be_listed_is_not_missing(rig: ReplicaRig) -> None:
    """A listing that fails says nothing of a key, whatever a question about that key would be answered."""
    rig.store().replicate(rig.file(SMALL, "small"), KEY)
    drop_all(rig, "r2")
    rig.proxies["r2"].add(Status(403, "AccessDenied"), on="list")
    report = mend(rig)
    assert report.status == "degraded"
    assert list(report.unreachable) == ["r2"]
    assert rig.raw_replicas["r2"].get(KEY) is None


def test_what_retention_let_go_is_not_brought_back(rig: ReplicaRig) -> None:
    """The replica whose retention has let it go stays without it; another one is refilled."""
    rig.store().replicate(rig.file(SMALL, "small"), KEY)
    for name in ("local", "r2"):
        drop_all(rig, name)
    asked: list[tuple[str, str]] = []

    def expired(backend: str, key: str, _: float | None) -> bool:
        asked.append((backend, key))
        return backend == "local"

    report = mend(rig, expired=expired)
    assert report.status == "complete", report.as_dict()
    assert ("local", KEY) in asked
    assert rig.raw_replicas["local"].names() == set()
    assert rig.raw_replicas["r2"].provable(KEY) == SMALL


def test_a_dry_run_plans_and_changes_nothing(rig: ReplicaRig) -> None:
    """Every kind of action is planned; no request of a dry run writes, and the disk stays as it is."""
    store = rig.store(min_copies=1)
    path = rig.file(SMALL, "small")
    for key in ("missing", "rotten", "bare", "deleted", "stale"):
        store.replicate(path, key)
    rig.raw_replicas["r2"].drop("missing")
    rig.raw_replicas["local"].put("rotten", b"?" * len(SMALL))
    rig.raw_replicas["b2"].drop(manifest_name("bare"))
    with switched_off(rig, "b2"):
        hasty = rig.store(min_copies=1)
        hasty.remove("deleted")
        hasty.replicate(rig.file(content(99), "other"), "stale", overwrite=True)
    before = snapshot(rig)
    for proxy in rig.proxies.values():
        proxy.forget()
    heard: list[str] = []
    report = store.repair(dry_run=True, deep=True, on_step=lambda step: heard.append(step.outcome))
    assert report.done == {"refill": 3, "write manifest": 1, "delete": 1}
    assert heard == ["planned"] * 5
    assert report.status == "degraded"
    for proxy in rig.proxies.values():
        assert {each.method for each in proxy.requests} <= {"GET", "HEAD"}
    assert snapshot(rig) == before
    assert store.repair().status == "complete"
    assert store.verify(deep=True).status == "complete"


def test_only_what_lies_below_the_prefix_is_mended(rig: ReplicaRig) -> None:
    """Whole segments of keys."""
    store = rig.store(min_copies=1)
    for key in ("a/x", "ab/x"):
        store.replicate(rig.file(SMALL, "small"), key)
        rig.raw_replicas["b2"].drop(key)
    assert store.repair("a").done == {"refill": 1}
    assert rig.raw_replicas["b2"].get("a/x") == SMALL
    assert rig.raw_replicas["b2"].get("ab/x") is None


def test_many_objects_are_mended_side_by_side(rig: ReplicaRig) -> None:
    """Many missing copies, in the memory of the set."""
    store = rig.store(min_copies=1)
    path = rig.file(SMALL, "small")
    keys = [f"wal/{number:04}" for number in range(30)]
    assert all(store.replicate_many([(path, key) for key in keys]))
    for key in keys[::2]:
        (rig.base / key).unlink()
    report = store.repair()
    assert (report.status, report.objects, report.done) == ("complete", 30, {"refill": 15})
    rig.clean(*keys)


@contextmanager
def endless(path: Path) -> Iterator[Path]:
    """Make a stream that has one part and a bit, and never ends while the block runs."""
    os.mkfifo(path)
    pipe = os.open(path, os.O_RDWR)
    writer = threading.Thread(target=os.write, args=(pipe, OLD[: PART + 1]))
    writer.start()
    yield path
    writer.join()
    os.close(pipe)


def test_our_own_garbage_is_cleared_and_nobody_elses(rig: ReplicaRig) -> None:
    """What a killed upload left goes, once it is old enough; another program's unfinished upload stays."""
    raw = rig.raw_replicas["r2"]
    assert isinstance(raw, RawBucket)
    theirs = raw.endpoint
    begun = client(theirs).create_multipart_upload(Bucket=theirs.bucket, Key=f"{rig.prefix}/theirs")
    holds = [proxy.add(Hold("after"), on="upload_part") for proxy in rig.proxies.values()]
    with endless(rig.tmp / "pipe") as pipe, running(rig.places, "create", KEY, pipe) as process:
        for hold in holds:
            hold.wait_reached(30)
        wait_until(lambda: any(each.endswith("-tmp") for each in rig.raw_replicas["local"].names()))
        kill(process)
    rig.settle()
    assert mend(rig).done == {}
    targets = rig.store(min_copies=1).replica_set
    assert run(repair(targets, RepairOptions("one/object", safe_age=0.0))).done == {}
    report = run(repair(targets, RepairOptions("part-of-this-set/", safe_age=0.0)))
    assert report.done["clear leftover"] == 3, report.as_dict()
    assert rig.raw_replicas["r2"].unfinished() == [f"{rig.prefix}/theirs"]
    client(theirs).abort_multipart_upload(
        Bucket=theirs.bucket, Key=f"{rig.prefix}/theirs", UploadId=begun["UploadId"]
    )
    rig.clean()


def test_an_announcement_that_nothing_came_of_is_cleared_when_it_is_old(rig: ReplicaRig) -> None:
    """A writer was killed before it changed the data: what it announced stays for a day, then goes."""
    rig = rig.beside()
    rig.store().replicate(rig.file(OLD, "old"), KEY)
    hold = rig.proxies["r2"].add(Hold("after"), on="put_object", key=pending_prefix(KEY))
    with running(rig.places, "overwrite", KEY, rig.file(NEW, "new")) as process:
        hold.wait_reached(30)
        kill(process)
    rig.settle()
    assert rig.raw_replicas["r2"].announced(KEY)
    assert mend(rig).status in ("complete", "degraded")
    run(repair(rig.store(min_copies=1).replica_set, RepairOptions(safe_age=0.0)))
    assert not rig.raw_replicas["r2"].announced(KEY)
    assert mend(rig).status == "complete"
    data = rig.raw_replicas["r2"].get(KEY)
    assert data in (OLD, NEW)
    assert all(raw.provable(KEY) == data for raw in rig.raw_replicas.values())


def test_an_announcement_that_nobody_can_read_is_cleared_when_it_is_old(tmp_path: Path) -> None:
    """Its key is not known, so no object leads to it; one that a newer version of fsbackup can read stays."""
    disks = [LocalStorage(tmp_path / name, name=name) for name in ("one", "two")]
    store = ReplicatedStorage(disks, errors="raise")
    (tmp_path / "source").write_bytes(SMALL)
    store.replicate(tmp_path / "source", KEY)
    targets, pending = store.replica_set, tmp_path / "one" / PENDING
    pending.mkdir(parents=True, exist_ok=True)
    torn, newer = (pending / f"{digit * 32}-{'0' * 32}" for digit in "12")
    torn.write_bytes(b"{")
    newer.write_bytes(json.dumps(sealed({"format": 3, "kind": "manifest"})).encode())
    assert run(repair(targets, RepairOptions())).done == {}
    assert run(repair(targets, RepairOptions(safe_age=0.0, dry_run=True))).done == {"clear leftover": 1}
    assert torn.exists()
    assert run(repair(targets, RepairOptions(safe_age=0.0))).done == {"clear leftover": 1}
    assert (torn.exists(), newer.exists()) == (False, True)
