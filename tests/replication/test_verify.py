"""`verify`: whatever is wrong with a copy is found and reported, and nothing is changed."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fsbackup import ReplicatedStorage
from fsbackup.errors import NoHealthyReplicaError
from fsbackup.replication.verify import CopyProblem, VerifyReport
from tests.replication.raw_replicas import RawReplica, manifest_name
from tests.replication.rig import MIB, ReplicaRig, content
from tests.servers.faults import Corrupt, Refuse, Status

NAMES = ("local", "r2", "b2")
DATA = content(MIB + 1000)
OTHER = content(MIB + 1000, seed=1)
FLIPPED = DATA[:-1] + bytes([DATA[-1] ^ 1])
WHOLE = ("v/other", "v/whole")


def found(report: VerifyReport) -> set[tuple[str, str, str]]:
    """Return the problems as (key, backend, state)."""
    assert len(report.problems) == report.found
    return {(each.key, each.backend, each.state) for each in report.problems}


def flip(raw: RawReplica, key: str) -> None:
    raw.put(key, FLIPPED)


def truncate(raw: RawReplica, key: str) -> None:
    raw.put(key, DATA[:-1])


def extend(raw: RawReplica, key: str) -> None:
    raw.put(key, DATA + b"x")


def exchange(raw: RawReplica, key: str) -> None:
    raw.put(key, OTHER)


def drop(raw: RawReplica, key: str) -> None:
    raw.drop(key)


def drop_manifest(raw: RawReplica, key: str) -> None:
    raw.drop(manifest_name(key))


def empty_manifest(raw: RawReplica, key: str) -> None:
    raw.put(manifest_name(key), b"")


def edit_manifest(raw: RawReplica, key: str) -> None:
    raw_bytes = raw.get(manifest_name(key))
    assert raw_bytes is not None
    raw.put(manifest_name(key), raw_bytes.replace(b'"generation":1', b'"generation":9'))


def another_manifest(raw: RawReplica, key: str) -> None:
    raw_bytes = raw.get(manifest_name("v/other"))
    assert raw_bytes is not None
    raw.put(manifest_name(key), raw_bytes)


def forge(raw: RawReplica, key: str, **fields: object) -> None:
    record = raw.manifest(key)
    assert record is not None
    raw.set_manifest(key, {**record, **fields})


def forge_size(raw: RawReplica, key: str) -> None:
    forge(raw, key, size=len(DATA) + 1)


def forge_blocks(raw: RawReplica, key: str) -> None:
    forge(raw, key, blocks=base64.b64encode(bytes(64)).decode())


#: What is done to one copy, and the states in which verify finds it: by default, and deep. What another program
#: puts into a bucket has no manifest inside.
DAMAGES: list[tuple[Callable[[RawReplica, str], None], str, str]] = [
    (flip, "damaged", "damaged"),
    (truncate, "size differs", "size differs"),
    (extend, "size differs", "size differs"),
    (exchange, "damaged", "damaged"),
    (drop, "missing", "missing"),
    (drop_manifest, "no manifest", "no manifest"),
    (empty_manifest, "damaged", "damaged"),
    (edit_manifest, "damaged", "damaged"),
    (another_manifest, "damaged", "damaged"),
    (forge_size, "size differs", "size differs"),
    (forge_blocks, "present", "damaged"),
]


@pytest.fixture
def stored(each_rig: ReplicaRig, request: pytest.FixtureRequest) -> Iterator[ReplicaRig]:
    """Return a world with an object to be damaged in each way on each replica, and two that stay as they are."""
    path, other = each_rig.file(DATA), each_rig.file(OTHER, "other.bin")
    items = [(path, _key(damage, name)) for damage, _, _ in DAMAGES for name in NAMES]
    with _patient(request):
        assert all(each_rig.store().replicate_many([*items, (other, "v/other"), (path, "v/whole")]))
        yield each_rig


@contextmanager
def _patient(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let strict servers take writes one after the other: damage is done faster, and never tried again."""
    strict = [request.getfixturevalue(name) for name in ("strict_r2", "strict_b2") if name in request.node.name]
    for server in strict:
        server.control.configure(write_interval=0, unavailable_every=0)
    yield
    for server in strict:
        server.control.configure(write_interval=1, unavailable_every=7)


def _key(damage: Callable[[RawReplica, str], None], name: str) -> str:
    return f"v/{damage.__name__}/{name}"


