"""The keys of a set, every replica's sorted listings merged: streaming, and one LIST per 1,000 names, no more.

Each replica has two listings, of its objects and of its records (manifests and tombstones), in the same order.
They are read ahead, all at once, a page each, so that a walk takes as long as its slowest listing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass

from fsbackup.errors import FsbackupError, NoHealthyReplicaError
from fsbackup.keys import MANIFESTS, decode_name, encode_key, in_prefix, manifest_key, manifest_name
from fsbackup.stores.base import ObjectStat, ObjectStore

log = logging.getLogger("fsbackup.storage")

#: Names handed over at once: what S3 answers to one LIST.
_PAGE = 1000


#: Replicas that cannot be listed or asked, by name, and why.
Unreachable = Mapping[str, FsbackupError]


@dataclass(frozen=True, slots=True)
class ReplicaEntry:
    """What one replica lists of a key: its data object and its record, None where it lists none."""

    data: ObjectStat | None = None
    record: ObjectStat | None = None


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """One key, and what each replica lists of it by backend name; None for one that could not be listed."""

    key: str
    replicas: Mapping[str, ReplicaEntry | None]


class Walk:
    """A walk over the keys of `stores` at or below `prefix`, in the order of their encoded names.

    Parameters
    ----------
    stores, prefix
        What to list.
    records
        List manifests and tombstones too: half the requests without. A key of which only a record is left is
        then not seen.
    away
        Replicas not to list, by name, and why: an earlier walk waited for them.
    after
        Only keys whose encoded names sort after this text.
    """

    def __init__(
        self,
        stores: Sequence[ObjectStore],
        prefix: str,
        *,
        records: bool = True,
        away: Unreachable | None = None,
        after: str = "",
    ) -> None:
        errors = away or {}
        self._replicas = [
            _Replica(each, prefix, records=records, after=after, error=errors.get(each.name)) for each in stores
        ]

    @property
    def errors(self) -> dict[str, FsbackupError]:
        """Why a replica could not be listed (to its end), by name; complete once the walk is over."""
        return {each.name: each.error for each in self._replicas if each.error is not None}

    async def keys(self) -> AsyncGenerator[KeyEntry, None]:
        """Yield each key once. What a replica could not list is None from there on, and its error is logged.

        Raises
        ------
        NoHealthyReplicaError
            When no replica can be listed.
        """
        try:
            await asyncio.gather(*(each.start() for each in self._replicas))
            while (least := min((each.order for each in self._replicas if each.order), default=b"")) != b"":
                yield self._seen(least)
                for replica in self._replicas:
                    if replica.order == least:
                        await replica.advance_past(least)
        finally:
            await asyncio.gather(*(each.stop() for each in self._replicas))
        if len(self.errors) == len(self._replicas):
            reasons = "; ".join(str(error) for error in self.errors.values())
            raise NoHealthyReplicaError(f"no replica can be listed: {reasons}", operation="list")

    def _seen(self, least: bytes) -> KeyEntry:
        key = next(each.key for each in self._replicas if each.order == least)
        return KeyEntry(key, {each.name: each.listed(least) for each in self._replicas})


class LazyManifests:
    """The records that one replica lists, from the first key that is asked about; keys come in ascending order."""

    def __init__(self, store: ObjectStore, prefix: str) -> None:
        self._store = store
        self._prefix = prefix
        self._names: _Names | None = None

    async def has(self, key: str) -> bool:
        """Tell whether the replica lists a record of `key`; raises what its listing raises."""
        order = _order(key)
        if self._names is None:
            # What sorts just before the key's own name: the same without its last letter.
            names = self._store.list(MANIFESTS + _below(self._prefix), manifest_name(key)[:-1])
            self._names = _Names(names, self._prefix, manifest_key)
            self._names.start()
            await self._names.advance()
        while self._names.order and self._names.order < order:
            await self._names.advance()
        return self._names.order == order

    async def stop(self) -> None:
        """End the listing."""
        if self._names is not None:
            await self._names.stop()


class _Replica:
    """One replica's place in the walk: the heads of its listings."""

    def __init__(
        self, store: ObjectStore, prefix: str, *, records: bool, after: str, error: FsbackupError | None
    ) -> None:
        self.name = store.name
        self.error = error
        self.order = b""
        self.key = ""
        below = _below(prefix)
        self._data = _Names(store.list(below, after), prefix, decode_name)
        manifests = store.list(MANIFESTS + below, after and MANIFESTS + after)
        self._records = _Names(manifests, prefix, manifest_key) if records else None
        self._listings = [self._data, *([self._records] if self._records else [])]

    async def start(self) -> None:
        if self.error is None:
            for listing in self._listings:
                listing.start()
            await self._advance(b"")

    async def advance_past(self, order: bytes) -> None:
        """Move past the key of this order."""
        await self._advance(order)

    async def _advance(self, order: bytes) -> None:
        try:
            for listing in self._listings:
                if listing.order == order:
                    await listing.advance()
        except FsbackupError as error:
            self.error = error
            log.error("%s cannot be listed: %s", self.name, error)
            await self.stop()
        ahead = [each for each in self._listings if each.order and self.error is None]
        first = min(ahead, key=lambda each: each.order, default=None)
        self.order, self.key = (first.order, first.key) if first else (b"", "")

    def listed(self, order: bytes) -> ReplicaEntry | None:
        """Return what is listed of the key of this order."""
        if self.error is not None:
            return None
        data, record = (
            each.stat if each and each.order == order else None for each in (self._data, self._records)
        )
        return ReplicaEntry(data, record)

    async def stop(self) -> None:
        for listing in self._listings:
            await listing.stop()


class _Names:
    """One listing, read ahead; its head is the next name that stands for a key."""

    def __init__(self, names: AsyncIterator[ObjectStat], prefix: str, key_of: Callable[[str], str | None]) -> None:
        self.order = b""
        self.key = ""
        self.stat: ObjectStat | None = None
        self._names = names
        self._prefix = prefix
        self._key_of = key_of
        self._page: list[ObjectStat] = []
        self._pages: asyncio.Queue[list[ObjectStat] | FsbackupError] = asyncio.Queue(1)
        self._reading: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._reading = asyncio.create_task(self._read())

    async def advance(self) -> None:
        """Move to the next name with a key, past names that no key encodes to; an empty order means the end."""
        while stat := await self._next():
            key = self._key_of(stat.name)
            if key is not None and in_prefix(key, self._prefix):
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
            await self._pages.put(error)
            return
        if page:
            await self._pages.put(page)
        await self._pages.put([])

    async def stop(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait({self._reading})


def _below(prefix: str) -> str:
    """Return the text that all names of keys at or below `prefix` start with."""
    return encode_key(prefix.removesuffix("/")) + ("/" if prefix.endswith("/") else "") if prefix else ""


def _order(key: str) -> bytes:
    """Return what keys are sorted by."""
    return encode_key(key).encode("utf-8", "surrogateescape")
