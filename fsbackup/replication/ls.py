"""`ls`: the objects of a set and what each replica has of them, from their listings.

A key that every replica lists costs nothing more. From the first key that one of them lacks, that replica's
records are listed too, because a record without data may say that the object was deleted, and what its retention
lets go is found out; only where one of them may be the reason is anybody asked.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from fsbackup.aio import cancel_and_wait
from fsbackup.engine.breaker import CircuitBreaker
from fsbackup.engine.replicas import ReplicaSet
from fsbackup.errors import FsbackupError
from fsbackup.replication.classify import CopyState, FindExpired, IsExpired
from fsbackup.replication.compare import LONG_AGO, stored_at
from fsbackup.replication.inspect import Inspector
from fsbackup.replication.problems import FINE
from fsbackup.replication.walk import KeyEntry, LazyManifests, ReplicaEntry, Walk
from fsbackup.stores.base import ObjectStat

log = logging.getLogger("fsbackup.storage")

#: Objects asked about at once.
_WORKERS = 16


@dataclass(frozen=True, slots=True)
class ObjectEntry:
    """One object of a set.

    Parameters
    ----------
    key
        Its key.
    size
        Bytes, on the first replica (in reading order) that has it.
    modified
        When that replica stored it, epoch seconds; None where it does not say.
    replicas
        What each backend has of it, by name: ``"unknown"`` when it could not be listed, which says nothing about
        the object.
    """

    key: str
    size: int
    modified: float | None
    replicas: Mapping[str, CopyState]

    @property
    def copies(self) -> int:
        """How many replicas list it with this size."""
        return sum(state == "present" for state in self.replicas.values())

    @property
    def complete(self) -> bool:
        """Every replica has it, or let it go as its retention says."""
        return FINE.issuperset(self.replicas.values())

    @property
    def deleted(self) -> bool:
        """It was deleted, and what is left is data on a replica that slept through that."""
        return "deleted elsewhere" in self.replicas.values()

    def as_dict(self) -> dict[str, Any]:
        """Return the entry as plain JSON types."""
        return {"key": self.key, "size": self.size, "modified": self.modified, "replicas": dict(self.replicas)}


class SetListing:
    """A walk over the objects of a set at or below `prefix`, in the order of their encoded names.

    Parameters
    ----------
    targets, prefix
        What to list.
    after
        Only objects whose encoded names sort after this text.
    outages
        What is known of the replicas, for those who list often.
    expecting
        Asked once, when a replica lacks something. Without it what a retention let go is ``"missing"``.
    """

    def __init__(
        self,
        targets: ReplicaSet,
        prefix: str,
        after: str = "",
        outages: CircuitBreaker | None = None,
        expecting: FindExpired | None = None,
    ) -> None:
        self._outages = CircuitBreaker() if outages is None else outages
        away = {each.name: error for each in targets.stores if (error := self._outages.reason(each)) is not None}
        self._walk = Walk(targets.stores, prefix, records=False, away=away, after=after)
        self._late = {store.name: LazyManifests(store, prefix) for store in targets.stores}
        self._unsure: dict[str, FsbackupError] = {}
        self._targets, self._expecting = targets, expecting
        self._expired: IsExpired | None = None
        self._examiner = Inspector(targets, outages=self._outages)
        self._listed = [store.name for store in targets.stores if store.name not in away]
        self._started = time.monotonic()

    @property
    def errors(self) -> dict[str, FsbackupError]:
        """Why a replica could not be listed, by name; complete once the walk is over."""
        return self._walk.errors

    async def entries(self) -> AsyncGenerator[ObjectEntry, None]:
        """Yield each object once.

        Raises
        ------
        NoHealthyReplicaError
            When no replica can be listed.
        """
        waiting: deque[ObjectEntry | asyncio.Task[ObjectEntry]] = deque()
        try:
            async with aclosing(self._walk.keys()) as keys:
                async for seen in keys:
                    waiting.append(await self._entry(seen))
                    while waiting and (isinstance(waiting[0], ObjectEntry) or len(waiting) > _WORKERS):
                        yield await _settled(waiting.popleft())
            while waiting:
                yield await _settled(waiting.popleft())
        finally:
            await cancel_and_wait([entry for entry in waiting if isinstance(entry, asyncio.Task)])
            for each in self._late.values():
                await each.stop()
            for name in self._listed:
                self._outages.record(name, self.errors.get(name), time.monotonic() - self._started)

    async def _entry(self, seen: KeyEntry) -> ObjectEntry | asyncio.Task[ObjectEntry]:
        """Return what the listings tell, or who is asking where they do not."""
        first = next(listed.data for listed in seen.replicas.values() if listed and listed.data)
        lacking = [name for name, listed in seen.replicas.items() if listed and listed.data is None]
        if lacking:
            await self._expect()
        doubtful = [
            self._may_be_expired(name, seen.key) or await self._has_record(name, seen.key) for name in lacking
        ]
        if any(doubtful):
            return asyncio.create_task(self._ask(seen, first))
        states = {name: self._state(name, listed, first) for name, listed in seen.replicas.items()}
        return ObjectEntry(seen.key, first.size, first.modified, states)

    async def _expect(self) -> None:
        expecting, self._expecting = self._expecting, None
        if expecting is not None:
            self._expired = await expecting(self.errors)
            self._examiner = Inspector(self._targets, expired=self._expired, outages=self._outages)

    def _may_be_expired(self, name: str, key: str) -> bool:
        """Tell whether its retention would let an old object go; only the manifest says how old this one is."""
        return self._expired is not None and self._expired(name, key, LONG_AGO)

    async def _ask(self, seen: KeyEntry, first: ObjectStat) -> ObjectEntry:
        away = {**self.errors, **self._unsure}
        verdict = await self._examiner.inspect(seen.key, away, stored_at(seen))
        return ObjectEntry(seen.key, first.size, first.modified, verdict.states)

    async def _has_record(self, name: str, key: str) -> bool:
        if name in self._unsure:
            return False
        try:
            return await self._late[name].has(key)
        except FsbackupError as error:
            self._unsure[name] = error
            log.error("%s cannot be listed: %s", name, error)
            return False

    def _state(self, name: str, listed: ReplicaEntry | None, first: ObjectStat) -> CopyState:
        if listed is None or (listed.data is None and name in self._unsure):
            return "unknown"
        if listed.data is None:
            return "missing"
        return "present" if listed.data.size == first.size else "size differs"


async def _settled(entry: ObjectEntry | asyncio.Task[ObjectEntry]) -> ObjectEntry:
    return entry if isinstance(entry, ObjectEntry) else await entry
