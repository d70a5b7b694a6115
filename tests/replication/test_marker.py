"""An unmounted disk, an emptied or a mistyped bucket is refused and named; a new set starts without ceremony."""

from __future__ import annotations

import io
import json
import shutil
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from fsbackup import LocalStorage, ReplicatedStorage
from fsbackup.engine.results import Report
from fsbackup.errors import (
    BackendError,
    BackendUnavailableError,
    ConfigError,
    NoHealthyReplicaError,
    ObjectNotFoundError,
)
from fsbackup.replication.doctor import diagnose
from fsbackup.retention import Retention
from fsbackup.stores.base import ObjectStat
from tests.replication.memory import Gate, MemoryStore, backend
from tests.replication.raw_replicas import MARKER, PENDING, TOMBSTONES, mark
from tests.replication.rig import ReplicaRig, content

NAMES = ("a", "b", "c")


class Disks:
    """Three directories that make a set."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def store(self, *names: str, **options: Any) -> ReplicatedStorage:
        """Return a new set, as a new process would see it."""
        backends = [LocalStorage(self.root / name, name=name) for name in names or NAMES]
        return ReplicatedStorage(backends, **{"errors": "raise", "min_copies": 2, **options})

    def put(self, key: str, *names: str, **options: Any) -> Report:
        return self.store(*names, **options).replicate(io.BytesIO(key.encode()), key)

    def unmount(self, name: str) -> None:
        """Leave an empty directory in the place of a disk."""
        (self.root / name).rename(self.root / f"{name}-away")
        (self.root / name).mkdir()

    def mount(self, name: str) -> None:
        (self.root / name).rmdir()
        (self.root / f"{name}-away").rename(self.root / name)

    def files(self, name: str) -> set[str]:
        base = self.root / name
        return {str(each.relative_to(base)) for each in base.rglob("*") if each.is_file()}

    def marker(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.root / name / MARKER).read_bytes())
        return found


@pytest.fixture
def disks(tmp_path: Path) -> Disks:
    """Return three disks that hold an object."""
    made = Disks(tmp_path)
    assert made.put("old").status == "complete"
    return made


@pytest.fixture
def unmounted(disks: Disks) -> Iterator[Disks]:
    """Return three disks of which ``c`` is not mounted; nothing may land on its mount point."""
    disks.unmount("c")
    yield disks
    assert list((disks.root / "c").iterdir()) == []


def assert_refused(error: Exception | None, name: str = "c") -> None:
    """Check that an error names the backend, asks the right questions and gives the command."""
    assert isinstance(error, BackendUnavailableError)
    text = str(error)
    assert text.startswith(f"{name}: nothing is stored here")
    assert "is the disk mounted? is this the bucket?" in text
    assert f"`fsbackup repair --accept-empty {name}`" in text


def test_a_new_set_starts_without_ceremony(tmp_path: Path) -> None:
    """The first upload makes a marker on each; the ids differ, and later uploads leave them alone."""
    disks = Disks(tmp_path)
    with pytest.raises(ObjectNotFoundError):
        disks.store().read("key")
    assert disks.put("one").status == "complete"
    made = {name: disks.marker(name) for name in NAMES}
    assert len({each["id"] for each in made.values()}) == 3
    assert all(each["kind"] == "backend" and "filling" not in each for each in made.values())
    assert disks.put("two").status == "complete"
    assert {name: disks.marker(name) for name in NAMES} == made


def test_a_backend_alone_makes_its_marker_and_is_never_refused(tmp_path: Path) -> None:
    base, source = tmp_path / "disk", tmp_path / "source"
    source.write_bytes(b"1")
    assert LocalStorage(base, errors="raise").upload(source, "key")
    made = (base / MARKER).read_bytes()
    assert LocalStorage(base, errors="raise").upload(source, "other")
    assert (base / MARKER).read_bytes() == made
    shutil.rmtree(base)
    assert not LocalStorage(base, errors="raise").exists("key")
    assert LocalStorage(base, errors="raise").upload(source, "key")


def test_an_upload_goes_to_the_others(unmounted: Disks) -> None:
    """Degraded, and complete again when the disk is mounted and repaired, without any acceptance."""
    report = unmounted.put("new")
    assert report.status == "degraded"
    assert_refused(report.replicas["c"].exception)
    assert all({"new", "old"} <= unmounted.files(name) for name in "ab")
    unmounted.mount("c")
    assert unmounted.store().repair().status == "complete"
    assert {"new", "old"} <= unmounted.files("c")
    unmounted.unmount("c")


def test_a_batch_goes_to_the_others(unmounted: Disks, tmp_path: Path) -> None:
    """Also where a listing stands for the questions about each file."""
    (tmp_path / "file").write_bytes(b"1")
    results = list(unmounted.store().replicate_many((tmp_path / "file", f"many/{n}") for n in range(60)))
    assert {result.report.status for result in results if result.report} == {"degraded"}
    assert {result.report.replicas["c"].error_type for result in results if result.report} == {"WrongBackendError"}


def test_its_answers_prove_no_absence(unmounted: Disks) -> None:
    store = unmounted.store(min_copies=1)
    for ask in (store.read, store.exists, store.stat, lambda key: store.restore_tree(key, unmounted.root / "out")):
        with pytest.raises(NoHealthyReplicaError, match="is the disk mounted"):
            ask("absent")
    assert store.read("old") == b"old"
    assert unmounted.store(min_copies=2).exists("absent") is False, "two of three are a quorum"


def test_every_command_treats_it_as_unreachable(unmounted: Disks) -> None:
    """And says so; repair does not fill the mount point, a delete is not complete."""
    rule = {name: Retention(max_age=timedelta(days=1), keep_last=1) for name in NAMES}
    store = unmounted.store(retention=rule)
    assert [dict(each.states) for each in store.ls()] == [{"a": "present", "b": "present", "c": "unknown"}]
    status = store.status()
    assert status.status == "degraded"
    assert "is the disk mounted?" in (status.backends["c"].error or "")
    assert store.verify().status == "degraded"
    repaired = store.repair()
    assert (repaired.status, list(repaired.unreachable)) == ("degraded", ["c"])
    assert "is the disk mounted?" in repaired.unreachable["c"]
    assert store.prune(dry_run=False).status != "complete"
    assert store.remove("old").status == "degraded"


def test_doctor_refuses_it_too(unmounted: Disks) -> None:
    found = {each.backend: each for each in diagnose([unmounted.store()])}
    assert found["a"].health == "ok"
    assert found["c"].health == "failed"
    assert "nothing is stored here" in found["c"]["connect"].detail
    assert "--accept-empty c" in (found["c"]["connect"].advice or "")


def test_doctor_writes_nothing_there() -> None:
    wrong, right = Counted("wrong"), Counted("right")
    right.place(MARKER, mark())
    found = diagnose([ReplicatedStorage([backend(wrong), backend(right)])])
    assert [each.health for each in found] == ["failed", "ok"]
    assert not [asked for asked in wrong.asked if asked.startswith("write")]


def test_doctor_finds_a_disk_that_was_cloned(disks: Disks) -> None:
    shutil.copy(disks.root / "a" / MARKER, disks.root / "b" / MARKER)
    found = {each.backend: each for each in diagnose([disks.store()])}
    assert {name: each.health for name, each in found.items()} == {"a": "limited", "b": "limited", "c": "ok"}
    assert "the same as of b" in found["a"]["marker"].detail


def test_an_empty_set_is_in_use_all_the_same(disks: Disks) -> None:
    """All objects are deleted: the markers of the others still tell an unmounted disk from a new one."""
    assert disks.store().remove("old")
    disks.unmount("c")
    assert_refused(disks.put("new").replicas["c"].exception)
    assert disks.files("c") == set()


def test_nothing_is_stored_where_nobody_can_tell(tmp_path: Path) -> None:
    """A new set of which one replica is away: the error says so, and how to go on."""
    disks = Disks(tmp_path)
    (tmp_path / "c").write_bytes(b"in the way")
    report = disks.put("new")
    assert report.status == "failed"
    assert_refused(report.replicas["a"].exception, "a")
    assert "whether c is in use is not known" in str(report.replicas["a"].exception)
    assert not (tmp_path / "a").exists()
    disks.store().repair(accept_empty=["a", "b"])
    assert disks.put("new").status == "degraded"


def test_accepted_it_is_filled(unmounted: Disks) -> None:
    (unmounted.root / "c").rename(unmounted.root / "kept")
    store = unmounted.store()
    plan = store.repair(accept_empty=["c"], dry_run=True)
    assert (plan.done, unmounted.files("c")) == ({"refill": 1}, set())
    report = unmounted.store().repair(accept_empty=["c"])
    assert (report.status, report.done) == ("complete", {"refill": 1})
    assert "filling" not in unmounted.marker("c")
    assert unmounted.put("new").status == "complete"
    assert unmounted.store().exists("absent") is False
    shutil.rmtree(unmounted.root / "c")
    (unmounted.root / "kept").rename(unmounted.root / "c")


def test_a_new_backend_of_an_old_set_is_accepted_once(disks: Disks) -> None:
    assert_refused(disks.put("two", *NAMES, "d").replicas["d"].exception, "d")
    assert disks.store(*NAMES, "d").repair(accept_empty=["d"]).status == "complete"
    assert disks.put("three", *NAMES, "d").status == "complete"
    assert disks.files("d") >= {"old", "two", "three"}


def test_until_a_whole_repair_what_it_lacks_proves_nothing(disks: Disks) -> None:
    """The repair of a part fills a part, which counts; the plain repair of all, in another process, ends it."""
    disks.put("tree/new")
    shutil.rmtree(disks.root / "c")
    assert disks.store().repair("tree", accept_empty=["c"]).status == "complete"
    assert disks.marker("c")["filling"] is True
    store = disks.store(min_copies=1)
    assert (store.exists("tree/absent"), store.get_size("tree/absent")) == (False, None)
    asks = (store.read, store.exists, store.stat, lambda key: store.restore_tree(key, disks.root / "out"))
    for ask in asks:
        for key in ("absent", "trees"):
            with pytest.raises(NoHealthyReplicaError, match="not been filled completely"):
                ask(key)
    for ask in (asks[0], asks[2], asks[3]):
        with pytest.raises(ObjectNotFoundError):
            ask("tree/absent")
    assert disks.put("more").status == "complete"
    assert disks.store().repair().status == "complete"
    assert "filling" not in disks.marker("c")
    assert disks.store(min_copies=1).exists("absent") is False


def test_each_set_that_shares_a_backend_fills_its_own_part(disks: Disks) -> None:
    """And copies nothing of the other one's; what was filled stays so, also for doctor and a smaller repair."""
    disks.put("logs/one", "a", "b")
    shutil.rmtree(disks.root / "c")
    for name in ("old", "logs/", "logs"):
        assert disks.store().repair(name, accept_empty=["c"]).status == "complete"
    assert disks.marker("c")["filled"] == ["old", "logs"]
    assert disks.store().repair("logs/one").status == "complete"
    assert disks.marker("c")["filled"] == ["old", "logs"]
    found = {each.backend: each for each in diagnose([disks.store()])}
    assert found["c"]["marker"].detail == "it was accepted empty, and filled at or below old, logs"
    assert found["c"].health == "ok"
    assert disks.store().repair("elsewhere", dry_run=True).status == "complete"
    assert disks.marker("c")["filled"] == ["old", "logs"]


