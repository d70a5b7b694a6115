"""Any sequence of writes, deletes, outages, losses, rot, repairs and verifications against a plain model.

The model knows of each object its content and which replicas hold it proven. One such replica that answers is
always left: then every read is right, verify finds exactly what is wrong, and a repair makes it all right again.
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fsbackup import LocalStorage, ReplicatedStorage
from fsbackup.errors import ObjectNotFoundError
from tests.faults.promises import Seen, held
from tests.replication.raw_replicas import RawDisk, manifest_name
from tests.replication.rig import content

NAMES = ("a", "b", "c")
KEYS = st.sampled_from(["one", "deep/two", "deep/er/three"])
CONTENTS = st.builds(content, st.sampled_from([0, 1, 3000, 3000]), st.integers(0, 2))
Loss = Literal["data", "manifest", "both"]
Rot = Literal["flip", "hidden flip", "truncate", "extend", "edit manifest"]


class Faults(RuleBasedStateMachine):
    """Three directories with everything that may happen to them."""

    def __init__(self) -> None:
        super().__init__()
        self.tmp = Path(tempfile.mkdtemp())
        self.model: dict[str, bytes] = {}
        #: Who holds the newest version and proves it, by key.
        self.good: dict[str, set[str]] = {}
        #: Who looks as if it did, as long as nobody reads it.
        self.hidden: set[tuple[str, str]] = set()
        #: Who still has what was deleted while it was away.
        self.asleep: set[tuple[str, str]] = set()
        self.away: str | None = None
        for name in NAMES:
            (self.tmp / name).mkdir()
        backends = [LocalStorage(self.tmp / name, name=name, create=False) for name in NAMES]
        self.store = ReplicatedStorage(backends, min_copies=2, errors="raise")
        assert self.store.replicate(io.BytesIO(b"1"), "first")  # the set is in use from now on
        assert self.store.remove("first")

    def teardown(self) -> None:
        shutil.rmtree(self.tmp)

    @property
    def present(self) -> set[str]:
        return set(NAMES) - {self.away}

    def raw(self, name: str) -> RawDisk:
        """Look at a replica's directory, wherever it is now."""
        return RawDisk(self.tmp / (f"{name}.away" if name == self.away else name))

    def can_spare(self, key: str, name: str) -> bool:
        """Tell whether somebody else who answers has proof of an object."""
        return bool((self.good[key] & self.present) - {name})

    @precondition(lambda self: self.away is None)
    @rule(name=st.sampled_from(NAMES))
    def fail(self, name: str) -> None:
        bare = [
            key for key in self.model if self.raw(name).get(key) is not None and not self.has_manifest(name, key)
        ]
        # Data that lost its manifest, and then misses the delete or the overwrite of it, only a person can judge.
        if bare or not all(self.can_spare(key, name) for key in self.model):
            return
        (self.tmp / name).rename(self.tmp / f"{name}.away")
        (self.tmp / name).write_bytes(b"in the way")
        self.away = name

    def has_manifest(self, name: str, key: str) -> bool:
        return self.raw(name).get(manifest_name(key)) is not None

    @precondition(lambda self: self.away is not None)
    @rule()
    def recover(self) -> None:
        name, self.away = self.away, None
        (self.tmp / f"{name}").unlink()
        (self.tmp / f"{name}.away").rename(self.tmp / f"{name}")

    @rule(key=KEYS, data=CONTENTS)
    def put(self, key: str, data: bytes) -> None:
        source = self.tmp / "source"
        source.write_bytes(data)
        assert self.store.upload(source, key) is True
        # The same content again is not sent where it seems to be; that needs a deep verify to be found out.
        unseen = {name for name in self.present if (key, name) in self.hidden and self.model.get(key) == data}
        self.hidden -= {(key, name) for name in self.present - unseen}
        slept = self.good.get(key, set()) - self.present if self.model.get(key) == data else set()
        self.good[key] = self.present - unseen | slept
        self.asleep -= {(key, name) for name in NAMES}
        self.model[key] = data

    @rule(key=KEYS)
    def delete(self, key: str) -> None:
        report = self.store.remove(key)
        if self.away and key in self.model:
            assert report.status == "degraded"
        assert (report.status == "complete") is (self.away is None)
        assert {name for name, result in report.replicas.items() if result.ok} == self.present
        self.asleep -= {(key, name) for name in self.present}
        if self.away and self.raw(self.away).get(key) is not None:
            self.asleep.add((key, self.away))
        self.hidden -= {(key, name) for name in NAMES}
        self.model.pop(key, None)
        self.good.pop(key, None)

    @rule(key=KEYS, name=st.sampled_from(NAMES), what=st.sampled_from(["data", "manifest", "both"]))
    def lose(self, key: str, name: str, what: Loss) -> None:
        if key not in self.model or name not in self.present or not self.can_spare(key, name):
            return
        gone = {"data": [key], "manifest": [manifest_name(key)]}.get(what, [key, manifest_name(key)])
        for each in gone:
            (self.tmp / name / each).unlink(missing_ok=True)
        self.spoil(key, name)

    def spoil(self, key: str, name: str) -> None:
        self.good[key].discard(name)
        self.hidden.discard((key, name))

    @rule(
        key=KEYS,
        name=st.sampled_from(NAMES),
        how=st.sampled_from(["flip", "hidden flip", "truncate", "extend", "edit manifest"]),
    )
    def rot(self, key: str, name: str, how: Rot) -> None:
        if key not in self.model or name not in self.good[key] & self.present or not self.can_spare(key, name):
            return
        path = self.tmp / name / (manifest_name(key) if how == "edit manifest" else key)
        data, stat = path.read_bytes(), path.stat()
        if not data and how != "extend":
            return
        flipped = data[:-1] + bytes(each ^ 1 for each in data[-1:])
        path.write_bytes({"truncate": data[:-1], "extend": data + b"!"}.get(how, flipped))
        self.spoil(key, name)
        if how == "hidden flip":
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
            self.hidden.add((key, name))

    def wrong(self, *, deep: bool) -> set[tuple[str, str]]:
        """Return which copies are not right, among replicas that answer."""
        found = {(key, name) for key in self.model for name in self.present - self.good[key]}
        found |= {(key, name) for key, name in self.asleep if name in self.present}
        return found if deep else found - self.hidden

    @rule(deep=st.booleans())
    def verify(self, deep: bool) -> None:
        report = self.store.verify(deep=deep)
        found = {(each.key, each.backend) for each in report.problems if each.backend != self.away}
        assert found == self.wrong(deep=deep)
        assert (report.status == "complete") == (not found and not self.away)

    @rule(deep=st.booleans())
    def repair(self, deep: bool) -> None:
        unseen = set() if deep else self.hidden & self.wrong(deep=True)
        report = self.store.repair(deep=deep)
        assert report.status == ("degraded" if self.away else "complete"), report.as_dict()
        assert report.unrecoverable == 0
        for key in self.model:
            # What is read to mend others is found out too, though nothing told that it is rotten.
            found_out = {name for name in self.present if self.proves(key, name)}
            assert found_out >= self.present - {name for at, name in unseen if at == key}
            self.good[key] = found_out | (self.good[key] - self.present)
            self.hidden -= {(key, name) for name in found_out}
        self.asleep = {(key, name) for key, name in self.asleep if name == self.away}

    def proves(self, key: str, name: str) -> bool:
        return held(Seen(self.raw(name).everything()), key) == ("proven", self.model[key])

    @rule(key=KEYS)
    def restore(self, key: str) -> None:
        target = self.tmp / "target"
        if key in self.model:
            assert self.store.restore(key, target).verified
            assert target.read_bytes() == self.model[key]
            target.unlink()
            return
        with pytest.raises(ObjectNotFoundError):
            self.store.restore(key, target)
        assert not target.exists()

    @invariant()
    def every_copy_is_as_the_model_says(self) -> None:
        """Who is said to hold an object holds it, and proves it."""
        for name in NAMES:
            seen = Seen(self.raw(name).everything())
            for key, data in self.model.items():
                if name in self.good[key]:
                    assert held(seen, key) == ("proven", data), (key, name)
            left = [each for each in seen.objects if each.endswith("-tmp") or "/pending/" in each]
            assert left == [], name

    @invariant()
    def the_listing_has_every_object(self) -> None:
        """What was confirmed is listed, whoever is away."""
        assert self.model.keys() <= {entry.key for entry in self.store.ls()}


# Derandomized: every run does the same, and a failure prints the steps that lead to it.
LONG = settings(
    max_examples=40, stateful_step_count=40, deadline=None, derandomize=True, database=None, print_blob=True
)
SHORT = settings(LONG, max_examples=6)


class TestFaults(Faults.TestCase):  # type: ignore[misc, valid-type]
    """Some sequences."""

    settings = SHORT


@pytest.mark.matrix
class TestFaultsLonger(Faults.TestCase):  # type: ignore[misc, valid-type]
    """More sequences."""

    settings = LONG