def _state(damage: Callable[[RawReplica, str], None], name: str, on_a_disk: str) -> str:
    replaces_data = damage in (flip, truncate, extend, exchange)
    return "no manifest" if replaces_data and name != "local" else on_a_disk


def test_rot_inside_a_bucket_is_found_by_reading(rig: ReplicaRig) -> None:
    """Bytes change and nothing else: a bucket tells only to who reads them; then the copy is refilled."""
    _store_one(rig, "v/one")
    rig.raw_replicas["r2"].rot("v/one", FLIPPED)
    store = rig.store(min_copies=2)
    assert store.verify().found == 0
    assert found(store.verify(deep=True)) == {("v/one", "r2", "damaged")}
    assert store.repair(deep=True).done == {"refill": 1}
    assert rig.raw_replicas["r2"].get("v/one") == DATA


def test_every_damage_is_found_where_it_is(stored: ReplicaRig) -> None:
    """Eleven damages on each of three replicas: exactly these copies are named, by default and deep.

    Before them nothing is found, and deep reads every byte of every copy once.
    """
    store, objects = stored.store(min_copies=2), 3 * len(DAMAGES) + 2
    before = store.verify("v", deep=True)
    assert (before.status, before.complete, before.found) == ("complete", objects, 0)
    assert before.bytes_read == 3 * objects * len(DATA)
    assert {name: dict(each.states) for name, each in before.backends.items()} == {
        name: {"present": objects} for name in NAMES
    }
    for damage, _, _ in DAMAGES:
        for name in NAMES:
            damage(stored.raw_replicas[name], _key(damage, name))
    for deep, report in ((False, store.verify()), (True, store.verify(deep=True))):
        states = {damage: (cheap, thorough)[deep] for damage, cheap, thorough in DAMAGES}
        everywhere = {(_key(d, n), n, _state(d, n, state)) for d, state in states.items() for n in NAMES}
        wanted = {each for each in everywhere if each[2] != "present"}
        assert found(report) == wanted
        assert (report.status, report.objects) == ("degraded", objects)
        assert report.complete == objects - len(wanted)
        on_b2 = [state for _, name, state in wanted if name == "b2"]
        assert report.backends["b2"].states["damaged"] == on_b2.count("damaged")
        assert all("repair" in each.advice for each in report.problems)
    assert stored.store(min_copies=3).verify().status == "failed"


def test_two_objects_exchanged(stored: ReplicaRig) -> None:
    """Their data, their manifests, and both at once, which is two objects under each other's name."""
    manifests = {name: [raw.get(manifest_name(key)) for key in WHOLE] for name, raw in stored.raw_replicas.items()}
    for name in NAMES:
        raw = stored.raw_replicas[name]
        one, other = raw.get("v/whole"), raw.get("v/other")
        assert one is not None
        assert other is not None
        raw.put("v/whole", other)
        raw.put("v/other", one)
    for deep in (False, True):
        report = stored.store(min_copies=1).verify(deep=deep)
        assert found(report) == {(key, name, _state(exchange, name, "damaged")) for key in WHOLE for name in NAMES}
        assert report.status == "failed"
        damaged = [each for each in report.problems if each.state == "damaged"]
        assert all("no proven copy is left" in each.advice for each in damaged)
    for name in NAMES:
        raw = stored.raw_replicas[name]
        other, one = manifests[name]
        assert one is not None
        assert other is not None
        raw.put(manifest_name("v/whole"), other)
        raw.put(manifest_name("v/other"), one)
    report = stored.store(min_copies=1).verify(deep=True)
    assert found(report) == {(key, name, "damaged") for key in WHOLE for name in NAMES}


def test_verify_changes_nothing(rig: ReplicaRig) -> None:
    """Whatever it finds, deep or not: it only asks, lists and reads, and every byte stays as it was."""
    store = rig.store(min_copies=1)
    path = rig.file(DATA)
    keys = [f"v/{damage.__name__}" for damage, _, _ in DAMAGES]
    assert all(store.replicate_many([(path, key) for key in ["v/other", *keys]]))
    for number, (damage, _, _) in enumerate(DAMAGES):
        damage(rig.raw_replicas[NAMES[number % 3]], keys[number])
    rig.raw_replicas["r2"].put("v/foreign", b"of others")
    before = _everything(rig)
    for proxy in rig.proxies.values():
        proxy.forget()
    assert store.verify().found
    assert store.verify(deep=True).found
    for proxy in rig.proxies.values():
        assert {record.operation for record in proxy.requests} <= {"list", "get", "head", "head_bucket"}
    assert _everything(rig) == before


