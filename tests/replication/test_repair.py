"""`repair`: every wrong state on every kind of replica made right, from proven bytes; nothing else touched."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fsbackup.loop import run
from fsbackup.replication.repair import RepairOptions, RepairReport, repair
from tests.integration.cli_kit import wait_until
from tests.replication.child import kill, running
from tests.replication.eyes import BucketEye, manifest_name, pending_name, proves
from tests.replication.world import MIB, PART, World, content
from tests.servers.endpoint import client
from tests.servers.faults import Hold, Refuse, Status

NAMES = ("local", "r2", "b2")
KEY = "backups/2025/shop.dump"
#: Two parts and a bit, so that both ways of storing an object in a bucket are used (see `SMALL`).
OLD, NEW = content(2 * PART + 100, seed=1), content(2 * PART + 100, seed=2)
SMALL = content(5000, seed=3)


@contextmanager
def switched_off(world: World, name: str) -> Iterator[None]:
    """Have a replica answer nobody while the block runs."""
    if name != "local":
        world.proxies[name].add(Refuse())
        yield
        world.proxies[name].clear()
        return
    away = world.base.with_name("away")
    world.base.rename(away)
    world.base.write_bytes(b"no directory")
    yield
    world.base.unlink()
    away.rename(world.base)


def others(name: str) -> tuple[str, ...]:
    return tuple(each for each in NAMES if each != name)


def flipped(data: bytes, at: int) -> bytes:
    """Return data with one bit of one byte turned over."""
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def drop_all(world: World, name: str) -> None:
    world.eyes[name].drop(KEY)
    world.eyes[name].drop(manifest_name(KEY))


def replace_while_away(world: World, name: str, data: bytes = NEW) -> None:
    with switched_off(world, name):
        report = world.store(min_copies=2).replicate(world.file(data, "new"), KEY, overwrite=True)
        assert report.status == "degraded"


def unfinish(world: World, name: str) -> None:
    """Leave a replacement as a crash does between its data and its manifest, begun on one replica only."""
    before = world.eyes[name].get(manifest_name(KEY))
    assert before is not None
    assert world.store(names=(name,)).replicate(world.file(NEW, "new"), KEY, overwrite=True)
    after = world.eyes[name].get(manifest_name(KEY))
    assert after is not None
    world.eyes[name].put(pending_name(KEY), after)
    world.eyes[name].put(manifest_name(KEY), before)


#: What is done to one replica, the first action that mends it, and what it holds then.
WRONG: dict[str, tuple[Callable[[World, str], None], str, bytes]] = {
    "missing": (drop_all, "refill", OLD),
    "data gone": (lambda world, name: world.eyes[name].drop(KEY), "refill", OLD),
    "manifest gone": (lambda world, name: world.eyes[name].drop(manifest_name(KEY)), "write manifest", OLD),
    "manifest damaged": (
        lambda world, name: world.eyes[name].put(manifest_name(KEY), b'{"format": 1'),
        "write manifest",
        OLD,
    ),
    "short": (lambda world, name: world.eyes[name].put(KEY, OLD[:-1]), "refill", OLD),
    "rotten": (lambda world, name: world.eyes[name].put(KEY, flipped(OLD, 7 * MIB)), "refill", OLD),
    "stale": (replace_while_away, "refill", NEW),
    "unfinished": (unfinish, "finish", NEW),
}


def other_data(world: World, name: str) -> None:
    world.eyes[name].drop(manifest_name(KEY))
    world.eyes[name].put(KEY, NEW)


WRONG["other data without a manifest"] = (other_data, "refill", OLD)


def mend(world: World, **options: Any) -> RepairReport:
    return world.store(min_copies=1).repair(**options)


def assert_right(world: World, data: bytes, *, key: str = KEY) -> None:
    """Check by hand that every replica holds and proves one and the same version, and nothing else is there."""
    world.clean(key)
    for name, eye in world.eyes.items():
        record = eye.manifest(key)
        assert eye.get(key) == data, name
        assert record is not None
        assert proves(record, data), name
        assert record["etag"] == eye.etag(key) or name == "local", name
        assert version(world, name, key) == version(world, "local", key)


def version(world: World, name: str, key: str = KEY) -> dict[str, Any]:
    """Return what a replica's manifest says, but for what differs from replica to replica."""
    record = world.eyes[name].manifest(key)
    assert record is not None
    return {field: value for field, value in record.items() if field not in ("etag", "version_id", "checksum")}


