"""`ls`: the objects of a set and what each replica has of them, from their listings.

`SetListing` lists all keys, or those of one level, as a directory does. In a level, a segment that keys go on with
is one entry, without a look at these keys where every replica has some; else one of them must not be deleted.

A key that every replica lists with one size costs nothing more; where sizes differ, its records tell the newest
version. From the first key that a replica lacks, two more things are read: that replica's records, because one
without data may be the tombstone of a deleted object, and once the listings that tell which keys its retention
deleted. The replicas are queried only about keys that one of these may explain.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from fsbackup.aio import cancel_and_wait
from fsbackup.engine.records import CopyState, find_key
from fsbackup.engine.replicas import ReplicaSet
from fsbackup.errors import FsbackupError
from fsbackup.keys import ShortenedName, listed_key
from fsbackup.replication.classify import SOME_TIME, FindExpired, IsExpired, ObjectStatus, status_from_listings
from fsbackup.replication.inspector import Inspector
from fsbackup.replication.walk import KeyEntry, LazyRecords, ReplicaEntry, Walk
from fsbackup.stores.base import ObjectStat
from fsbackup.stores.names import has_strangers_name

log = logging.getLogger("fsbackup.storage")

#: Objects that the replicas are queried about at the same time.
_WORKERS = 16
#: Names that are listed to find out whether there are any: the first may be that of the prefix itself.
_PEEK = 2


class SetListing:
    """The objects of a set at or below `prefix`, in the order of their encoded names.

    Parameters
    ----------
    targets, prefix
        What to list.
    level
        Only what lies directly below `prefix`, which is empty or ends with a slash: objects, and for objects
        further below one status for each next segment, with a key that ends with a slash.
    limit
        Of a level, list at most so many entries of each replica.
    find_expired
        Called once, when a replica lacks a key. Without it what a retention deleted is ``"missing"``.
    insist
        See `Walk`.
    """

    def __init__(
        self,
        targets: ReplicaSet,
        prefix: str,
        find_expired: FindExpired | None = None,
        *,
        level: bool = False,
        limit: int | None = None,
        insist: bool = False,
    ) -> None:
        stores = {store.name: store for store in targets.stores}
        self._walk = Walk(targets.stores, prefix, records=False, level=level, limit=limit, insist=insist)
        self._records = {name: LazyRecords(store, prefix) for name, store in stores.items()}
        self._record_errors: dict[str, FsbackupError] = {}
        self._targets, self._stores = targets, stores
        self._find_expired = find_expired
        self._is_expired: IsExpired | None = None
        self._inspector = Inspector(targets)

    @property
    def errors(self) -> dict[str, FsbackupError]:
        """Why a replica could not be listed, by name; complete once the walk is over."""
        return self._walk.errors

    async def entries(self) -> AsyncGenerator[ObjectStatus, None]:
        """Yield each object once.

        Raises
        ------
        NoHealthyReplicaError
            When no replica can be listed.
        """
        waiting: deque[_Result] = deque()
        try:
            async with aclosing(self._walk.keys()) as keys:
                async for entry in keys:
                    waiting.append(await self._status(entry))
                    while waiting and (isinstance(waiting[0], ObjectStatus) or len(waiting) > _WORKERS):
                        if (status := await _result(waiting.popleft())) is not None:
                            yield status
            while waiting:
                if (status := await _result(waiting.popleft())) is not None:
                    yield status
        finally:
            await cancel_and_wait([each for each in waiting if isinstance(each, asyncio.Task)])
            for records in self._records.values():
                await records.stop()

    async def _status(self, entry: KeyEntry) -> _Result:
        """Return a key's status where listings tell it, else the task that queries the replicas."""
        first = next(listed.data for listed in entry.replicas.values() if listed and listed.data)
        lacking = [name for name, listed in entry.replicas.items() if listed and listed.data is None]
        if entry.key.endswith("/") and (lacking or isinstance(entry.key, ShortenedName)):
            return asyncio.create_task(self._below(entry))
        if lacking and not entry.key.endswith("/"):
            await self._load_expired()
        doubtful = [
            self._may_be_expired(name, entry.key) or await self._has_record(name, entry.key) for name in lacking
        ]
        if any(doubtful) or len(_sizes(entry)) > 1 or (lacking and has_strangers_name(entry.key)):
            return asyncio.create_task(self._query(entry, first))
        return self._listed_status(entry, first)

    def _listed_status(self, entry: KeyEntry, first: ObjectStat) -> ObjectStatus:
        states = {name: self._state(name, listed) for name, listed in entry.replicas.items()}
        return status_from_listings(entry, states, self._stores, self._targets.min_copies, first.modified)

    async def _load_expired(self) -> None:
        find_expired, self._find_expired = self._find_expired, None
        if find_expired is not None:
            self._is_expired = await find_expired(self.errors)
            self._inspector = Inspector(self._targets, expired=self._is_expired)

    async def _below(self, entry: KeyEntry) -> ObjectStatus | None:
        """Return the status of a segment that only some replicas list; None when all below it is deleted."""
        if isinstance(entry.key, ShortenedName):
            entry = replace(entry, key=await self._unshortened(entry))
        first = next(listed.data for listed in entry.replicas.values() if listed and listed.data)
        if all(listed.data for listed in entry.replicas.values() if listed):
            return self._listed_status(entry, first)
        some, _ = await has_objects(self._targets, entry.key)
        return self._listed_status(entry, first) if some else None

    async def _unshortened(self, entry: KeyEntry) -> str:
        """Return the key of a shortened segment: the record of what lies below tells it."""
        having = [self._stores[name] for name, listed in entry.replicas.items() if listed and listed.data]
        first = await anext(aiter(having[0].list(str(entry.key))))
        key = await find_key(having, listed_key(first.name) or "")
        return "".join(f"{segment}/" for segment in key.split("/")[: entry.key.count("/")])

    def _may_be_expired(self, name: str, key: str) -> bool:
        """Tell whether the backend's retention may have deleted the object; only the manifest tells its age."""
        return self._is_expired is not None and self._is_expired(name, key, SOME_TIME)

    async def _query(self, entry: KeyEntry, first: ObjectStat) -> ObjectStatus | None:
        unreachable = {**self.errors, **self._record_errors}
        status = await self._inspector.inspect(entry.key, unreachable, entry.stored_at)
        return None if status.is_foreign else replace(status, modified=first.modified)

    async def _has_record(self, name: str, key: str) -> bool:
        if name in self._record_errors:
            return False
        try:
            return await self._records[name].has(key)
        except FsbackupError as error:
            self._record_errors[name] = error
            log.error("%s cannot be listed: %s", name, error.reason)
            return False

    def _state(self, name: str, listed: ReplicaEntry | None) -> CopyState:
        if listed is None or (listed.data is None and name in self._record_errors):
            return "unknown"
        if listed.data is None:
            return "missing"
        return "present"