def _everything(rig: ReplicaRig) -> dict[str, dict[str, bytes | None]]:
    return {name: {each: raw.get(each) for each in raw.names()} for name, raw in rig.raw_replicas.items()}


def test_requests_of_a_sound_set(rig: ReplicaRig) -> None:
    """By default a listing each of objects and tombstones, and per object one HEAD from each replica."""
    path = rig.file(b"x" * 10)
    store = rig.store()
    assert all(store.replicate_many([(path, f"v/{n}") for n in range(20)]))
    for proxy in rig.proxies.values():
        proxy.forget()
    assert store.verify().status == "complete"
    for name, proxy in rig.proxies.items():
        counted = [proxy.count(operation) for operation in ("list", "get", "head")]
        assert counted == [2, 0, 20], name
        assert len(proxy.requests) == 22


def test_rot_that_leaves_no_trace_is_found_by_reading(rig: ReplicaRig) -> None:
    """A disk that flips a byte in place, a service that answers with other bytes: which blocks, and how many."""
    data = content(2 * MIB + 1000)
    assert rig.store().replicate(rig.file(data), "v/one")
    path = rig.base / "v/one"
    before = path.stat()
    rotten = bytearray(data)
    rotten[MIB + 5] ^= 1
    rotten[2 * MIB + 7] ^= 1
    path.write_bytes(rotten)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    rig.proxies["r2"].add(Corrupt(at=3), on="get", key=f"{rig.prefix}/v/one")
    store = rig.store(min_copies=1)
    assert store.verify().status == "complete"
    report = store.verify(deep=True)
    assert found(report) == {("v/one", "local", "damaged"), ("v/one", "r2", "damaged")}
    details = {each.backend: each.detail for each in report.problems}
    assert details["local"] == f"2 of 3 blocks rotten, the first is block 1 (bytes {MIB} to {2 * MIB})"
    assert details["r2"] == f"1 of 3 blocks rotten, the first is block 0 (bytes 0 to {MIB})"


def _store_one(rig: ReplicaRig, key: str = "v/one") -> Path:
    path = rig.file(DATA)
    assert rig.store().replicate(path, key)
    return path


def test_a_copy_that_was_only_touched(rig: ReplicaRig) -> None:
    """By default it is doubted; deep proves every byte of it and has nothing against it."""
    _store_one(rig)
    os.utime(rig.base / "v/one", (1, 1))
    store = rig.store(min_copies=2)
    assert found(store.verify()) == {("v/one", "local", "damaged")}
    assert store.verify(deep=True).status == "complete"


def test_copies_without_a_believable_manifest_are_read_deep(rig: ReplicaRig) -> None:
    """Their bytes are compared with the newest manifest, and the detail says whether they are right."""
    _store_one(rig)
    rig.raw_replicas["local"].drop(manifest_name("v/one"))
    rig.raw_replicas["r2"].drop(manifest_name("v/one"))
    rig.raw_replicas["r2"].put("v/one", FLIPPED)
    details = {each.backend: each.detail for each in rig.store(min_copies=1).verify(deep=True).problems}
    assert details["local"].endswith("its data is the newest version")
    assert details["r2"].endswith("its data is not the newest version either")


def test_what_a_replica_missed(rig: ReplicaRig) -> None:
    """A replacement of the same size leaves it stale, a delete leaves it with an object deleted elsewhere."""
    path = _store_one(rig)
    _store_one(rig, "v/gone")
    rig.proxies["b2"].add(Refuse())
    without_b2 = rig.store(min_copies=2, timeout=2)
    path.write_bytes(OTHER)
    assert without_b2.replicate(path, "v/one", overwrite=True).status == "degraded"
    without_b2.remove("v/gone")
    report = without_b2.verify()
    assert (report.status, report.found, report.objects) == ("degraded", 0, 1)
    assert "b2" in str(report.backends["b2"].error)
    assert dict(report.backends["b2"].states) == {"unknown": 2}
    rig.proxies["b2"].clear()
    for deep in (False, True):
        report = rig.store(min_copies=2).verify(deep=deep)
        assert found(report) == {("v/one", "b2", "stale"), ("v/gone", "b2", "deleted elsewhere")}
        assert (report.status, report.objects) == ("degraded", 1)
        detail = {each.key: each.detail for each in report.problems}["v/one"]
        assert re.fullmatch(r"generation \d{13}, the newest is \d{13}", detail)