@pytest.mark.each_choice
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("wrong", WRONG)
def test_every_wrong_state_is_mended(world: World, name: str, wrong: str) -> None:
    """What one replica lacks, has wrong or missed is made right, everywhere, and then there is nothing to do."""
    harm, action, data = WRONG[wrong]
    world.store().replicate(world.file(OLD, "old"), KEY)
    before = version(world, others(name)[0])
    harm(world, name)
    report = mend(world)
    assert report.status == "complete", report.as_dict()
    assert (report.steps[0].action.kind, report.steps[0].action.backend) == (action, name)
    assert report.steps[0].action.reason
    assert_right(world, data)
    if data is OLD:
        assert version(world, name) == before
    again = mend(world)
    assert (again.status, again.done, again.steps) == ("complete", {}, ())


def tags(world: World) -> dict[str, str]:
    """Return what the copy at R2 is tagged with, but for what tells one upload from another."""
    stat = run(world.backend("r2").store.stat(KEY))
    assert stat is not None
    return {name: value for name, value in stat.metadata.items() if name != "fsbackup-upload"}


def test_the_copy_is_like_an_uploaded_one(world: World) -> None:
    """Modification time, mode and tags of a refilled copy are those of the file that was backed up."""
    path = world.file(SMALL, "small")
    os.utime(path, ns=(1_700_000_000_123_456_000, 1_700_000_000_123_456_000))
    path.chmod(0o640)
    world.store().replicate(path, KEY)
    before = tags(world)
    for name in ("local", "r2"):
        drop_all(world, name)
    assert mend(world).status == "complete"
    stat = (world.base / KEY).stat()
    assert abs(stat.st_mtime_ns - 1_700_000_000_123_456_000) < 1000
    assert stat.st_mode & 0o777 == 0o640
    assert tags(world) == before


def test_deep_finds_what_only_bytes_can_tell(world: World) -> None:
    """A byte that turned over on a disk, with size and times as before, is found by deep, and then mended."""
    world.store().replicate(world.file(OLD, "old"), KEY)
    path = world.base / KEY
    stat = path.stat()
    path.write_bytes(flipped(OLD, 3 * MIB))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert mend(world).done == {}
    assert mend(world, deep=True).done == {"refill": 1}
    assert_right(world, OLD)


def test_a_source_that_lies_is_found_out_and_mended_too(world: World) -> None:
    """A refill meets rotten bytes in a copy that looked right: it takes another one, and then mends that."""
    world.store().replicate(world.file(OLD, "old"), KEY)
    path = world.base / KEY
    stat = path.stat()
    path.write_bytes(bytes(len(OLD)))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    drop_all(world, "b2")
    report = mend(world)
    assert report.status == "complete", report.as_dict()
    assert [step.action.backend for step in report.steps] == ["b2", "local"]
    assert_right(world, OLD)


def test_one_read_serves_all_that_need_it(world: World) -> None:
    """Two replicas are refilled from the third, which gives each byte once."""
    world.store().replicate(world.file(OLD, "old"), KEY)
    for name in ("local", "b2"):
        drop_all(world, name)
    world.proxies["r2"].forget()
    report = mend(world)
    assert report.done == {"refill": 2}
    assert report.bytes_sent == 2 * len(OLD)
    reads = [
        each for each in world.proxies["r2"].requests if each.operation == "get" and each.key.endswith(f"/{KEY}")
    ]
    assert sum(each.answer_bytes for each in reads if ".fsbackup" not in each.key) == len(OLD)
    assert_right(world, OLD)


def test_good_blocks_of_several_bad_copies_make_the_whole(world: World) -> None:
    """One block is rotten here, another there, and the third copy is gone: still all three become right."""
    world.store().replicate(world.file(OLD, "old"), KEY)
    world.eyes["local"].put(KEY, flipped(OLD, 10))
    world.eyes["r2"].put(KEY, flipped(OLD, 9 * MIB))
    drop_all(world, "b2")
    report = mend(world)
    assert report.status == "complete", report.as_dict()
    assert_right(world, OLD)


