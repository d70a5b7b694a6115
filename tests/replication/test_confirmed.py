"""What `min_copies` replicas have counts, whatever fewer of them say; judged on plain files."""

from __future__ import annotations

import errno
import io
import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from fsbackup import LocalStorage, ReplicatedStorage
from fsbackup.cli import exits, main
from fsbackup.engine.results import Report
from fsbackup.errors import TooFewCopiesError
from tests.replication.prune_helpers import Disks
from tests.replication.raw_replicas import manifest_name

KEY = "db/orders.sql"
OLD, NEW = b"confirmed", b"refused, and of another length"


class Three:
    """A set of three disks that requires two copies."""

    def __init__(self, root: Path) -> None:
        self.root = root
        disks = [LocalStorage(root / name, name=name) for name in "abc"]
        self.store = ReplicatedStorage(disks, min_copies=2, errors="raise")

    def put(self, data: bytes) -> Report:
        source = self.root / "source"
        source.write_bytes(data)
        return self.store.replicate(source, KEY, overwrite=True)

    def read(self) -> bytes:
        target = self.root / "restored"
        self.store.download(KEY, target)
        return target.read_bytes()

    def on(self, name: str) -> bytes:
        return (self.root / name / KEY).read_bytes()

    def generation(self, name: str) -> int:
        return int(json.loads((self.root / name / manifest_name(KEY)).read_bytes())["generation"])

    @contextmanager
    def away(self, names: str) -> Iterator[None]:
        """Have disks that are no directories."""
        for name in names:
            (self.root / name).rename(self.root / f"{name}-away")
            (self.root / name).write_bytes(b"")
        yield
        for name in names:
            (self.root / name).unlink()
            (self.root / f"{name}-away").rename(self.root / name)


class Interrupting(io.BytesIO):
    """A stream in the middle of which something happens."""

    def __init__(self, data: bytes, happens: Callable[[], object]) -> None:
        super().__init__(data)
        self._happens = happens

    def read(self, size: int | None = -1, /) -> bytes:
        happens, self._happens = self._happens, lambda: None
        happens()
        return super().read(size)


@pytest.fixture
def three(tmp_path: Path) -> Three:
    return Three(tmp_path)


def refuse_links(*_: object, **__: object) -> None:
    """Be `os.link` on a filesystem without hard links."""
    raise PermissionError(errno.EPERM, "no hard links here")


@pytest.fixture
def refused(three: Three, monkeypatch: pytest.MonkeyPatch) -> Three:
    """A replacement that only one disk has taken and nobody put back: the others went away while it was read."""
    three.put(OLD)
    monkeypatch.setattr(os, "link", refuse_links)
    with ExitStack() as stack:
        source = Interrupting(NEW, lambda: stack.enter_context(three.away("bc")))
        assert three.store.replicate(source, KEY, overwrite=True).status == "failed"
    assert three.on("a") == NEW
    (three.root / "source").write_bytes(NEW)
    return three


def test_a_refused_replacement_hides_nothing(refused: Three) -> None:
    """Readers get what was confirmed, and every view says so."""
    assert refused.read() == OLD
    assert refused.store.get_size(KEY) == len(OLD)
    status = refused.store.stat(KEY)
    assert (status.states["a"], status.status) == ("unconfirmed", "degraded")


def test_a_refused_replacement_is_completed_by_the_same_upload(refused: Three) -> None:
    """The disk that has it does so, too: whoever stored it there may be about to put back what was before."""
    generation = refused.generation("a")
    report = refused.store.replicate(refused.root / "source", KEY, overwrite=True)
    assert (report.status, report.replicas["a"].already) == ("complete", False)
    assert [refused.generation(name) for name in "abc"] == [generation] * 3
    assert refused.read() == NEW


def test_another_upload_outranks_a_refused_one(refused: Three) -> None:
    """On every disk."""
    refused.put(b"third")
    assert {refused.on(name) for name in "abc"} == {b"third"}
    assert refused.store.verify().status == "complete"


