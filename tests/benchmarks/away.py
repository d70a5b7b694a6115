"""One of three replicas is away or crawls, in each of the ways there are: what that costs each operation.

Each is measured twice: of the first who meets it, and of the next, who knows. The yardstick is 1.3 times the
healthy time. The first is allowed one deadline more, the longest silence of the backend (`timeout`; waiting for a
connection counts as silence); the next as long as it takes to see that the backend is not back. Of an upload it is
also measured when the other replicas have the object, which is allowed nothing more. An upload ends when a
crawling replica has it: there only the others are judged.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from fsbackup.backends import BackblazeB2Storage, CloudflareR2Storage, LocalStorage
from fsbackup.engine import breaker
from fsbackup.engine.breaker import GRACE
from fsbackup.engine.results import Report
from fsbackup.replication.storage import ReplicatedStorage
from fsbackup.retention import Retention
from tests.benchmarks.arena import Arena
from tests.benchmarks.results import table
from tests.benchmarks.rounds import show_progress
from tests.benchmarks.sources import random_file, random_tree
from tests.servers.dead import DEAD, moved
from tests.servers.endpoint import S3Endpoint, fresh_bucket
from tests.servers.faults import Stall, Status, Throttle, fault_proxy

#: Seconds: the deadline of the backend that is away.
DEADLINE = 4.0
_HEALTHY_DEADLINE = 60.0
_BYTES, _FILES, _EACH = 64 << 20, 400, 16 << 10
_SHARE = 1.3
#: Seconds by which two measurements of the same differ.
_SLACK = 0.25
#: A replica that says nothing any more after a few answers; one that crawls, and its bytes per second.
SILENT = "goes silent"
CRAWLS, _CRAWL = "crawls", 8 << 20
_TREE, _FILE = "tree", "large/file.bin"


@dataclass(frozen=True)
class Took:
    """The seconds of one operation; of an upload also until the replicas that are there had the object."""

    seconds: float
    held: float | None = None


@dataclass(frozen=True)
class Row:
    """What one operation took, healthy and with a replica away: of the first, and of the next."""

    fault: str
    operation: str
    healthy: Took
    first: Took
    next: Took

    @property
    def within(self) -> bool:
        """Whether it took no longer than it may."""
        allowed, judged = _SHARE * self.healthy.seconds + _SLACK, [True]
        if self.healthy.held is not None:
            judged = [
                (each.held or 0.0) <= _SHARE * self.healthy.held + _SLACK for each in (self.first, self.next)
            ]
        if self.fault != CRAWLS or self.healthy.held is None:
            has_met = self.first.seconds >= DEADLINE or self.fault != SILENT  # else the next one meets it first
            judged.append(self.first.seconds <= allowed + DEADLINE)
            judged.append(self.next.seconds <= allowed + (GRACE if has_met else DEADLINE))
        return all(judged)

    def cells(self) -> list[str]:
        """Return the row of the table."""
        took = (self.healthy, self.first, self.next)
        held = ["" if each.held is None else f"{each.held:.2f}" for each in took]
        figures = [f"{each.seconds:.2f}" for each in took]
        return [f"{self.fault}: {self.operation}", *figures, *held, "yes" if self.within else "NO"]


class Setup:
    """A set of three replicas, of which R2 can be moved to where nobody is, and files to store."""

    def __init__(self, arena: Arena) -> None:
        self.folder = arena.folder / "away"
        self.large = random_file(arena.folder / "large.bin", _BYTES)
        names = random_tree(arena.folder / "files", _FILES, _EACH)
        self.files = [(arena.folder / "files" / name, name) for name in names]
        self.r2, self.b2 = (fresh_bucket(server) for server in arena.servers)
        self.count = 0

    def store(self, r2: S3Endpoint, **options: Any) -> ReplicatedStorage:
        """Return the set, new, with R2 at an endpoint."""
        places = {"r2": (r2, DEADLINE), "b2": (self.b2, _HEALTHY_DEADLINE)}
        clouds = [_cloud(name, *place) for name, place in places.items()]
        return ReplicatedStorage([LocalStorage(self.folder / "local"), *clouds], min_copies=2, **options)

    def fresh(self) -> str:
        """Return a prefix that nothing has been stored under."""
        self.count += 1
        return f"new{self.count}"

    def many(self, store: ReplicatedStorage, prefix: str) -> bool:
        """Store the small files."""
        return all([*store.replicate_many([(path, f"{prefix}/{name}") for path, name in self.files])])

    def tree(self, store: ReplicatedStorage) -> bool:
        """Read the small files back."""
        target = self.folder / "back"
        try:
            return store.restore_tree(_TREE, target).objects == _FILES
        finally:
            shutil.rmtree(target)


def _cloud(name: str, place: S3Endpoint, timeout: float) -> CloudflareR2Storage | BackblazeB2Storage:
    options: dict[str, Any] = {
        "bucket": place.bucket,
        "access_key_id": place.access_key_id,
        "secret_access_key": place.secret_access_key,
        "endpoint_url": place.endpoint_url,
        "timeout": timeout,
    }
    return CloudflareR2Storage(**options) if name == "r2" else BackblazeB2Storage(**options, region=place.region)


_RULES = {"local": Retention(max_age=timedelta(days=30), keep_last=7)}

#: What is done with a set; each says whether it went well.
OPERATIONS: Mapping[str, Callable[[Setup, S3Endpoint], object]] = {
    "upload": lambda on, r2: on.store(r2).replicate(on.large, f"{on.fresh()}/file.bin"),
    "upload of many": lambda on, r2: on.many(on.store(r2), on.fresh()),
    "restore": lambda on, r2: on.store(r2).restore(_FILE, on.folder / "back.bin"),
    "restore of many": lambda on, r2: on.tree(on.store(r2)),
    "status": lambda on, r2: on.store(r2).status(_TREE),
    "status, retention": lambda on, r2: on.store(r2, retention=_RULES).status(_TREE),
    "verify": lambda on, r2: on.store(r2).verify(_TREE),
    "verify, retention": lambda on, r2: on.store(r2, retention=_RULES).verify(_TREE),
    "repair": lambda on, r2: on.store(r2).repair(_TREE),
    "repair, retention": lambda on, r2: on.store(r2, retention=_RULES).repair(_TREE),
}


def away(arena: Arena) -> tuple[str, dict[str, Any]]:
    """Measure every operation with every fault."""
    setup = Setup(arena)
    assert setup.many(setup.store(setup.r2), _TREE)
    assert setup.store(setup.r2).replicate(setup.large, _FILE)
    rows = []
    for fault in (*DEAD, "503", SILENT, CRAWLS):
        for name, operation in OPERATIONS.items():
            breaker.forget()
            with _ways(fault, setup.r2) as (way, place):
                healthy = _measure(setup, operation, way)  # each time, beside what is compared with it
                first = _measure(setup, operation, place)
                rows.append(Row(fault, name, healthy, first, _measure(setup, operation, place)))
            show_progress(" | ".join(rows[-1].cells()))
    head = ["", "healthy s", "first s", "next s", "held: healthy", "first", "next", "within"]
    title = (
        f"away: one of three replicas; the others hold an upload within {_SHARE} x healthy, the first returns"
        f" within that and the deadline of {DEADLINE:g} s, the next within that and {GRACE:g} s"
    )
    return table(title, head, [row.cells() for row in rows]), {"rows": [asdict(row) for row in rows]}


@contextmanager
def _ways(fault: str, place: S3Endpoint) -> Iterator[tuple[S3Endpoint, S3Endpoint]]:
    """Yield where R2 is healthy, and where it is away from the start, or (`SILENT`) after a few answers; or slow.

    A proxy takes time of its own from this process, so the healthy one is behind one, too, where the other one is.
    """
    if fault in DEAD:
        with DEAD[fault]() as port:
            yield place, moved(place, port)
        return
    with fault_proxy(place) as way, fault_proxy(place) as proxy:
        if fault == "503":
            proxy.add(Status(503, "ServiceUnavailable"))
        elif fault == CRAWLS:
            proxy.add(Throttle(up=_CRAWL, down=_CRAWL))
        else:
            proxy.add(Stall(), first=4)
        yield way.endpoint, proxy.endpoint


def _measure(setup: Setup, operation: Callable[[Setup, S3Endpoint], object], place: S3Endpoint) -> Took:
    started = time.monotonic()
    result = operation(setup, place)
    seconds = time.monotonic() - started
    if not result:
        raise AssertionError("it did not succeed with the two others")
    if not isinstance(result, Report):
        return Took(seconds)
    return Took(seconds, max(each.seconds for name, each in result.replicas.items() if name != "r2"))