def snapshot(world: World) -> dict[str, dict[str, tuple[bytes | None, str | None]]]:
    """Return everything that is anywhere."""
    return {
        name: {each: (eye.get(each), eye.etag(each)) for each in eye.names()} for name, eye in world.eyes.items()
    }


def test_lost_is_said_and_nothing_touched(world: World) -> None:
    """The same block is rotten in every copy: they stay as they are, and the report says what each has."""
    world.store().replicate(world.file(OLD, "old"), KEY)
    for name in NAMES:
        world.eyes[name].put(KEY, flipped(OLD, 10))
    before = snapshot(world)
    report = mend(world)
    assert (report.status, report.unrecoverable, report.under_replicated) == ("failed", 1, 1)
    said = [step.action for step in report.steps if step.action.problem == "unrecoverable"]
    assert len(said) == 1
    assert all(name in said[0].reason for name in NAMES)
    # A refill announces itself only when it has all the bytes.
    assert snapshot(world) == before


def test_gone_everywhere_is_lost_and_the_manifests_stay(world: World) -> None:
    """Manifests without data anywhere: lost, and what they say is kept."""
    world.store().replicate(world.file(SMALL, "small"), KEY)
    for eye in world.eyes.values():
        eye.drop(KEY)
    before = snapshot(world)
    report = mend(world)
    assert (report.status, report.unrecoverable) == ("failed", 1)
    assert snapshot(world) == before


def test_a_conflict_is_left_alone(world: World) -> None:
    """Two contents under one generation: neither is touched, and the report says so."""
    world.store(names=("local",)).replicate(world.file(OLD, "old"), KEY)
    world.store(names=("r2",)).replicate(world.file(NEW, "new"), KEY)
    before = snapshot(world)
    report = mend(world)
    assert report.status == "failed"  # both contents are proven by min_copies replicas
    assert [step.action.problem for step in report.steps] == ["conflict"]
    assert snapshot(world) == before


@pytest.mark.parametrize("name", NAMES)
def test_a_rotten_copy_stays_when_its_refill_fails(world: World, name: str) -> None:
    """Until proven bytes take its place, what is there stays there."""
    world.store().replicate(world.file(OLD, "old"), KEY)
    rotten = flipped(OLD, 7 * MIB)
    world.eyes[name].put(KEY, rotten)
    source = others(name)
    if name == "local":
        for each in source:
            world.proxies[each].add(Status(403, "AccessDenied"), on="get", key=f"{world.prefix}/{KEY}")
    else:
        world.proxies[name].add(Status(403, "AccessDenied"), on="upload_part")
    report = mend(world)
    assert report.status == "degraded", report.as_dict()
    assert report.failed
    assert world.eyes[name].get(KEY) == rotten
    for proxy in world.proxies.values():
        proxy.clear()
    assert mend(world).status == "complete"
    assert_right(world, OLD)


class TestAdopt:
    """Data without a manifest anywhere."""

    def put(self, world: World, *names: str, data: bytes = OLD) -> None:
        for name in names:
            world.eyes[name].put(KEY, data)

    def test_it_is_left_and_named_unless_asked_for(self, world: World) -> None:
        """Nobody knows what it is."""
        self.put(world, "local", "r2")
        before = snapshot(world)
        report = mend(world)
        assert [step.action.problem for step in report.steps] == ["no manifest"]
        assert report.status == "failed"
        assert snapshot(world) == before

    def test_the_same_bytes_get_a_manifest_and_go_everywhere(self, world: World) -> None:
        """Generation 1, on every replica."""
        self.put(world, "local", "r2")
        report = mend(world, adopt=True)
        assert report.status == "complete", report.as_dict()
        assert report.done == {"adopt": 2, "refill": 1}
        assert_right(world, OLD)
        assert world.eyes["b2"].manifest(KEY)["generation"] == 1  # type: ignore[index]

    def test_different_bytes_are_a_conflict(self, world: World) -> None:
        """Neither is touched."""
        self.put(world, "local")
        self.put(world, "r2", data=NEW)
        before = snapshot(world)
        report = mend(world, adopt=True)
        assert [step.action.problem for step in report.steps] == ["conflict"]
        assert snapshot(world) == before

    def test_not_while_a_replica_is_away(self, world: World) -> None:
        """It might have the manifest."""
        self.put(world, "local", "r2")
        with switched_off(world, "b2"):
            report = mend(world, adopt=True)
        assert [step.action.problem for step in report.steps] == ["unreachable"]
        assert world.eyes["local"].manifest(KEY) is None


