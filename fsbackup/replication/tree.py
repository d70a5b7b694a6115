"""Restoring a tree: every object at or below a prefix into a directory, many side by side, and resumable."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fsbackup.aio import for_each
from fsbackup.engine import restore
from fsbackup.engine.breaker import CircuitBreaker
from fsbackup.engine.replicas import MemoryBudget, ReplicaSet
from fsbackup.engine.restore import OnProgress
from fsbackup.engine.results import DownloadReport
from fsbackup.errors import (
    FsbackupError,
    IntegrityError,
    NoHealthyReplicaError,
    ObjectNotFoundError,
    TransientError,
)
from fsbackup.replication.walk import KeyEntry, Walk

#: Objects on their way at once; their spans share the set's memory.
WORKERS = 16
#: Failures that a report names; it counts them all.
NAMED = 1000


@dataclass(frozen=True, slots=True)
class RestoredObject:
    """How one object of a tree fared.

    Parameters
    ----------
    key, target
        The object, and the file it was to become.
    report
        How it was read; None when it was not.
    error
        Why it is not there now; None when it is.
    """

    key: str
    target: Path
    report: DownloadReport | None = None
    error: Exception | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain JSON types."""
        return {
            "key": self.key,
            "target": str(self.target),
            "report": self.report.as_dict() if self.report else None,
            "error": str(self.error) if self.error else None,
            "error_type": type(self.error).__name__ if self.error else None,
        }


@dataclass
class TreeReport:
    """How a tree fared; true when every object is there.

    Parameters
    ----------
    prefix, directory
        What was restored, and to where.
    objects, bytes
        Objects that are there now, and their bytes.
    already
        How many of them were there before.
    unverified
        How many have no manifest, so that nothing proves their bytes.
    failures
        How many are not there; `failed` has the first 1,000 of them.
    unlisted
        Why a backend could not be listed, by name: what only it holds is not in the tree.
    seconds
        Wall time.
    """

    prefix: str
    directory: Path
    objects: int = 0
    bytes: int = 0
    already: int = 0
    unverified: int = 0
    failures: int = 0
    failed: list[RestoredObject] = field(default_factory=list)
    unlisted: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def __bool__(self) -> bool:
        return not self.failures

    def count(self, fetched: RestoredObject) -> None:
        """Add one object."""
        if fetched.report is None:
            self.failures += 1
            if len(self.failed) < NAMED:
                self.failed.append(fetched)
            return
        self.objects += 1
        self.bytes += fetched.report.size
        self.already += fetched.report.already
        self.unverified += not fetched.report.verified

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON types."""
        counts = {name: getattr(self, name) for name in ("objects", "bytes", "already", "unverified", "failures")}
        return {
            "prefix": self.prefix,
            "directory": str(self.directory),
            **counts,
            "failed": [each.as_dict() for each in self.failed],
            "unlisted": dict(self.unlisted),
            "seconds": round(self.seconds, 3),
        }


async def restore_tree(
    targets: ReplicaSet,
    prefix: str,
    directory: Path,
    *,
    on_object: Callable[[RestoredObject], None] | None = None,
    progress: Callable[[str], OnProgress | None] | None = None,
) -> TreeReport:
    """Restore every object at or below `prefix` into `directory`, under its key without the prefix.

    Parameters
    ----------
    hear
        Called with each object as it is done, on the I/O thread.
    progress
        Makes the hearer of one key's bytes, or None.

    Raises
    ------
    NoHealthyReplicaError
        When no replica can be listed.
    ObjectNotFoundError
        When there is no object at or below `prefix`, and every replica could be listed.
    """
    clock = asyncio.get_running_loop().time
    started = clock()
    report = TreeReport(prefix, directory)
    budget = MemoryBudget(targets.memory)
    walk = Walk(targets.stores, prefix, records=False)
    getter = _TreeRestore(targets, walk)

    async def work(seen: KeyEntry) -> None:
        size = max(listed.data.size for listed in seen.replicas.values() if listed and listed.data)
        target = directory / _below(seen.key, prefix)
        async with budget.reserve(size):
            one = await getter.restore(seen.key, target, progress(seen.key) if progress else None)
        if one is not None:
            report.count(one)
            if on_object:
                on_object(one)

    await for_each(walk.keys(), work, WORKERS)
    report.unlisted = {name: str(error) for name, error in walk.errors.items()}
    report.seconds = clock() - started
    if not report.objects and not report.failures:
        raise _nothing(prefix, report.unlisted)
    return report


class _TreeRestore:
    """Fetches objects, and waits for a replica that is away once, not once per object."""

    def __init__(self, targets: ReplicaSet, walk: Walk) -> None:
        self._targets = targets
        self._walk = walk
        self._outages = CircuitBreaker()
        #: Of those who ask again for what no other replica could give: they wait once, too.
        self._last = CircuitBreaker()
        self._started = asyncio.get_running_loop().time()
        self._unlisted: set[str] = set()

    async def restore(self, key: str, target: Path, progress: OnProgress | None) -> RestoredObject | None:
        """Fetch one object; None for one that was deleted, though a replica that slept through that lists it."""
        self._note_unlisted()
        try:
            try:
                report = await self._download(key, target, progress, self._outages)
            except (IntegrityError, NoHealthyReplicaError):
                if not self._outages:
                    raise
                report = await self._download(key, target, progress, self._last)
        except ObjectNotFoundError:
            return None
        except (FsbackupError, OSError) as error:
            return RestoredObject(key, target, error=error)
        return RestoredObject(key, target, report)

    async def _download(
        self, key: str, target: Path, progress: OnProgress | None, outages: CircuitBreaker
    ) -> DownloadReport:
        return await restore.download(
            self._targets, key, target, on_progress=progress, keep_identical=True, breaker=outages
        )

    def _note_unlisted(self) -> None:
        """Do not wait again for a replica whose listing got no answer; one that may not be listed may be read."""
        for name, error in self._walk.errors.items():
            if name not in self._unlisted and isinstance(error, TransientError):
                self._outages.trip(name, error, asyncio.get_running_loop().time() - self._started)
            self._unlisted.add(name)


def _below(key: str, prefix: str) -> str:
    """Return where a key goes: its path below the prefix, or its own last segment when it is the prefix."""
    rest = key.removeprefix(prefix.removesuffix("/")).removeprefix("/") if prefix else key
    return rest or key.rpartition("/")[2]


def _nothing(prefix: str, unlisted: dict[str, str]) -> FsbackupError:
    if unlisted:
        reasons = "; ".join(unlisted.values())
        return NoHealthyReplicaError(
            f"nothing is listed, but not all could be: {reasons}", operation="get", key=prefix
        )
    return ObjectNotFoundError("there is nothing at or below it", operation="get", key=prefix)
