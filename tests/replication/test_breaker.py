"""Who is known to be away is not waited for again, which is never an answer, and never a reason to refuse."""

from __future__ import annotations

import io
import json
import re
import threading
from pathlib import Path
from typing import Any

import pytest

from fsbackup import ReplicatedStorage
from fsbackup.engine import breaker
from fsbackup.engine.away_note import NAME as NOTE
from fsbackup.engine.breaker import MAX_FAILURES
from fsbackup.engine.results import Report
from fsbackup.errors import BackendUnavailableError, NoHealthyReplicaError, TooFewCopiesError, TransientError
from tests.integration.cli_helpers import wait_until
from tests.replication.memory import MARKER, Gate, MemoryStore, backend
from tests.replication.raw_replicas import mark
from tests.replication.uploads import DATA, PART, SLOTS, Upload, has_it

KEY = "db/orders.sql"
#: Timeouts of a store that says nothing, of one that answers, and one that nobody can wait for.
SHORT, LONG, ENDLESS = 0.2, 20.0, 1000.0


@pytest.fixture
def no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for who is known to be away, where he says nothing."""
    monkeypatch.setattr(breaker, "GRACE", 0.0)


class Silent(MemoryStore):
    """A store that keeps questions waiting at a gate, and notes which."""

    def __init__(self, name: str) -> None:
        super().__init__(name, timeout=LONG)
        self.silence: Gate | None = None
        self.error: TransientError | None = None
        self.asked: list[str] = []

    @property
    def hard_timeout(self) -> float:
        return self.timeout

    async def answer(self, name: str) -> None:
        self.asked.append(name)
        if self.error is not None:
            raise self.error
        if self.silence is not None:
            await self.silence.enter()

    async def stat(self, name: str) -> Any:
        await self.answer(name)
        return await super().stat(name)

    async def read(self, name: str, *args: Any, **kwargs: Any) -> Any:
        await self.answer(name)
        return await super().read(name, *args, **kwargs)


class Three:
    """A set of three stores in use, of which those in `silent` say nothing."""

    def __init__(self, silent: str = "c", *, min_copies: int = 2, timeout: float = SHORT) -> None:
        self.stores = {name: Silent(name) for name in "abc"}
        for number, store in enumerate(self.stores.values()):
            store.place(MARKER, mark(number))
        for name in silent:
            self.stores[name].silence, self.stores[name].timeout = Gate(), timeout
        self.c = self.stores["c"]
        backends = [backend(each) for each in self.stores.values()]
        self.set = ReplicatedStorage(backends, min_copies=min_copies, errors="raise")

    def put(self, key: str = KEY, data: bytes = b"data") -> Report:
        return self.set.replicate(io.BytesIO(data), key, overwrite=True)

    def answer(self) -> None:
        """Have all stores answer from now on; what they were asked before goes on waiting."""
        for store in self.stores.values():
            store.silence, store.error, store.timeout = None, None, LONG


@pytest.mark.usefixtures("no_grace")
def test_the_first_waits_and_the_others_do_not() -> None:
    """Whatever they do; a write says why, and since when."""
    three = Three()
    assert three.put().status == "degraded"
    three.c.timeout = ENDLESS  # whoever waits for it from now on does not come back
    three.c.asked.clear()
    report = three.put("next")
    assert report.status == "degraded"
    assert str(report.replicas["c"].error).startswith(f"c: no answer for {SHORT:g} s (away since 20")
    assert three.set.exists("next")
    assert not three.set.exists("absent")
    assert three.set.read("next") == b"data"
    assert [each.key for each in three.set.ls()] == [KEY, "next"]
    assert three.set.remove("next").status == "degraded"
    assert [each.status for each in three.set.remove_many([KEY])] == ["degraded"]
    assert set(three.c.asked) == {MARKER}  # whether it is back


def test_who_answers_later_takes_part_later(tmp_path: Path) -> None:
    """The others have the object while one has not answered, and it gets the same object."""
    three = Three(timeout=ENDLESS)
    path = tmp_path / "source"
    path.write_bytes(DATA)
    upload = Upload([*three.stores.values()], path, min_copies=2)
    for name in "ab":
        three.stores[name].wait_proven()
    assert not has_it(three.c)
    assert three.c.silence is not None
    three.c.silence.release()
    assert upload.report().status == "complete", upload.report().as_dict()
    assert has_it(three.c)


def test_a_delete_does_not_wait_either() -> None:
    """One that answers later loses the object as well, and then no tombstone is left."""
    three = Three("")
    assert three.put().status == "complete"
    three.c.silence, three.c.timeout = (gate := Gate()), ENDLESS
    found: list[Report] = []
    deleting = threading.Thread(target=lambda: found.append(three.set.remove(KEY)), daemon=True)
    deleting.start()
    wait_until(lambda: not any(KEY in three.stores[name].objects for name in "ab"))
    gate.release()
    deleting.join(20)
    assert found[0].status == "complete", found[0].as_dict()
    assert not any(store.stored for store in three.stores.values())


def test_a_stream_is_not_kept_for_who_does_not_answer() -> None:
    """When the memory is full of what only that one lacks, it is left to repair."""
    three = Three(timeout=ENDLESS)
    upload = Upload([*three.stores.values()], io.BytesIO(DATA), min_copies=2)
    assert upload.failed() == ["c"]
    assert "did not answer in time, and <stream> cannot be read again" in str(upload.report().replicas["c"].error)
    assert len(DATA) > SLOTS * PART
    assert all(has_it(three.stores[name]) for name in "ab")


def test_its_first_answer_counts() -> None:
    """The next upload is complete, and nobody says any more that it is away."""
    three = Three()
    assert three.put().status == "degraded"
    assert breaker.outage(three.c) is not None
    three.answer()
    assert three.put("back").status == "complete"
    assert breaker.outage(three.c) is None


@pytest.mark.usefixtures("no_grace")
def test_who_is_needed_for_enough_copies_is_asked() -> None:
    """Also while a probe of it goes on that will never end."""
    three = Three("bc")
    with pytest.raises(TooFewCopiesError, match=r"stored nowhere, 2 of 3 .* nothing was sent, because b, c"):
        raise three.put().failure()
    assert not three.stores["a"].stored
    assert three.set.status().status == "degraded"
    three.answer()
    assert three.put().status == "complete"
    for name in "bc":
        three.stores[name].silence, three.stores[name].timeout = Gate(), SHORT
    with pytest.raises(TooFewCopiesError, match="deleted nowhere"):
        raise three.set.remove(KEY).failure()
    assert three.stores["a"].objects[KEY] == b"data"


@pytest.mark.usefixtures("no_grace")
@pytest.mark.parametrize("question", ["exists", "read", "stat", "get_size"])
def test_who_is_needed_to_prove_an_absence_is_asked(question: str) -> None:
    three = Three("bc")
    for _ in range(2):
        with pytest.raises(NoHealthyReplicaError, match=r"too few answered: b, c: no answer for 0\.2 s"):
            getattr(three.set, question)(KEY)
    three.answer()
    if question in ("exists", "get_size"):
        assert not getattr(three.set, question)(KEY)
    else:
        with pytest.raises(FileNotFoundError):
            getattr(three.set, question)(KEY)


@pytest.mark.usefixtures("no_grace")
def test_all_who_wait_for_the_same_silence_give_up_together() -> None:
    """One timeout in all, whenever each of them began."""
    three = Three()
    results: list[Report] = []
    first = threading.Thread(target=lambda: results.append(three.put("one")), daemon=True)
    first.start()
    wait_until(lambda: three.c.asked)
    three.c.timeout = ENDLESS
    results.append(three.put("two"))
    first.join(20)
    assert [each.status for each in results] == ["degraded", "degraded"]


def test_who_fails_at_once_is_asked_each_time_whether_it_is_back() -> None:
    """That takes no time, and so the first upload after a disk was mounted is complete."""
    three = Three("")
    three.c.error = BackendUnavailableError("not mounted", backend="c")
    assert three.put().status == "degraded"
    assert breaker.outage(three.c) is not None
    assert three.put().status == "degraded"
    three.answer()
    assert three.put().status == "complete"


def test_a_busy_service_is_away_only_when_it_is_busy_every_time() -> None:
    three = Three("")
    for count in range(1, MAX_FAILURES + 1):
        three.c.error = TransientError("SlowDown", backend="c")
        three.put()
        assert (breaker.outage(three.c) is not None) == (count == MAX_FAILURES)
        if count == MAX_FAILURES - 1:
            three.answer()
            three.put()
            three.c.error = TransientError("SlowDown", backend="c")
            three.put()
            assert breaker.outage(three.c) is None
            three.put()


def test_who_answers_and_takes_no_writes_is_away_after_two() -> None:
    """Not waited for again, although it answers each time whether it is back; after a while it is tried again."""
    three = Three("")
    gate, three.c.timeout = three.c.hold(1), SHORT
    assert [three.put(str(number)).status for number in range(2)] == ["degraded", "degraded"]
    three.c.timeout = ENDLESS
    assert three.put("2").status == "degraded"
    assert breaker.outage(three.c) is not None
    assert three.set.read("2") == b"data"
    gate.release()


class TestNote:
    """What one process leaves for the next."""

    @pytest.fixture
    def directory(self, tmp_path: Path) -> Path:
        return tmp_path / "state"

    def note(self, directory: Path) -> dict[str, Any]:
        noted: dict[str, Any] = json.loads((directory / NOTE).read_text())
        return noted

    @pytest.fixture
    def three(self, directory: Path) -> Three:
        """Return a set of which an earlier process found out that c is away."""
        breaker.use_note(directory)
        three = Three()
        assert three.put().status == "degraded"
        breaker.forget()
        three.c.timeout = ENDLESS
        return three

    @pytest.mark.usefixtures("no_grace")
    def test_the_next_process_does_not_wait(self, three: Three, directory: Path) -> None:
        breaker.use_note(directory)
        assert three.put("next").status == "degraded"
        assert three.set.read("next") == b"data"

    def test_who_is_back_takes_part(self, three: Three, directory: Path) -> None:
        """And the note is gone then."""
        breaker.use_note(directory)
        three.answer()
        assert three.put("next").status == "complete"
        assert self.note(directory)["away"] == {}

    @pytest.mark.usefixtures("three")
    def test_nobody_else_may_read_it(self, directory: Path) -> None:
        """What the place is has a hash there, since the credential is part of it."""
        [(place, entry)] = self.note(directory)["away"].items()
        assert re.fullmatch("[0-9a-f]{32}", place)
        assert entry.keys() == {"since", "tried", "seconds", "message", "hint"}
        assert (directory / NOTE).stat().st_mode & 0o777 == 0o600
        assert [each.name for each in directory.iterdir()] == [NOTE]

    @pytest.mark.parametrize(
        "change",
        [
            {"tried": 0.0, "since": 0.0},
            {"tried": 4e9},
            {"seconds": "1"},
            {"since": float("nan")},
            {"message": None},
        ],
    )
    def test_what_is_old_or_odd_is_not_believed(
        self, three: Three, directory: Path, change: dict[str, object]
    ) -> None:
        noted = self.note(directory)
        for entry in noted["away"].values():
            entry.update(change)
        (directory / NOTE).write_text(json.dumps(noted))
        breaker.use_note(directory)
        assert breaker.outage(three.c) is None

    @pytest.mark.parametrize(
        "content", [b"", b"{", b"[]", b'{"format": 2, "away": {}}', b"\xff" * 9, b"[" * 99_999]
    )
    def test_a_damaged_note_is_none(self, three: Three, directory: Path, content: bytes) -> None:
        (directory / NOTE).write_bytes(content)
        breaker.use_note(directory)
        assert breaker.outage(three.c) is None
        three.c.timeout = SHORT
        assert three.put().status == "degraded"
        assert len(self.note(directory)["away"]) == 1

    def test_without_a_place_for_it_nothing_fails(self, directory: Path) -> None:
        directory.write_text("no directory")
        breaker.use_note(directory)
        assert Three().put().status == "degraded"

    @pytest.mark.usefixtures("three")
    def test_what_other_processes_noted_stays(self, directory: Path) -> None:
        """Of places that this one knows nothing of."""
        before = self.note(directory)["away"]
        (directory / NOTE).rename(directory / "later")
        breaker.use_note(directory)
        (directory / "later").rename(directory / NOTE)
        breaker.record(Silent("d"), BackendUnavailableError("gone"), SHORT)
        assert before.items() < self.note(directory)["away"].items()

    def test_a_configuration_says_where_it_is(self, tmp_path: Path, directory: Path) -> None:
        """Below `state_dir`; what other programs of that machine find out there holds for this one."""
        disks = {name: {"type": "local", "path": str(tmp_path / name), "create": False} for name in "abc"}
        for name in disks:
            (tmp_path / name).mkdir()
        rule = {"backends": list(disks), "min_copies": 2}
        config = tmp_path / "fsbackup.yaml"
        config.write_text(
            json.dumps(
                {"version": 1, "state_dir": str(directory), "backends": disks, "replication": {"three": rule}}
            )
        )
        store = ReplicatedStorage.from_config(config, "three")
        assert store.replicate(io.BytesIO(b"1"), KEY).status == "complete"
        assert not directory.exists()
        (tmp_path / "c").rename(tmp_path / "away")
        assert store.replicate(io.BytesIO(b"1"), "next").status == "degraded"
        assert len(self.note(directory)["away"]) == 1
        breaker.forget()
        again = ReplicatedStorage.from_config(config, "three")
        assert breaker.outage(again.backends["c"].store) is not None