@pytest.mark.parametrize("name", NAMES)
class TestDelete:
    """An object that was deleted while a replica was away."""

    def test_the_delete_is_finished_and_then_forgotten(self, world: World, name: str) -> None:
        """The replica that slept loses it too, and no tombstone stays."""
        world.store().replicate(world.file(SMALL, "small"), KEY)
        with switched_off(world, name):
            assert not world.store().remove(KEY)
            # Nothing can be finished yet, and nobody forgets.
            assert mend(world).status == "degraded"
        assert world.eyes[others(name)[0]].manifest(KEY)["kind"] == "tombstone"  # type: ignore[index]
        report = mend(world)
        assert report.status == "complete", report.as_dict()
        assert report.done == {"delete": 1, "forget delete": 1}
        world.clean()

    def test_data_that_may_be_another_version_stays(self, world: World, name: str) -> None:
        """Nothing says that data without any record is what was deleted."""
        world.store().replicate(world.file(SMALL, "small"), KEY)
        with switched_off(world, name):
            world.store().remove(KEY)
        world.eyes[name].drop(manifest_name(KEY))
        report = mend(world)
        assert [step.action.problem for step in report.steps] == ["no manifest"]
        assert world.eyes[name].get(KEY) == SMALL


@pytest.mark.parametrize("name", NAMES)
def test_a_replica_that_is_down_is_left_out_and_served_later(world: World, name: str) -> None:
    """It is named, the rest is mended, and running again when it is back does what remained."""
    world.store().replicate(world.file(OLD, "old"), KEY)
    one, two = others(name)
    drop_all(world, one)
    drop_all(world, name)
    with switched_off(world, name):
        report = mend(world)
        assert report.status == "degraded"
        assert list(report.unreachable) == [name]
        assert world.eyes[one].provable(KEY) == OLD
        assert world.eyes[two].provable(KEY) == OLD
    assert mend(world).status == "complete"
    assert_right(world, OLD)


def test_what_could_not_be_listed_is_not_missing(world: World) -> None:
    """A listing that fails says nothing of a key, whatever a question about that key would be answered."""
    world.store().replicate(world.file(SMALL, "small"), KEY)
    drop_all(world, "r2")
    world.proxies["r2"].add(Status(403, "AccessDenied"), on="list")
    report = mend(world)
    assert report.status == "degraded"
    assert list(report.unreachable) == ["r2"]
    assert world.eyes["r2"].get(KEY) is None


def test_what_retention_let_go_is_not_brought_back(world: World) -> None:
    """The replica whose retention has let it go stays without it; another one is refilled."""
    world.store().replicate(world.file(SMALL, "small"), KEY)
    for name in ("local", "r2"):
        drop_all(world, name)
    asked: list[tuple[str, str]] = []

    def expired(backend: str, key: str, _: float | None) -> bool:
        asked.append((backend, key))
        return backend == "local"

    report = mend(world, expired=expired)
    assert report.status == "complete", report.as_dict()
    assert ("local", KEY) in asked
    assert world.eyes["local"].names() == set()
    assert world.eyes["r2"].provable(KEY) == SMALL


