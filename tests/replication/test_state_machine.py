"""Any sequence of operations and outages against a dictionary: what was promised holds after every step."""

from __future__ import annotations

import io
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fsbackup import LocalStorage, ReplicatedStorage
from fsbackup.errors import ObjectNotFoundError
from tests.replication.raw_replicas import RawDisk
from tests.replication.rig import content

NAMES = ("a", "b", "c")
MIN_COPIES = 2
KEYS = st.sampled_from(["one", "deep/er/two", "deep/three %"])
#: Of few sizes, so that versions of one size follow each other.
CONTENTS = st.builds(content, st.sampled_from([0, 1, 3000, 3000]), st.integers(0, 3))


class Replicas(RuleBasedStateMachine):
    """Three directories, of which at most one is away: any two know together what was confirmed last."""

    def __init__(self) -> None:
        super().__init__()
        self.tmp = Path(tempfile.mkdtemp())
        self.model: dict[str, bytes] = {}
        self.away: str | None = None
        for name in NAMES:
            (self.tmp / name).mkdir()
        backends = [LocalStorage(self.tmp / name, name=name, create=False) for name in NAMES]
        self.store = ReplicatedStorage(backends, min_copies=MIN_COPIES, errors="raise")
        assert self.store.replicate(io.BytesIO(b"1"), "first")  # the set is in use from now on
        assert self.store.remove("first")

    def teardown(self) -> None:
        shutil.rmtree(self.tmp)

    def raw(self, name: str) -> RawDisk:
        """Look at a replica's directory, wherever it is now."""
        return RawDisk(self.tmp / (f"{name}.away" if name == self.away else name))

    def source(self, data: bytes) -> Path:
        path = self.tmp / "source"
        path.write_bytes(data)
        return path

    @precondition(lambda self: self.away is None)
    @rule(name=st.sampled_from(NAMES), how=st.sampled_from(["gone", "a file instead"]))
    def switch_off(self, name: str, how: str) -> None:
        (self.tmp / name).rename(self.tmp / f"{name}.away")
        self.away = name
        if how == "a file instead":
            (self.tmp / name).write_bytes(b"in the way")

    @precondition(lambda self: self.away is not None)
    @rule()
    def switch_on(self) -> None:
        (self.tmp / f"{self.away}").unlink(missing_ok=True)
        (self.tmp / f"{self.away}.away").rename(self.tmp / f"{self.away}")
        self.away = None

    @rule(key=KEYS, data=CONTENTS)
    def put(self, key: str, data: bytes) -> None:
        assert self.store.upload(self.source(data), key) is True
        self.model[key] = data

    @rule(key=KEYS, data=CONTENTS, stream=st.booleans())
    def create(self, key: str, data: bytes, stream: bool) -> None:
        report = self.store.replicate(io.BytesIO(data) if stream else self.source(data), key, allow_empty=True)
        if self.model.get(key, data) == data:
            assert report.status == ("degraded" if self.away else "complete"), report.as_dict()
            self.model[key] = data
        else:
            assert report.status == "failed"
            types = {name: result.error_type for name, result in report.replicas.items()}
            assert {types[name] for name in NAMES if name != self.away} == {"ConflictError"}, types

    @rule(key=KEYS)
    def delete(self, key: str) -> None:
        report = self.store.remove(key)
        if self.away and key in self.model:
            assert report.status == "degraded"
        assert (report.status == "complete") is (self.away is None)
        assert [name for name, result in report.replicas.items() if not result.ok] == (
            [self.away] if self.away else []
        )
        self.model.pop(key, None)

    @rule(key=KEYS, stream=st.booleans())
    def read(self, key: str, stream: bool) -> None:
        target = self.tmp / "target"
        buffer = io.BytesIO()
        if key in self.model:
            report = self.store.restore(key, buffer if stream else target)
            assert report.verified
            assert (buffer.getvalue() if stream else target.read_bytes()) == self.model[key]
            return
        with pytest.raises(ObjectNotFoundError):
            self.store.restore(key, buffer if stream else target)
        assert buffer.getvalue() == b""

    @rule(key=KEYS)
    def ask(self, key: str) -> None:
        if key in self.model:
            assert self.store.exists(key) is True
            assert self.store.get_size(key) == len(self.model[key])
        else:
            assert self.store.exists(key) is False
            assert self.store.get_size(key) is None

    @invariant()
    def enough_copies_are_proven(self) -> None:
        """Every object is proven in at least two places, and no replica anywhere has what nothing proves."""
        for key, data in self.model.items():
            stored = key.replace("%", "%25")
            copies = [self.raw(name).get(stored) for name in NAMES if self.proven(name, stored) == data]
            assert len(copies) >= MIN_COPIES, (key, self.away)

    def proven(self, name: str, stored: str) -> bytes | None:
        return self.raw(name).provable(stored)

    @invariant()
    def nothing_unfinished_stays(self) -> None:
        """No temp file and no announcement outlives its operation."""
        for name in NAMES:
            left = [each for each in self.raw(name).names() if each.endswith("-tmp") or "/pending/" in each]
            assert left == [], name

    @invariant()
    def the_listing_has_every_object(self) -> None:
        """What was confirmed is listed, whichever replica is away."""
        assert self.model.keys() <= {entry.key for entry in self.store.ls()}


# Derandomized: every run does the same, and a failure prints the steps that lead to it.
LONG = settings(
    max_examples=25, stateful_step_count=25, deadline=None, derandomize=True, database=None, print_blob=True
)
SHORT = settings(LONG, max_examples=6)


class TestReplicas(Replicas.TestCase):  # type: ignore[misc, valid-type]
    """Some sequences."""

    settings = SHORT


@pytest.mark.matrix
class TestReplicasLonger(Replicas.TestCase):  # type: ignore[misc, valid-type]
    """More sequences."""

    settings = LONG
