"""The keys of a set: every replica's sorted listings merged, streaming, one LIST per 1,000 names.

Each replica has listings in the same order: of its objects, of its tombstones, which are few, and of its
manifests, where they lie beside. All are read ahead at the same time, one page each, so a walk takes as long as
its slowest listing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from fsbackup.engine import breaker, marker
from fsbackup.engine.records import find_key, has_records_inside
from fsbackup.errors import FsbackupError, NoHealthyReplicaError, combined_hint, summary
from fsbackup.keys import (
    MANIFESTS,
    TOMBSTONES,
    ShortenedName,
    encode_key,
    in_prefix,
    listed_key,
    manifest_key,
    manifest_name,
    tombstone_key,
    tombstone_name,
)
from fsbackup.stores.base import ObjectStat, ObjectStore, PassedOver

log = logging.getLogger("fsbackup.storage")

#: Names per page: what S3 returns for one LIST.
_PAGE = 1000

#: Replicas that cannot be listed or did not answer, by name, and why.
Unreachable = Mapping[str, FsbackupError]


@dataclass(frozen=True, slots=True)
class ReplicaEntry:
    """What one replica lists of a key.

    Parameters
    ----------
    data, record, tombstone
        Its data object, the manifest beside it, and the tombstone; None where it lists none.
    inside
        The store keeps manifests inside the data objects, where no listing shows them.
    """

    data: ObjectStat | None = None
    record: ObjectStat | None = None
    tombstone: ObjectStat | None = None
    inside: bool = False

    @property
    def may_have_manifest(self) -> bool:
        """Whether there is a manifest, as far as a listing shows."""
        return self.data is not None if self.inside else self.record is not None

    @property
    def recorded_at(self) -> float | None:
        """When the manifest was stored, in epoch seconds; None when none is listed."""
        manifest = self.data if self.inside else self.record
        return manifest.modified if manifest else None


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """One key of a set.

    Parameters
    ----------
    key
        The key; the name where it is a shortened one (see `fsbackup.keys`) and no record tells its key.
    replicas
        What each replica lists of it, by backend name; None for a replica that could not be listed (to here).
    unreachable
        Why these could not be listed, by name.
    """

    key: str
    replicas: Mapping[str, ReplicaEntry | None]
    unreachable: Unreachable = field(default_factory=dict)

    @property
    def stored_at(self) -> float | None:
        """When the object was stored, in epoch seconds: on the replica that has had it longest.

        The manifest's time counts where one is listed: a copy on a disk has the time of its source file.
        """
        there = [each for each in self.replicas.values() if each and each.data]
        times = [each.recorded_at for each in there if each.may_have_manifest]
        times = times or [each.data.modified for each in there if each.data]
        return min((when for when in times if when is not None), default=None)


class Walk:
    """A walk over the keys of `stores` at or below `prefix`, in the order of their encoded names.

    Parameters
    ----------
    stores, prefix
        What to list.
    records
        List manifests and tombstones too. Without, it costs half the requests or less, and a key of which only a
        record is left is not seen.
    unreachable
        Replicas not to list, by name, and why: those that an earlier walk waited for in vain.
    level
        List what lies directly below `prefix` (empty, or with a slash at its end): the keys that go on with a
        segment and a slash are one entry, whose key ends with that slash. Without `records` only.
    limit
        Of a level, list at most so many entries of each replica.
    insist
        List also replicas that are known to be away. By default they are listed only when no other can be.
    """

    def __init__(
        self,
        stores: Sequence[ObjectStore],
        prefix: str,
        *,
        records: bool = True,
        unreachable: Unreachable | None = None,
        level: bool = False,
        limit: int | None = None,
        insist: bool = False,
    ) -> None:
        self._insist = insist
        errors, self._prefix = unreachable or {}, prefix
        self._replicas = [
            _Replica(each, prefix, records=records, level=level, limit=limit, error=errors.get(each.name))
            for each in stores
        ]
        self._errors: dict[str, FsbackupError] = {}

    @property
    def errors(self) -> dict[str, FsbackupError]:
        """Why a replica could not be listed (to its end), by name; complete once the walk is over."""
        return {each.name: each.error for each in self._replicas if each.error is not None}

    @property
    def passed_over(self) -> dict[str, PassedOver]:
        """What each replica has of other programs, by name, names that are no key's among it.

        Complete once the walk is over.
        """
        return {each.name: each.passed_over for each in self._replicas}

    async def keys(self) -> AsyncGenerator[KeyEntry, None]:
        """Yield each key once. Where a replica's listing fails, its error is logged and its entries are None.

        Raises
        ------
        NoHealthyReplicaError
            When no replica can be listed.
        """
        try:
            left_out = await self._leave_out_who_is_away()
            await asyncio.gather(*(each.start() for each in self._replicas))
            if len(self.errors) == len(self._replicas):  # before nothing can be listed, they are asked, too
                for replica in left_out:
                    replica.error = None
                await asyncio.gather(*(each.start() for each in left_out))
            while (least := min((each.order for each in self._replicas if each.order), default=b"")) != b"":
                yield await self._entry(least)
                for replica in self._replicas:
                    if replica.order == least:
                        await replica.advance_past(least)
        finally:
            await asyncio.gather(*(each.stop() for each in self._replicas))
        if len(self.errors) == len(self._replicas):
            raise NoHealthyReplicaError(
                f"no replica can be listed: {summary(self.errors)}",
                operation="list",
                key=self._prefix.removesuffix("/") or None,
                hint=combined_hint(self.errors),
            )

    async def _leave_out_who_is_away(self) -> list[_Replica]:
        asked = [each for each in self._replicas if each.error is None]
        away = {} if self._insist else await breaker.known_away([each.store for each in asked])
        for replica in asked:
            replica.error = away.get(replica.name)
        return [each for each in asked if each.error is not None]

    async def _entry(self, least: bytes) -> KeyEntry:
        having = [each for each in self._replicas if each.order == least]
        key = having[0].key
        if not key.endswith("/"):
            key = await find_key([each.store for each in having], key)
        replicas = {each.name: each.listed(least) for each in self._replicas}
        if list(replicas.values()).count(None) != len(
            self._errors
        ):  # one snapshot for all keys until the next error
            self._errors = self.errors
        return KeyEntry(key, replicas, self._errors)


class LazyRecords:
    """The manifests and tombstones that one replica lists, read from the first key asked for.

    Keys must come in ascending order.
    """

    def __init__(self, store: ObjectStore, prefix: str) -> None:
        self._store = store
        self._prefix = prefix
        self._listings: list[_Listing] = []

    async def has(self, key: str) -> bool:
        """Tell whether the replica lists a record of `key`; raises what its listings raise."""
        order = _order(key)
        if not self._listings:
            await self._start(key)
        for listing in self._listings:
            while listing.order and listing.order < order:
                await listing.advance()
        return any(each.order == order for each in self._listings)

    async def _start(self, key: str) -> None:
        places = [(TOMBSTONES, tombstone_name, tombstone_key)]
        if not has_records_inside(self._store):
            places.append((MANIFESTS, manifest_name, manifest_key))
        for place, name_of, key_of in places:
            # `start_after` is exclusive: the key's own name without its last letter sorts just before it.
            names = self._store.list(place + _below(self._prefix), name_of(key)[:-1])
            self._listings.append(_Listing(names, self._prefix, key_of))
        for listing in self._listings:
            listing.start()
        for listing in self._listings:
            await listing.advance()

    async def stop(self) -> None:
        """End the listings."""
        for listing in self._listings:
            await listing.stop()


class _Replica:
    """One replica's position in the walk: the smallest key that its listings have not passed."""

    def __init__(
        self,
        store: ObjectStore,
        prefix: str,
        *,
        records: bool,
        level: bool,
        limit: int | None,
        error: FsbackupError | None,
    ) -> None:
        self.store = store
        self.name = store.name
        self.error = error
        self._inside = has_records_inside(store)
        self.order = b""
        self.key = ""
        self.passed_over = PassedOver()
        self._started = 0.0
        below = _below(prefix)
        data = store.list_level(below, limit) if level else store.list_counting(below, "", self.passed_over)
        self._data = _Listing(data, prefix, _level_key if level else listed_key, self.passed_over)
        self._records = self._tombstones = None
        if records and not self._inside:
            self._records = _Listing(store.list(MANIFESTS + below), prefix, manifest_key)
        if records:
            self._tombstones = _Listing(store.list(TOMBSTONES + below), prefix, tombstone_key)
        self._listings = [each for each in (self._data, self._records, self._tombstones) if each is not None]

    async def start(self) -> None:
        self._started = time.monotonic()
        if self.error is None:
            for listing in self._listings:
                listing.start()
            await self.advance_past(b"")
        if self.error is None:
            breaker.record(self.store, None)
            try:
                await marker.check(self.store, empty=not self.order)
            except FsbackupError as error:
                await self._fail(error)

    async def _fail(self, error: FsbackupError) -> None:
        self.error = error
        breaker.record(self.store, error, time.monotonic() - self._started, listing=True)
        log.error("%s cannot be listed: %s", self.name, error.reason)
        await self.stop()

    async def advance_past(self, order: bytes) -> None:
        """Move past the key of this order; an error ends both listings and is logged."""
        try:
            for listing in self._listings:
                if listing.order == order:
                    await listing.advance()
        except FsbackupError as error:
            await self._fail(error)
        ahead = [each for each in self._listings if each.order and self.error is None]
        first = min(ahead, key=lambda each: each.order, default=None)
        self.order, self.key = (first.order, first.key) if first else (b"", "")

    def listed(self, order: bytes) -> ReplicaEntry | None:
        """Return what is listed of the key of this order, None when the replica cannot be listed."""
        if self.error is not None:
            return None
        data, record, tombstone = (
            each.stat if each and each.order == order else None
            for each in (self._data, self._records, self._tombstones)
        )
        return ReplicaEntry(data, record, tombstone, self._inside)

    async def stop(self) -> None:
        for listing in self._listings:
            await listing.stop()