def test_a_dry_run_plans_and_changes_nothing(world: World) -> None:
    """Every kind of action is planned; no request of a dry run writes, and the disk stays as it is."""
    store = world.store(min_copies=1)
    path = world.file(SMALL, "small")
    for key in ("missing", "rotten", "bare", "deleted", "stale"):
        store.replicate(path, key)
    world.eyes["r2"].drop("missing")
    world.eyes["local"].put("rotten", b"?" * len(SMALL))
    world.eyes["b2"].drop(manifest_name("bare"))
    with switched_off(world, "b2"):
        store.remove("deleted")
        store.replicate(world.file(content(99), "other"), "stale", overwrite=True)
    before = snapshot(world)
    for proxy in world.proxies.values():
        proxy.forget()
    heard: list[str] = []
    report = store.repair(dry_run=True, deep=True, on_step=lambda step: heard.append(step.outcome))
    assert report.done == {"refill": 3, "write manifest": 1, "delete": 1}
    assert heard == ["planned"] * 5
    assert report.status == "degraded"
    for proxy in world.proxies.values():
        assert {each.method for each in proxy.requests} <= {"GET", "HEAD"}
    assert snapshot(world) == before
    assert store.repair().status == "complete"
    assert store.verify(deep=True).status == "complete"


def test_only_what_lies_below_the_prefix_is_mended(world: World) -> None:
    """Whole segments of keys."""
    store = world.store(min_copies=1)
    for key in ("a/x", "ab/x"):
        store.replicate(world.file(SMALL, "small"), key)
        world.eyes["b2"].drop(key)
    assert store.repair("a").done == {"refill": 1}
    assert world.eyes["b2"].get("a/x") == SMALL
    assert world.eyes["b2"].get("ab/x") is None


def test_many_objects_are_mended_side_by_side(world: World) -> None:
    """Many missing copies, in the memory of the set."""
    store = world.store(min_copies=1)
    path = world.file(SMALL, "small")
    keys = [f"wal/{number:04}" for number in range(80)]
    assert all(store.replicate_many([(path, key) for key in keys]))
    for key in keys[::2]:
        (world.base / key).unlink()
    report = store.repair()
    assert (report.status, report.objects, report.done) == ("complete", 80, {"refill": 40})
    world.clean(*keys)


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


def test_our_own_garbage_is_cleared_and_nobody_elses(world: World) -> None:
    """What a killed upload left goes, once it is old enough; another program's unfinished upload stays."""
    eye = world.eyes["r2"]
    assert isinstance(eye, BucketEye)
    theirs = eye.endpoint
    begun = client(theirs).create_multipart_upload(Bucket=theirs.bucket, Key=f"{world.prefix}/theirs")
    holds = [proxy.add(Hold("after"), on="upload_part") for proxy in world.proxies.values()]
    with endless(world.tmp / "pipe") as pipe, running(world.places, "create", KEY, pipe) as process:
        for hold in holds:
            hold.wait_reached(30)
        wait_until(lambda: any(each.endswith("-tmp") for each in world.eyes["local"].names()))
        kill(process)
    world.settle()
    assert mend(world).done == {}
    targets = world.store(min_copies=1).replica_set
    report = run(repair(targets, RepairOptions(safe_age=0.0)))
    assert report.done["clear leftover"] == 3, report.as_dict()
    assert world.eyes["r2"].unfinished() == [f"{world.prefix}/theirs"]
    client(theirs).abort_multipart_upload(
        Bucket=theirs.bucket, Key=f"{world.prefix}/theirs", UploadId=begun["UploadId"]
    )
    world.clean()


def test_an_announcement_that_nothing_came_of_is_cleared_when_it_is_old(world: World) -> None:
    """A writer was killed before it changed the data: what it announced stays for a day, then goes."""
    world.store().replicate(world.file(OLD, "old"), KEY)
    hold = world.proxies["r2"].add(Hold("after"), on="put_object", key=pending_name(KEY))
    with running(world.places, "overwrite", KEY, world.file(NEW, "new")) as process:
        hold.wait_reached(30)
        kill(process)
    world.settle()
    assert world.eyes["r2"].announced(KEY) is not None
    assert mend(world).status in ("complete", "degraded")
    run(repair(world.store(min_copies=1).replica_set, RepairOptions(safe_age=0.0)))
    assert world.eyes["r2"].announced(KEY) is None
    assert mend(world).status == "complete"
    data = world.eyes["r2"].get(KEY)
    assert data in (OLD, NEW)
    assert all(eye.provable(KEY) == data for eye in world.eyes.values())
