"""Many uploads at the same time within one memory budget.

Before a large batch the replicas are listed once: one request per 1,000 names instead of two per object. What the
listings show as an earlier run found it, on all replicas, is not asked for at all (`unchanged.py`). A replica
whose listing stands still holds nobody up: the uploads begin without it, many at once, and it takes part in each
when the listing is there, or in none when that fails.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from stat import S_ISREG
from typing import TYPE_CHECKING

from fsbackup.aio import cancel_and_wait
from fsbackup.engine import breaker, marker, tombstones
from fsbackup.engine.open_source import SourceLike, open_source
from fsbackup.engine.records import ReplicaState, add_tombstone, has_records_inside, query, state_or_error
from fsbackup.engine.replicas import MemoryBudget, ReplicaSet
from fsbackup.engine.results import Report
from fsbackup.engine.source import CheckSize, Source
from fsbackup.engine.upload import UploadProgress, already_stored, upload
from fsbackup.errors import FsbackupError
from fsbackup.keys import MANIFESTS, encode_key, manifest_name
from fsbackup.replication.sources import Opened, Sources, openers
from fsbackup.stages import Stages
from fsbackup.stores.base import ObjectStat, ObjectStore

if TYPE_CHECKING:
    from fsbackup.replication.unchanged import UnchangedObjects, Version
    from fsbackup.seen import Seen  # which loads SQLite

#: Objects uploaded at the same time; their parts share the set's memory.
WORKERS = 24
#: From this many objects on, one listing is cheaper than a query for each.
LIST_FROM = 50
#: So many times `WORKERS` run while a listing is late: they wait for it when the other replicas have the object.
_LATE_FACTOR = 8
#: Seconds for which a listing may stand still, where tests allow none.
_SHORTEST_GRACE = 0.1
#: Seconds in which results come together before they are handed over.
_GATHER = 0.02
#: Objects that are looked for in one call among those that earlier runs saw.
_PAGE = 500
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
    seen: Seen | None = None
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
        self._parallel = parallel
        self._overwrite = overwrite
        self._allow_empty = allow_empty
        self._make_progress = make_progress
        self._budget = MemoryBudget(targets.memory * (parallel or 1))
        #: What a backend lists of this batch, by backend and name; a backend that was not listed is left out.
        self._listed: dict[str, Mapping[str, ObjectStat]] = {}
        #: The listings that are not done yet, and how many names each store has listed.
        self._late: dict[str, asyncio.Task[Mapping[str, ObjectStat] | None]] = {}
        self._counted: Counter[str] = Counter()
        self._unchanged: UnchangedObjects | None = None
        #: When the batch began, on the monotonic clock.
        self._begun = 0.0

    async def run(self, items: Sequence[BatchItem]) -> AsyncGenerator[list[ItemResult], None]:
        """Yield results as they are known; results that are ready together come in one list."""
        self._begun = time.monotonic()
        if len(items) >= LIST_FROM:
            await self._list(items)
        if self._unchanged is not None:
            done_before: set[int] = set()
            for at in range(0, len(items), _PAGE):
                found = await self._find_unchanged(self._unchanged, items[at : at + _PAGE])
                done_before.update(id(each.item) for each in found)
                if found:
                    yield found
            items = [item for item in items if id(item) not in done_before]
        done: list[ItemResult] = []
        has_results = asyncio.Event()
        count = min(self._parallel or WORKERS * (_LATE_FACTOR if self._late else 1), len(items))
        sources = Sources(items, self._open, count)

        async def work() -> None:
            # Results go through a list: a worker that waited for the caller between two objects would be idle.
            try:
                while (taken := await sources.take()) is not None:
                    done.append(await self._upload(*taken))
                    has_results.set()
            finally:
                has_results.set()

        workers = [asyncio.create_task(work()) for _ in range(count)]
        try:
            while done or not all(worker.done() for worker in workers):
                await has_results.wait()
                if len(items) >= LIST_FROM:  # each handing over costs as much as a small object
                    await asyncio.wait(workers, timeout=_GATHER)
                has_results.clear()
                ready, done[:] = done[:], []
                if ready:
                    yield ready
            await asyncio.gather(*workers)
        finally:
            await cancel_and_wait([*workers, *self._late.values()])
            sources.close()

    async def _find_unchanged(self, unchanged: UnchangedObjects, items: Sequence[BatchItem]) -> list[ItemResult]:
        """Return the results of those that all replicas have, and nobody need be asked for, nor the source opened.

        They are what `upload` would find, from what was seen; that none is being deleted the batch knows already.
        """
        since, stores = self._begun, self._targets.stores
        if any(breaker.away(store) is not None for store in stores):
            return []
        started = time.monotonic()
        found = await openers.submit(partial(_unchanged_files, unchanged, items)).future
        results: list[ItemResult] = []
        for item, version in found:
            if all(tombstones.is_absent(store, item.key, since=since) for store in stores):
                if (progress := self._make_progress(item)) is not None:
                    progress.begin(version.size, [])
                    progress.read(version.size)
                results.append(ItemResult(item, already_stored(self._targets, item.key, started, *version)))
        return results

    async def _upload(self, item: BatchItem, source: Opened) -> ItemResult:
        if isinstance(source, Exception):
            return ItemResult(item, error=source)
        try:
            memory = self._targets.memory if source.most_bytes is None else source.most_bytes
            async with self._budget.reserve(memory):
                report = await self._upload_or_find(item, source)
        except (FsbackupError, ValueError) as error:
            return ItemResult(item, error=error)
        finally:
            source.close()
        return ItemResult(item, report)

    def _open(self, item: BatchItem) -> Source:
        """Open a source; blocks."""
        return open_source(
            item.source,
            allow_empty=self._allow_empty,
            may_grow=item.may_grow,
            series=item.series,
            check_size=item.check_size,
            seen=item.seen,
            stages=item.stages,
        )

    async def _upload_or_find(self, item: BatchItem, source: Source) -> Report:
        """Upload, unless all replicas have it; what each of them answered to that is remembered."""
        unchanged, seen = self._unchanged, item.seen
        known = None if unchanged is None or seen is None else unchanged.states(seen, item.key, source)
        known = known or self._absent(item.key)
        found: dict[str, ReplicaState] = {}

        async def query(store: ObjectStore, key: str, *, insist: bool = False) -> ReplicaState:
            found[store.name] = await self._query(store, key, insist=insist)
            return found[store.name]

        report = await upload(
            self._targets,
            item.key,
            source,
            overwrite=self._overwrite,
            query=query,
            known=known,
            progress=self._make_progress(item),
            since=self._begun,
        )
        if known is None and unchanged is not None and seen is not None and report.already:
            unchanged.remember(seen, item.key, list(found.values()))
        return report

    async def _query(self, store: ObjectStore, key: str, *, insist: bool = False) -> ReplicaState:
        """Return what a replica has of `key`; without a request when a listing lacks it."""
        if (late := self._late.get(store.name)) is not None:
            await asyncio.wait({late})
            self._take(store, late)
        if self._may_have(store, key) or (breaker.away(store) is not None and not insist):
            return await query(store, key, insist=insist)

        unlisted = ReplicaState(store, from_listing=True)
        read = partial(add_tombstone, unlisted, key, tombstones.recently())
        return await state_or_error(store, key, read, insist=insist)

    def _may_have(self, store: ObjectStore, key: str) -> bool:
        """Return whether a store may have something of `key`: unless a listing lacks it."""
        names = self._listed.get(store.name)
        return names is None or encode_key(key) in names or manifest_name(key) in names

    def _absent(self, key: str) -> list[ReplicaState] | None:
        """Return what the replicas have of a key that none has, where that is known without asking; else None."""
        since = tombstones.recently()
        for store in self._targets.stores:
            known = breaker.away(store) is None and tombstones.is_absent(store, key, since=since)
            if not known or self._may_have(store, key):
                return None
        return [ReplicaState(store, from_listing=True) for store in self._targets.stores]

    async def _list(self, items: Sequence[BatchItem]) -> None:
        names = {encode_key(item.key) for item in items}
        stores = self._targets.stores
        away = await breaker.known_away(stores)
        asked = [store for store in stores if store.name not in away]
        self._late = {store.name: asyncio.create_task(self._list_one(store, names)) for store in asked}
        try:
            await self._await_listings(max(map(breaker.grace, asked), default=0.0) or _SHORTEST_GRACE)
        except BaseException:
            await cancel_and_wait(list(self._late.values()))
            raise
        for store in asked:
            if self._late[store.name].done():
                self._take(store, self._late[store.name])
        if len(self._listed) == len(stores) and any(item.seen for item in items):
            from fsbackup.replication.unchanged import UnchangedObjects

            self._unchanged = UnchangedObjects(stores, self._listed)

    def _take(self, store: ObjectStore, listing: asyncio.Task[Mapping[str, ObjectStat] | None]) -> None:
        """Use a listing that is done."""
        self._late.pop(store.name, None)
        if (names := listing.result()) is not None:
            self._listed[store.name] = names

    async def _await_listings(self, patience: float) -> None:
        """Wait for the listings, but not for one that stands still for a while when enough others are done."""
        while waiting := [each for each in self._late.values() if not each.done()]:
            counted = self._counted.total()
            await asyncio.wait(waiting, timeout=patience)
            done = sum(each.done() and each.result() is not None for each in self._late.values())
            if counted == self._counted.total() and done >= self._targets.min_copies:
                return

    async def _list_one(self, store: ObjectStore, names: set[str]) -> Mapping[str, ObjectStat] | None:
        """Return what a store lists of the objects `names` and of the manifests beside them.

        None when it cannot be listed, or has too many others. Only what lies between the first and the last of
        the names is listed: a job hands over its files in their order, a slice after another.
        """
        found: dict[str, ObjectStat] = {}
        limit, started = 2 * LIST_WORTH * len(names), time.monotonic()
        try:
            await tombstones.list_names(store)
            for kind in [""] if has_records_inside(store) else ["", MANIFESTS]:
                async with aclosing(_between(store, kind, min(names), max(names))) as listing:
                    async for stat in listing:
                        self._counted[store.name] += 1
                        limit -= 1
                        if limit < 0:
                            return None
                        if stat.name.removeprefix(kind) in names:
                            found[stat.name] = stat
            await marker.check(store, empty=limit == 2 * LIST_WORTH * len(names))
        except FsbackupError as error:
            breaker.record(store, error, time.monotonic() - started, listing=True)
            return None
        return found


def _unchanged_files(unchanged: UnchangedObjects, items: Sequence[BatchItem]) -> list[tuple[BatchItem, Version]]:
    """Return the plain files among `items` that are as all replicas have them, and their versions; blocks."""
    found: list[tuple[BatchItem, Version]] = []
    for seen in {item.seen for item in items if item.seen is not None}:
        plain = {item.key: item for item in items if item.seen is seen}  # of two under one key the last
        status = {key: each for key, item in plain.items() if (each := _status(item)) is not None}
        found += ((plain[key], version) for key, version in unchanged.versions(seen, status).items())
    return found


def _status(item: BatchItem) -> os.stat_result | None:
    """Return the status of a regular file without stages that nothing refuses; None for all others."""
    if item.stages is not None or not isinstance(item.source, str | os.PathLike):
        return None
    try:
        found = os.stat(os.path.expanduser(item.source))
        if item.check_size is not None:
            item.check_size(found.st_size)
    except (OSError, ValueError, FsbackupError):
        return None  # it is opened, and that says why
    return found if S_ISREG(found.st_mode) else None


async def _between(store: ObjectStore, kind: str, first: str, last: str) -> AsyncGenerator[ObjectStat, None]:
    """Yield what a store lists below `kind`, from the name `first` to `last`."""
    same = "".join(a for a, b in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
    common = same[: same.rfind("/") + 1]
    # What a listing starts after is not in it: a name without its last letter sorts before it.
    async with aclosing(store.list(kind + common, kind + first[:-1])) as listing:  # type: ignore[type-var]
        async for stat in listing:
            if stat.name <= kind + last:
                yield stat
            if stat.name >= kind + last:  # a page more would be asked for
                return
