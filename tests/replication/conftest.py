"""The worlds that the replication tests run in."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fsbackup.stores.base import ObjectStore
from tests.matrix import matrix
from tests.replication.memory import PartCount
from tests.replication.prune_helpers import KEY, NEW, Disks
from tests.replication.rig import ReplicaRig, make_rig
from tests.servers.endpoint import S3Endpoint, fresh_bucket

#: Which server plays R2 and which plays B2: each in both roles, and the strict ones over TLS in their own.
PAIRS = [("strict_r2", "strict_b2"), *map(matrix, [("moto", "seaweedfs"), ("seaweedfs", "moto")])]


@pytest.fixture(scope="session")
def second_bucket(seaweedfs: S3Endpoint) -> S3Endpoint:
    """Return another bucket of SeaweedFS."""
    return fresh_bucket(seaweedfs)


@pytest.fixture
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ReplicaRig]:
    """Return three replicas behind proxies, R2 and B2 in two buckets of the server that is the fastest."""
    r2, b2 = (request.getfixturevalue(name) for name in ("second_bucket", "seaweedfs"))
    with make_rig(r2, b2, tmp_path, proxied=True) as made:
        yield made


@pytest.fixture
def contested(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ReplicaRig]:
    """Return three replicas behind proxies, with a B2 that keeps versions as the real one does."""
    r2, b2 = (request.getfixturevalue(name) for name in ("second_bucket", "strict_b2"))
    with make_rig(r2, b2, tmp_path, proxied=True) as made:
        yield made


@pytest.fixture(params=PAIRS, ids="+".join)
def each_rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ReplicaRig]:
    """Return three replicas without proxies, at each pair of servers in turn."""
    r2, b2 = (request.getfixturevalue(name) for name in request.param)
    with make_rig(r2, b2, tmp_path, proxied=False) as made:
        yield made


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> PartCount:
    """Count the parts alive, and give up on a silent store after its own timeout."""
    counted = PartCount()
    monkeypatch.setattr("fsbackup.engine.source.Part", counted)
    monkeypatch.setattr("fsbackup.engine.parts.Part", counted)
    monkeypatch.setattr(ObjectStore, "hard_timeout_margin", 0.1)
    return counted


@pytest.fixture
def other_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every writer of this process be one on another machine: no lock is between them."""

    @asynccontextmanager
    async def unlocked(*_: object) -> AsyncIterator[None]:
        yield

    monkeypatch.setattr("fsbackup.engine.locks.exclusive", unlocked)


@pytest.fixture
def disks(tmp_path: Path) -> Disks:
    """Return three empty disks."""
    return Disks(tmp_path)


@pytest.fixture
def old(disks: Disks) -> Disks:
    """Return three disks with an object of 40 days and one of today, of one series."""
    disks.put("abc", KEY, 40)
    disks.put("abc", NEW, 0)
    return disks