def test_repair_leaves_a_refused_replacement_for_a_day(refused: Three) -> None:
    """Its writer might be at work."""
    report = refused.store.repair()
    assert [(step.action.backend, step.action.problem) for step in report.steps] == [("a", "busy")]
    assert refused.on("a") == NEW


def test_a_delete_on_too_few_disks_deletes_nothing(three: Three) -> None:
    """Nor from the one that can be reached."""
    three.put(OLD)
    with three.away("bc"), pytest.raises(TooFewCopiesError, match=r"deleted nowhere.*b, c cannot be reached"):
        three.store.delete(KEY)
    assert three.read() == three.on("a") == OLD
    assert three.store.verify().status == "complete"


def test_a_replacement_on_too_few_disks_sends_nothing(three: Three) -> None:
    """What is stored already is named, and what was to be replaced is still there."""
    three.put(OLD)
    with three.away("bc"):
        report = three.put(NEW)
        assert report.status == "failed"
        with pytest.raises(
            TooFewCopiesError, match="stored nowhere, 2 of 3 copies are required: a: nothing was sent"
        ):
            raise report.failure()
        with pytest.raises(TooFewCopiesError, match=r"stored on a only, 2 of 3 copies are required: b: .* c: "):
            raise three.put(OLD).failure()
    assert {three.on(name) for name in "abc"} == {OLD}
    assert three.put(NEW).status == "complete"


def test_a_special_file_in_the_way_is_no_other_writer(tmp_path: Path) -> None:
    """It fails its own disk; where one copy suffices, that of the other one is stored."""
    disks = Disks(tmp_path, "ab")
    os.mkfifo(disks.raw_replicas["a"].base / "fifo")
    report = disks.store({}).replicate(io.BytesIO(b"data"), "fifo")
    assert {name: each.ok for name, each in report.replicas.items()} == {"a": False, "b": True}
    assert report.status == "degraded"


def test_a_delete_on_enough_disks_is_completed(three: Three) -> None:
    """The disk that missed it does not bring the object back."""
    three.put(OLD)
    with three.away("c"):
        three.store.remove(KEY)
    assert not three.store.exists(KEY)
    three.store.repair()
    assert not any((three.root / name / KEY).exists() for name in "abc")


def test_the_other_content_of_a_generation_is_read_where_the_newer_one_is_rotten(tmp_path: Path) -> None:
    """Whatever a replica proves is better than an error."""
    disks = Disks(tmp_path, "ab")
    disks.put("a", KEY, 1, data=b"later, rotten")
    disks.put("b", KEY, 2, data=b"earlier")
    flipped = disks.raw_replicas["a"].base / KEY
    flipped.write_bytes(b"later, r?tten")
    store = disks.store({})
    store.download(KEY, tmp_path / "restored")
    assert (tmp_path / "restored").read_bytes() == store.read(KEY) == b"earlier"


def test_a_delete_on_one_of_two_disks_leaves_too_few_to_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where two copies are required, one that missed the delete proves nothing; repair deletes it."""
    disks = Disks(tmp_path, "ab")
    disks.put("ab", KEY, 1)
    monkeypatch.chdir(tmp_path)
    places = "a: {type: local, path: a}, b: {type: local, path: b}"
    Path("fsbackup.yaml").write_text(
        f"version: 1\nbackends: {{{places}}}\nreplication: {{set: {{backends: [a, b], min_copies: 2}}}}\n"
    )
    Path("b").rename("away")
    Path("b").write_bytes(b"")
    assert main(["rm", KEY]) == exits.DEGRADED
    assert "a tombstone on the others keeps it deleted" in capsys.readouterr().out
    Path("b").unlink()
    Path("away").rename("b")
    assert main(["repair"]) == exits.COMPLETE
    assert disks.keys("a") == disks.keys("b") == set()