@pytest.mark.parametrize(
    ("name", "message"), [("tape", "no backend of the set is called 'tape'"), ("a", "'a' is not empty")]
)
def test_only_an_empty_backend_of_the_set_can_be_accepted(disks: Disks, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        disks.store().repair(accept_empty=[name])


def test_data_without_a_marker_gets_one(disks: Disks) -> None:
    """Copied by hand without `.fsbackup/backend`, or all of `.fsbackup`: plainly the right disk."""
    (disks.root / "a" / MARKER).unlink()
    shutil.rmtree(disks.root / "b/.fsbackup")
    assert disks.put("new").status == "complete"
    assert {"id", "created_at"} <= disks.marker("a").keys() & disks.marker("b").keys()


@pytest.mark.parametrize("found", [b"{not json", json.dumps({"format": 2, "filling": True}).encode()])
def test_a_marker_that_cannot_be_read_is_one(disks: Disks, found: bytes) -> None:
    """Damaged, or of a newer version: it shows that the backend is there, and it stays as it is."""
    shutil.rmtree(disks.root / "c")
    (disks.root / "c/.fsbackup").mkdir(parents=True)
    (disks.root / "c" / MARKER).write_bytes(found)
    assert disks.put("new").status == "complete"
    assert disks.store().repair().status == "complete"
    assert (disks.root / "c" / MARKER).read_bytes() == found


def test_a_crash_between_the_markers_leaves_a_new_set(tmp_path: Path) -> None:
    """One filling marker, nothing else anywhere: the next upload makes the rest."""
    disks = Disks(tmp_path)
    (tmp_path / "a/.fsbackup").mkdir(parents=True)
    (tmp_path / "a" / MARKER).write_text(json.dumps({**json.loads(mark(7)), "filling": True}))
    with pytest.raises(ObjectNotFoundError):
        disks.store().read("key")
    assert disks.put("new").status == "complete"
    assert disks.marker("a")["id"] == json.loads(mark(7))["id"]
    assert all("filling" not in disks.marker(name) for name in NAMES)


def test_two_first_writers_agree(tmp_path: Path) -> None:
    """Both are complete, whoever makes which marker."""
    disks = Disks(tmp_path)
    stores, reports = [disks.store(), disks.store()], []
    start = threading.Barrier(2)

    def write(number: int) -> None:
        start.wait()
        reports.append(stores[number].replicate(io.BytesIO(b"x"), f"key/{number}"))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [report.status for report in reports] == ["complete", "complete"]
    assert all("filling" not in disks.marker(name) for name in NAMES)


class Held(MemoryStore):
    """Holds the first listing of all objects, behind an answer that there is no marker."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.gate = Gate()

    async def list(self, prefix: str = "", start_after: str = "") -> AsyncIterator[ObjectStat]:
        if not prefix:
            await self.gate.enter()
        async for stat in super().list(prefix, start_after):
            yield stat


def test_a_writer_that_sees_the_other_one_in_between_looks_again() -> None:
    """It saw no marker here; then the other writer makes all, so that the other replica is in use."""
    held, other = Held("held"), MemoryStore("other")
    first = ReplicatedStorage([backend(held), backend(other)])
    reports: list[Report] = []
    thread = threading.Thread(target=lambda: reports.append(first.replicate(io.BytesIO(b"1"), "one")))
    thread.start()
    held.gate.wait_reached()
    held.place(MARKER, mark(1))
    other.place(MARKER, mark(2))
    held.gate.release()
    thread.join()
    assert reports[0].status == "complete"
    assert (held.objects[MARKER], other.objects[MARKER]) == (mark(1), mark(2))


class CompletedLate(MemoryStore):
    """Holds the write that makes its marker a complete one."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.gate = Gate()

    async def put(self, name: str, data: bytes, *, create_only: bool = False) -> ObjectStat:
        if name == MARKER and not create_only:
            await self.gate.enter()
        return await super().put(name, data, create_only=create_only)


def test_a_question_in_the_midst_of_the_first_write_waits_for_its_markers() -> None:
    """One replica is in use before the other one's marker is complete: what that lacks would prove nothing."""
    late = CompletedLate("late")
    store = ReplicatedStorage([backend(MemoryStore("first")), backend(late)], errors="raise")
    reports: list[Report] = []
    answers: list[bool] = []
    writing = threading.Thread(target=lambda: reports.append(store.replicate(io.BytesIO(b"1"), "one")))
    asking = threading.Thread(target=lambda: answers.append(store.exists("other")))
    writing.start()
    late.gate.wait_reached()
    asking.start()
    asking.join(0.5)
    assert asking.is_alive()
    late.gate.release()
    for thread in (writing, asking):
        thread.join(20)
    assert reports[0].status == "complete"
    assert answers == [False]


class Counted(MemoryStore):
    """Counts what it is asked."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.asked: Counter[str] = Counter()

    async def read(self, name: str, start: int = 0, end: int | None = None, **options: object) -> bytes:
        self.asked[f"read {name}"] += 1
        return await super().read(name, start, end, **options)

    def writer(self, name: str, *arguments: Any) -> Any:
        self.asked[f"write {name}"] += 1
        return super().writer(name, *arguments)

    async def list(self, prefix: str = "", start_after: str = "") -> AsyncIterator[ObjectStat]:
        self.asked["list"] += not prefix.startswith((TOMBSTONES, PENDING))
        async for stat in super().list(prefix, start_after):
            yield stat

    def about_markers(self) -> dict[str, int]:
        """Return what was asked because of markers, and forget it."""
        found = {text: count for text, count in self.asked.items() if text == "list" or text.endswith(MARKER)}
        self.asked.clear()
        return {text: count for text, count in found.items() if count}


def test_what_the_marker_costs() -> None:
    """A new set: five requests, once in its life. Then one per process, at the first question that needs it."""
    stores = [Counted("a"), Counted("b")]

    def asked() -> list[dict[str, int]]:
        return [store.about_markers() for store in stores]

    def open_set() -> ReplicatedStorage:
        for store in stores:
            store.guard = None  # as in a new process
        return ReplicatedStorage([backend(each) for each in stores], errors="raise")

    new = open_set()
    assert new.replicate(io.BytesIO(b"1"), "one")
    for each in asked():
        assert each.pop(f"write {MARKER}") == 2
        assert each.pop(f"read {MARKER}") <= 2
        assert each.pop("list") <= 4
        assert each == {}
    assert new.replicate(io.BytesIO(b"2"), "two")
    assert new.exists("absent") is False
    assert asked() == [{}, {}]
    later = open_set()
    assert later.read("one") == b"1"
    assert later.replicate(io.BytesIO(b"3"), "one", overwrite=True)
    assert asked() == [{}, {}], "whoever shows an object is the right one"
    last = open_set()
    assert last.replicate(io.BytesIO(b"4"), "three")
    assert last.replicate(io.BytesIO(b"5"), "four")
    assert asked() == [{f"read {MARKER}": 1}] * 2


class Power:
    """Fails after so many steps of all stores together, as a process that is killed does."""

    def __init__(self) -> None:
        self.left = 0

    def step(self) -> None:
        if not self.left:
            raise BackendError("the process is dead")
        self.left -= 1


class Mortal(MemoryStore):
    """Takes a step with each request."""

    def __init__(self, name: str, power: Power) -> None:
        super().__init__(name)
        self._power = power

    async def stat(self, name: str) -> ObjectStat | None:
        self._power.step()
        return await super().stat(name)

    async def read(self, name: str, start: int = 0, end: int | None = None, **options: object) -> bytes:
        self._power.step()
        return await super().read(name, start, end, **options)

    def place(self, name: str, data: bytes) -> None:
        self._power.step()
        super().place(name, data)

    async def list(self, prefix: str = "", start_after: str = "") -> AsyncIterator[ObjectStat]:
        self._power.step()
        async for stat in super().list(prefix, start_after):
            yield stat


def test_killed_at_any_step_of_the_first_upload_a_set_starts_all_the_same() -> None:
    """The next upload is complete on all replicas: none is refused for what the first one left."""
    steps = 0
    while True:
        power = Power()
        stores = [Mortal(name, power) for name in NAMES]

        def upload(left: int, power: Power = power, stores: list[Mortal] = stores) -> Report:
            power.left = left
            for store in stores:
                store.guard = None  # another process
            made = ReplicatedStorage([backend(store) for store in stores], min_copies=1)
            return made.replicate(io.BytesIO(b"1"), "key")

        upload(steps)
        if power.left:
            break  # it came to its end
        assert upload(1000).status == "complete", steps
        steps += 1
    assert steps > 20


def test_an_emptied_bucket_is_refused_and_filled_when_accepted(rig: ReplicaRig) -> None:
    """On a real server, and with a disk that is not mounted beside it."""
    path = rig.file(content(2000))
    assert rig.store().replicate(path, "key").status == "complete"
    bucket = rig.raw_replicas["r2"]
    for name in ("key", MARKER):
        bucket.drop(name)
    assert bucket.everything() == {}
    report = rig.store(min_copies=2).replicate(path, "other")
    assert report.status == "degraded"
    assert_refused(report.replicas["r2"].exception, "r2")
    assert rig.store(min_copies=2).repair().status == "degraded"
    assert bucket.everything() == {}
    assert bucket.get(MARKER) is None
    assert rig.store(min_copies=2).repair(accept_empty=["r2"]).status == "complete"
    assert bucket.provable("other") == bucket.provable("key") == content(2000)
    assert rig.store().replicate(path, "last").status == "complete"