def test_a_replica_that_is_down_is_unknown_not_missing(rig: ReplicaRig) -> None:
    """One unreachable is degraded, and not queried any more; all unreachable is an error."""
    path, objects = rig.file(b"small"), 30
    assert all(rig.store().replicate_many([(path, f"v/{number}") for number in range(objects)]))
    refuse = rig.proxies["r2"].add(Refuse())
    report = rig.store(min_copies=2, timeout=2).verify(deep=True)
    assert (report.status, report.found, report.complete) == ("degraded", 0, 0)
    assert dict(report.backends["r2"].states) == {"unknown": objects}
    assert refuse.hits < objects  # what cannot be listed is not asked for each object
    assert rig.store(min_copies=3, timeout=2).verify().status == "degraded"
    rig.proxies["b2"].add(Refuse())
    rig.base.rename(rig.tmp / "away")
    rig.base.write_bytes(b"in the way")
    with pytest.raises(NoHealthyReplicaError):
        rig.store(timeout=2).verify()


def test_an_object_that_cannot_be_asked_about_is_unknown(rig: ReplicaRig) -> None:
    """Listed, but refused: that says nothing about the object."""
    _store_one(rig)
    rig.proxies["r2"].add(Status(403, "AccessDenied"), on="head", key="v/one")
    report = rig.store(min_copies=2).verify()
    assert found(report) == {("v/one", "r2", "unknown")}
    assert report.status == "degraded"
    assert report.problems[0].detail.startswith("the service answered HTTP 403 - ")


def test_two_contents_under_one_generation(rig: ReplicaRig) -> None:
    """The one that counts is there on two replicas, the other one is in conflict with it."""
    _store_one(rig, "v/one")
    assert rig.store().replicate(rig.file(OTHER), "v/other")
    raw = rig.raw_replicas["b2"]
    record = raw.manifest("v/other")
    assert record is not None
    mine = raw.manifest("v/one")
    assert mine is not None
    raw.put("v/one", OTHER)
    raw.set_manifest("v/one", {**record, "key": "v/one", "generation": mine["generation"]})
    for deep in (False, True):
        report = rig.store(min_copies=2).verify("v/one", deep=deep)
        assert found(report) == {("v/one", "b2", "conflict")}
        assert all("put it with --overwrite" in each.advice for each in report.problems)
        assert report.status == "degraded"


def test_orphans(rig: ReplicaRig) -> None:
    """A manifest without data anywhere is lost; data without a manifest anywhere is unproven.

    In a bucket the manifest went with the data.
    """
    _store_one(rig, "v/lost")
    for raw in rig.raw_replicas.values():
        raw.drop("v/lost")
    rig.raw_replicas["r2"].put("v/foreign", b"of others")
    report = rig.store(min_copies=1).verify()
    assert found(report) == {
        ("v/lost", "local", "lost"),
        ("v/foreign", "local", "missing"),
        ("v/foreign", "r2", "no manifest"),
        ("v/foreign", "b2", "missing"),
    }
    assert (report.status, report.objects, report.under_replicated) == ("failed", 2, 2)
    advice = {each.key: each.advice for each in report.problems}
    assert "back it up again" in advice["v/lost"]
    assert {each.advice for each in report.problems if each.key == "v/foreign"} == {advice["v/foreign"]}
    assert "`fsbackup repair --adopt`" in advice["v/foreign"]


def test_problems_reach_the_callback_and_reports_are_plain(rig: ReplicaRig) -> None:
    """`on_problem` gets each problem once; the report as JSON types has them too."""
    _store_one(rig)
    rig.raw_replicas["r2"].drop("v/one")
    reported: list[CopyProblem] = []
    report = rig.store(min_copies=1).verify(on_problem=reported.append)
    assert tuple(reported) == report.problems
    plain = report.as_dict()
    assert plain["problems"] == [reported[0].as_dict()]
    assert (plain["status"], plain["found"], plain["backends"]["r2"]["states"]) == ("degraded", 1, {"missing": 1})


def test_an_error_of_the_callback_ends_it(rig: ReplicaRig) -> None:
    """What the caller raises comes back to the caller."""
    _store_one(rig)
    rig.raw_replicas["r2"].drop("v/one")

    def refuse(_: CopyProblem) -> None:
        raise BrokenPipeError

    store: ReplicatedStorage = rig.store()
    with pytest.raises(BrokenPipeError):
        store.verify(on_problem=refuse)
