"""Many uploads side by side under one memory budget, asking as little as possible beforehand."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import BinaryIO

from fsbackup.engine.breaker import CircuitBreaker
from fsbackup.engine.records import ReplicaState
from fsbackup.engine.replicas import MemoryBudget, ReplicaSet
from fsbackup.engine.results import Report
from fsbackup.engine.source import open_source
from fsbackup.engine.upload import UploadProgress, upload
from fsbackup.errors import FsbackupError, TransientError
from fsbackup.keys import MANIFESTS, encode_key, manifest_name
from fsbackup.stores.base import ObjectStore

#: Objects on their way at once; their parts share the set's memory.
WORKERS = 24
#: From this many objects on, one listing is cheaper than asking for each.
LIST_FROM = 50
#: Names read per wanted object before a listing is given up as larger than it is worth.
LIST_WORTH = 20

SourceLike = str | os.PathLike[str] | BinaryIO


@dataclass(frozen=True)
class BatchItem:
    """One object of a batch: where it comes from and its key."""

    source: SourceLike
    key: str


@dataclass(frozen=True)
class ItemResult:
    """How one item fared: a report, or the error that kept it from being read."""

    item: BatchItem
    report: Report | None = None
    error: FsbackupError | ValueError | None = None

    def __bool__(self) -> bool:
        return bool(self.report)


class Batch:
    """Uploads of many items to one set.

    Parameters
    ----------
    targets, overwrite, allow_empty
        As for one upload.
    progress
        Makes the progress hearer of an item, or None.
    """

    def __init__(
        self,
        targets: ReplicaSet,
        *,
        overwrite: bool,
        allow_empty: bool = False,
        progress: Callable[[BatchItem], UploadProgress | None],
    ) -> None:
        self._targets = targets
        self._overwrite = overwrite
        self._allow_empty = allow_empty
        self._progress = progress
        self._budget = MemoryBudget(targets.memory)
        self._outages = CircuitBreaker()
        #: Per backend the wanted names that it has; None: it was not listed.
        self._names: dict[str, frozenset[str] | None] = {}

    async def run(self, items: Sequence[BatchItem]) -> AsyncGenerator[list[ItemResult], None]:
        """Yield outcomes as they are known, those that came together at once."""
        if len(items) >= LIST_FROM:
            await self._list(items)
        known: list[ItemResult] = []
        news = asyncio.Event()
        rest = iter(items)

        async def work() -> None:
            # Each worker goes on by itself: waiting for the caller between two objects would leave it idle.
            try:
                for item in rest:
                    known.append(await self._one(item))
                    news.set()
            finally:
                news.set()

        workers = [asyncio.create_task(work()) for _ in range(min(WORKERS, len(items)))]
        try:
            while known or not all(worker.done() for worker in workers):
                await news.wait()
                news.clear()
                ready, known[:] = known[:], []
                if ready:
                    yield ready
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            if workers:
                await asyncio.wait(workers)

    async def _one(self, item: BatchItem) -> ItemResult:
        try:
            source = await asyncio.to_thread(open_source, item.source, allow_empty=self._allow_empty)
        except (FsbackupError, ValueError) as error:
            return ItemResult(item, error=error)
        try:
            need = self._targets.memory if source.size is None else source.size
            async with self._budget.reserve(need):
                findings = await self._find(item.key)
                report = await upload(
                    self._targets,
                    item.key,
                    source,
                    overwrite=self._overwrite,
                    findings=findings,
                    progress=self._progress(item),
                )
        except (FsbackupError, ValueError) as error:
            return ItemResult(item, error=error)
        finally:
            source.close()
        self._note_outages(findings, report)
        return ItemResult(item, report)

    async def _find(self, key: str) -> list[ReplicaState]:
        known = [self._known(store, key) for store in self._targets.stores]
        if None not in known:
            return [finding for finding in known if finding is not None]
        pairs = zip(known, self._targets.stores, strict=True)
        return list(await asyncio.gather(*(self._ask(finding, store, key) for finding, store in pairs)))

    def _known(self, store: ObjectStore, key: str) -> ReplicaState | None:
        """Return what is known of a store without asking it: that it is away, or that it has no such name."""
        if (error := self._outages.reason(store)) is not None:
            return ReplicaState(store, error=error)
        names = self._names.get(store.name)
        if names is not None and not {encode_key(key), manifest_name(key)} & names:
            return ReplicaState(store, listed=True)
        return None

    async def _ask(self, known: ReplicaState | None, store: ObjectStore, key: str) -> ReplicaState:
        if known is not None:
            return known
        return await self._outages.ask(store, key)

    def _note_outages(self, findings: list[ReplicaState], report: Report) -> None:
        for finding in findings:
            if finding.error is None:
                result = report.replicas[finding.store.name]
                self._outages.record(result.backend, result.exception, result.seconds)

    async def _list(self, items: Sequence[BatchItem]) -> None:
        wanted = {encode_key(item.key) for item in items} | {manifest_name(item.key) for item in items}
        common = _common_prefix([encode_key(item.key) for item in items])
        stores = self._targets.stores
        found = await asyncio.gather(*(self._list_one(store, common, wanted) for store in stores))
        self._names = {store.name: names for store, names in zip(stores, found, strict=True)}

    async def _list_one(self, store: ObjectStore, common: str, wanted: set[str]) -> frozenset[str] | None:
        there: set[str] = set()
        budget, started = LIST_WORTH * len(wanted), time.monotonic()
        try:
            for prefix in (common, f"{MANIFESTS}{common}"):
                async for stat in store.list(prefix):
                    budget -= 1
                    if budget < 0:
                        return None
                    if stat.name in wanted:
                        there.add(stat.name)
        except FsbackupError as error:
            if isinstance(error, TransientError):
                self._outages.trip(store.name, error, time.monotonic() - started)
            return None
        return frozenset(there)


def _common_prefix(names: list[str]) -> str:
    """Return the longest text that all names start with, up to a slash."""
    low, high = min(names), max(names)
    same = "".join(a for a, b in takewhile(lambda pair: pair[0] == pair[1], zip(low, high, strict=False)))
    return same[: same.rfind("/") + 1]