class _Listing:
    """One listing, read ahead by a task. `key`, `stat` and `order` belong to the next name that encodes a key."""

    def __init__(
        self,
        names: AsyncIterator[ObjectStat],
        prefix: str,
        key_of: Callable[[str], str | None],
        passed_over: PassedOver | None = None,
    ) -> None:
        self._passed_over = PassedOver() if passed_over is None else passed_over
        self.order = b""
        self.key = ""
        self.stat: ObjectStat | None = None
        self._names = names
        self._prefix = prefix
        self._key_of = key_of
        self._page: list[ObjectStat] = []
        self._pages: asyncio.Queue[list[ObjectStat] | FsbackupError] = asyncio.Queue(1)
        self._reader: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._reader = asyncio.create_task(self._read())

    async def advance(self) -> None:
        """Move to the next name that encodes a key; an empty order means the end."""
        while stat := await self._next():
            key = self._key_of(stat.name)
            if key is None:
                self._passed_over.add(stat.name)
            elif in_prefix(key, self._prefix) and not (key == self._prefix and key.endswith("/")):
                self.key, self.stat = key, stat
                self.order = _order(key)
                return
        self.order, self.stat = b"", None

    async def _next(self) -> ObjectStat | None:
        if not self._page:
            page = await self._pages.get()
            if isinstance(page, FsbackupError):
                raise page
            self._page = page[::-1]
        return self._page.pop() if self._page else None

    async def _read(self) -> None:
        page: list[ObjectStat] = []
        try:
            async for stat in self._names:
                page.append(stat)
                if len(page) == _PAGE:
                    await self._pages.put(page)
                    page = []
        except FsbackupError as error:
            if page:
                await self._pages.put(page)
            await self._pages.put(error)
            return
        if page:
            await self._pages.put(page)
        await self._pages.put([])

    async def stop(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait({self._reader})


def _level_key(name: str) -> str | None:
    """Return the key of a name in a level, with its slash where it has one."""
    key = listed_key(name.removesuffix("/"))
    if key is None or not name.endswith("/"):
        return key
    return ShortenedName(name) if isinstance(key, ShortenedName) else f"{key}/"


def _below(prefix: str) -> str:
    """Return the text that all names of keys at or below `prefix` start with."""
    return encode_key(prefix.removesuffix("/")) + ("/" if prefix.endswith("/") else "") if prefix else ""


def _order(key: str) -> bytes:
    """Return the bytes that keys are sorted by."""
    return encode_key(key).encode("utf-8", "surrogateescape")
