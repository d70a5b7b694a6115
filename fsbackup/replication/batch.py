"""Many uploads at the same time within one memory budget.

Before a large batch the replicas are listed once: one request per 1,000 names instead of two per object.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING

from fsbackup.aio import cancel_and_wait
from fsbackup.engine import breaker, marker, tombstones
from fsbackup.engine.records import ReplicaState, has_records_inside, query, state_or_error, with_tombstone
from fsbackup.engine.replicas import MemoryBudget, ReplicaSet
from fsbackup.engine.results import Report
from fsbackup.engine.source import CheckSize, SourceLike, open_source
from fsbackup.engine.upload import UploadProgress, upload
from fsbackup.errors import FsbackupError
from fsbackup.keys import MANIFESTS, encode_key, manifest_name
from fsbackup.stages import Stages
from fsbackup.stores.base import ObjectStore

if TYPE_CHECKING:
    from fsbackup.seen import SeenFiles  # which loads SQLite

#: Objects uploaded at the same time; their parts share the set's memory.
WORKERS = 24
#: From this many objects on, one listing is cheaper than a query for each.
LIST_FROM = 50
#: Names read per uploaded object before a listing is cancelled because queries are cheaper.
LIST_WORTH = 20


@dataclass(frozen=True)
class BatchItem:
    """One object of a batch: its source, and its key with the suffixes of its stages; more of `open_source`."""

    source: SourceLike
    key: str
    series: str | None = None
    may_grow: bool = False
    check_size: CheckSize | None = None
    seen: SeenFiles | None = None
    stages: Stages | None = None


@dataclass(frozen=True)
class ItemResult:
    """The result of one item: a report, or the error because of which its source could not be read."""

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
    parallel
        Uploads at the same time, each with the whole memory of the set; None for as many as fit in that memory
        together.
    make_progress
        Returns the progress of an item, or None.
    """

    def __init__(
        self,
        targets: ReplicaSet,
        *,
        overwrite: bool,
        allow_empty: bool = False,
        parallel: int | None = None,
        make_progress: Callable[[BatchItem], UploadProgress | None],
    ) -> None:
        self._targets = targets
        self._workers = parallel or WORKERS
        self._overwrite = overwrite
        self._allow_empty = allow_empty
        self._make_progress = make_progress
        self._budget = MemoryBudget(targets.memory * (parallel or 1))
        #: The names of this batch that a backend lists, by backend; None: it was not listed.
        self._listed: dict[str, frozenset[str] | None] = {}
        #: When the batch began, on the monotonic clock.
        self._begun = 0.0

    async def run(self, items: Sequence[BatchItem]) -> AsyncGenerator[list[ItemResult], None]:
        """Yield results as they are known; results that are ready together come in one list."""
        self._begun = time.monotonic()
        if len(items) >= LIST_FROM:
            await self._list(items)
        done: list[ItemResult] = []
        has_results = asyncio.Event()
        waiting = iter(items)

        async def work() -> None:
            # Results go through a list: a worker that waited for the caller between two objects would be idle.
            try:
                for item in waiting:
                    done.append(await self._upload(item))
                    has_results.set()
            finally:
                has_results.set()

        workers = [asyncio.create_task(work()) for _ in range(min(self._workers, len(items)))]
        try:
            while done or not all(worker.done() for worker in workers):
                await has_results.wait()
                has_results.clear()
                ready, done[:] = done[:], []
                if ready:
                    yield ready
            await asyncio.gather(*workers)
        finally:
            await cancel_and_wait(workers)

    async def _upload(self, item: BatchItem) -> ItemResult:
        try:
            source = await asyncio.to_thread(
                open_source,
                item.source,
                allow_empty=self._allow_empty,
                may_grow=item.may_grow,
                series=item.series,
                check_size=item.check_size,
                seen=item.seen,
                stages=item.stages,
            )
        except (FsbackupError, ValueError) as error:
            return ItemResult(item, error=error)
        try:
            memory = self._targets.memory if source.most_bytes is None else source.most_bytes
            async with self._budget.reserve(memory):
                report = await upload(
                    self._targets,
                    item.key,
                    source,
                    overwrite=self._overwrite,
                    query=self._query,
                    progress=self._make_progress(item),
                    since=self._begun,
                )
        except (FsbackupError, ValueError) as error:
            return ItemResult(item, error=error)
        finally:
            source.close()
        return ItemResult(item, report)

    async def _query(self, store: ObjectStore, key: str, *, insist: bool = False) -> ReplicaState:
        """Return what a replica has of `key`; without a request when a listing lacks it."""
        names = self._listed.get(store.name)
        is_listed = names is None or {encode_key(key), manifest_name(key)} & names
        if is_listed or (breaker.away(store) is not None and not insist):
            return await query(store, key, insist=insist)

        async def read() -> ReplicaState:
            found = await tombstones.find(store, key, since=tombstones.recently())
            return with_tombstone(ReplicaState(store, from_listing=True), *found)

        return await state_or_error(store, key, read, insist=insist)

    async def _list(self, items: Sequence[BatchItem]) -> None:
        names = {encode_key(item.key) for item in items} | {manifest_name(item.key) for item in items}
        common = _common_prefix([encode_key(item.key) for item in items])
        stores = self._targets.stores
        away = await breaker.known_away(stores)
        asked = [store for store in stores if store.name not in away]
        found = await asyncio.gather(*(self._list_one(store, common, names) for store in asked))
        self._listed = {store.name: each for store, each in zip(asked, found, strict=True)}

    async def _list_one(self, store: ObjectStore, common: str, names: set[str]) -> frozenset[str] | None:
        """Return which of `names` a store lists; None when it cannot be listed, or has too many others."""
        found: set[str] = set()
        limit, started = LIST_WORTH * len(names), time.monotonic()
        try:
            for prefix in (common, *([] if has_records_inside(store) else [f"{MANIFESTS}{common}"])):
                async for stat in store.list(prefix):
                    limit -= 1
                    if limit < 0:
                        return None
                    if stat.name in names:
                        found.add(stat.name)
            await marker.check(store, empty=limit == LIST_WORTH * len(names))
        except FsbackupError as error:
            breaker.record(store, error, time.monotonic() - started, listing=True)
            return None
        return frozenset(found)


def _common_prefix(names: list[str]) -> str:
    """Return the longest text that all names start with, up to a slash."""
    low, high = min(names), max(names)
    same = "".join(a for a, b in takewhile(lambda pair: pair[0] == pair[1], zip(low, high, strict=False)))
    return same[: same.rfind("/") + 1]
