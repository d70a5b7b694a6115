"""Disks with objects of any age, written by hand, and a set over them with a retention each."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from fsbackup import LocalStorage, ReplicatedStorage
from fsbackup.loop import run
from fsbackup.replication.classify import IsExpired
from fsbackup.replication.prune import PruneOptions, PruneReport, find_expired, prune
from fsbackup.retention import Retention
from tests.replication.raw_replicas import MARKER, RawDisk, blocks, manifest_name, mark, sealed

DAY = 86_400.0
BLOCK = 1 << 20


#: What makes the keys of `daily` a series of each name, and the same with a directory per month.
DESTINATIONS = ("{name}/{now:%Y-%m-%d}.gz", "{name}/{now:%Y/%m/%d}.gz")


def days(number: float, keep_last: int = 1, **more: Any) -> Retention:
    """Return a rule that keeps what is younger than so many days, and the newest so many."""
    return Retention(max_age=timedelta(days=number), keep_last=keep_last, destinations=DESTINATIONS, **more)


def record(
    key: str, data: bytes, made: float, *, generation: int = 1, replaces: bytes | None = None
) -> dict[str, Any]:
    """Return the manifest of an object that was made at `made` (epoch seconds)."""
    return {
        "format": 1,
        "kind": "manifest",
        "key": key,
        "size": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "block_size": BLOCK,
        "blocks": blocks(data, BLOCK),
        "generation": generation,
        **({"replaces": hashlib.sha256(replaces).hexdigest()} if replaces is not None else {}),
        "created_at": datetime.fromtimestamp(made, UTC).isoformat(timespec="seconds"),
        "source": {"host": "here"},
        "part_size": BLOCK,
        "fsbackup_version": "0",
        "write_id": hashlib.md5(data).hexdigest(),
    }


class Disks:
    """Directories that are the backends ``a``, ``b`` and so on, each with its independent eye.

    Parameters
    ----------
    root
        The directory for all of them.
    names
        Their names.
    """

    def __init__(self, root: Path, names: Iterable[str] = "abc") -> None:
        self.root = root
        self.raw_replicas = {name: RawDisk(root / name) for name in names}
        for number, raw in enumerate(self.raw_replicas.values()):
            raw.put(MARKER, mark(number))
        self.now = time.time()

    def store(self, rules: Mapping[str, Retention], **options: Any) -> ReplicatedStorage:
        """Return a set over all of them."""
        backends = [LocalStorage(raw.base, name=name) for name, raw in self.raw_replicas.items()]
        return ReplicatedStorage(backends, retention=rules, **{"errors": "raise", "min_copies": 1, **options})

    def put(
        self,
        on: Iterable[str],
        key: str,
        age: float,
        *,
        data: bytes | None = None,
        listed: float | None = None,
        generation: int = 1,
    ) -> None:
        """Store an object of `age` days, by its manifest and (unless `listed` days) by its listing."""
        data = content(key) if data is None else data
        made = self.now - age * DAY
        for name in on:
            self.raw_replicas[name].put(key, data)
            self.raw_replicas[name].set_manifest(key, record(key, data, made, generation=generation))
            self.touch(name, key, age if listed is None else listed)

    def touch(self, name: str, key: str, age: float) -> None:
        """Have a backend list a record as so many days old."""
        when = self.now - age * DAY
        os.utime(self.raw_replicas[name].base / manifest_name(key), (when, when))

    def edit(self, name: str, key: str, age: float, **fields: Any) -> None:
        """Change what a manifest says, and list it as so many days old."""
        found = self.raw_replicas[name].manifest(key)
        assert found is not None
        self.raw_replicas[name].put(manifest_name(key), json.dumps(sealed({**found, **fields})).encode())
        self.touch(name, key, age)

    def keys(self, name: str) -> set[str]:
        """Return the objects that are there."""
        return {each for each in self.raw_replicas[name].names() if not each.startswith(".fsbackup/")}

    def whole(self, name: str) -> set[str]:
        """Return the objects that are there and proven, when there is nothing else at all."""
        keys = self.keys(name)
        assert self.raw_replicas[name].names() == keys | {manifest_name(key) for key in keys}, name
        assert all(self.raw_replicas[name].provable(key) is not None for key in keys)
        return keys

    def snapshot(self) -> dict[str, dict[str, bytes | None]]:
        """Return everything that is stored anywhere."""
        return {name: {each: raw.get(each) for each in raw.names()} for name, raw in self.raw_replicas.items()}

    @contextmanager
    def away(self, name: str) -> Iterator[None]:
        """Have no disk where one is mounted while the block runs."""
        base = self.raw_replicas[name].base
        base.rename(base.with_name(f"{name}-away"))
        base.write_bytes(b"no directory")
        yield
        base.unlink()
        base.with_name(f"{name}-away").rename(base)


#: What the buckets keep of objects that are LATER seconds old; the disk keeps everything.
RULES = {"r2": days(30), "b2": days(30)}
LATER = 40 * DAY


def prune_later(
    store: ReplicatedStorage, rules: Mapping[str, Retention] = RULES, prefix: str = "", *, dry_run: bool = False
) -> PruneReport:
    """Prune as it will be done when everything there is now is 40 days old: a server's times cannot be set."""
    return run(prune(store.replica_set, rules, PruneOptions(prefix, dry_run, time.time() + LATER)))


def expected_later(store: ReplicatedStorage, rules: Mapping[str, Retention] = RULES) -> IsExpired | None:
    """Return what has expired by then."""
    return run(find_expired(store.replica_set, rules, time.time() + LATER))[0]


def content(key: str) -> bytes:
    """Return what is stored under a key, unless a test says otherwise."""
    return f"the content of {key}".encode()


def daily(day: int, name: str = "db") -> str:
    """Return the key of a daily backup: they are of one series, and later days sort later."""
    return f"{name}/{datetime(2025, 1, 1, tzinfo=UTC) + timedelta(days=day):%Y-%m-%d}.gz"


KEY = daily(0)
NEW = daily(40)


def outcomes(report: PruneReport) -> dict[tuple[str, str], str]:
    """Return what became of each copy that was not simply kept."""
    return {(step.key, step.backend): step.outcome for step in report.steps}


def reason(report: PruneReport, backend: str = "a") -> str:
    """Return the one reason that a report has for a backend."""
    (found,) = [step.reason for step in report.steps if step.backend == backend]
    return found


def assert_untouched(disks: Disks, store: ReplicatedStorage, status: str) -> PruneReport:
    """Prune, and check that it removes nothing and leaves something to be mended."""
    before = disks.snapshot()
    report = store.prune(dry_run=False)
    assert disks.snapshot() == before
    assert report.status == status, report.as_dict()
    return report


def drop(disks: Disks, name: str, key: str = KEY) -> None:
    """Lose a copy and its manifest."""
    disks.raw_replicas[name].drop(key)
    disks.raw_replicas[name].drop(manifest_name(key))