async def has_objects(
    targets: ReplicaSet, prefix: str, *, insist: bool = False
) -> tuple[bool, dict[str, FsbackupError]]:
    """Return whether an object that is not deleted lies below `prefix`, and why replicas could not be listed.

    The prefix ends with a slash; `insist` is as in `Walk`. It costs one LIST of two names and replica where the
    first objects are on all.

    Raises
    ------
    NoHealthyReplicaError
        When no replica can be listed.
    """
    for limit in (_PEEK, None):
        listing, count = SetListing(targets, prefix, level=limit is not None, limit=limit, insist=insist), 0
        async with aclosing(listing.entries()) as entries:
            async for entry in entries:
                count += 1
                if not entry.is_deleted:
                    return True, listing.errors
        if not count:
            break
    return False, listing.errors


def _sizes(entry: KeyEntry) -> set[int]:
    """Return the sizes that are listed of an object: where there are several, its records tell the newest."""
    return {listed.data.size for listed in entry.replicas.values() if listed and listed.data}


#: A status that listings tell, or who finds it out; None for a segment with nothing below.
_Result = ObjectStatus | asyncio.Task[ObjectStatus] | asyncio.Task[ObjectStatus | None]


async def _result(status: _Result) -> ObjectStatus | None:
    return status if isinstance(status, ObjectStatus) else await status
