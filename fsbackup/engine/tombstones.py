"""Tombstones: the records of deletes that not every replica has confirmed, and which keys of a store have one.

A tombstone lies under `tombstone_name` on every kind of store, over nothing else: of a tombstone and a manifest of
the same key the higher version counts (`record.version_order`).

Which keys have one
-------------------
There are few. So one listing of their names for each store and process, at most `LIFETIME` seconds old, tells of
every key whether there is one, and only those are read. What this process writes or removes is known at once, by
all its stores at that place. A listing that fails is the failure of the look-up; it never means "no tombstone".
Where the names are more than `MOST`, or may not be listed, the store is asked for the tombstone of each key, and
so is a disk, which answers that as fast, until a batch of many keys has listed it (`list_names`).

What a listing of some seconds ago can miss
-------------------------------------------
A tombstone that another process has written since then. While that delete is under way, it comes after whatever
goes on here, and nothing is lost. Of a delete that has ended, or whose process was killed, tombstones stay where a
replica was away or was not reached. Not to know of one would bring back what was deleted, so they are looked for
afresh, by a listing that begins then, where one would make a difference:

- a reader, where a replica has a version that another one lacks: all that a delete leaves of it
  (`survey.settled`);
- a change, there too, and where a replica does not answer, which is when tombstones stay: what is stored must be
  of a higher generation than all that was deleted;
- an upload that would send nothing, or refuse, because of what is stored (`upload.py`): that may be about to be
  removed. This costs a listing only where nothing is sent; many uploads at the same time share it.

Deletes and repairs read the tombstone itself, under the lock of its key (`find` without `since`).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import cast
from weakref import WeakKeyDictionary

from fsbackup.aio import retrieve_error
from fsbackup.engine import record_objects
from fsbackup.errors import AccessDeniedError
from fsbackup.keys import TOMBSTONES, tombstone_name
from fsbackup.record import Tombstone, dump
from fsbackup.stores.base import ObjectStat, ObjectStore, timeout_error

#: Seconds after which the names are listed again.
LIFETIME = 5.0
#: Names of one store that are remembered, about 20 MB; and seconds for which it is asked key by key from then on.
MOST, _KEY_BY_KEY = 100_000, 3600.0
#: Names per page of a listing.
_PAGE = 1000


class _Names:
    """The names of the tombstones of one store, as far as this process knows."""

    def __init__(self) -> None:
        #: None: the store is asked key by key.
        self.names: set[str] | None = set()
        #: When the listing began that they are from, on the monotonic clock.
        self.began = -math.inf
        self._listing: asyncio.Task[None] | None = None
        #: Names added while a listing is under way, which may have passed them.
        self._added: set[str] = set()

    def note(self, name: str, *, exists: bool) -> None:
        if exists:
            self._added.add(name)
        else:
            self._added.discard(name)
        if self.names is not None:
            (self.names.add if exists else self.names.discard)(name)

    async def may_have(self, store: ObjectStore, name: str, since: float) -> bool:
        """Return whether there may be a tombstone, by a listing that began at `since` or later."""
        while self.began < since:
            await asyncio.shield(self._running(store))
        return self.names is None or name in self.names

    def _running(self, store: ObjectStore) -> asyncio.Task[None]:
        """Return the listing that is under way, or begin one."""
        running = self._listing
        if running is None or running.done() or running.get_loop() is not asyncio.get_running_loop():
            running = self._listing = asyncio.create_task(self._list(store))
            running.add_done_callback(retrieve_error)
        return running

    async def _list(self, store: ObjectStore) -> None:
        self._added, began = set(), time.monotonic()
        try:
            names = await _listed(store)
        except AccessDeniedError:
            names = None
        if names is None:
            self.names, self.began = None, began + _KEY_BY_KEY
        else:
            self.names, self.began = names | self._added, began


#: By store; one that was opened again, as by another process, knows nothing.
_known: WeakKeyDictionary[ObjectStore, _Names] = WeakKeyDictionary()


async def find(store: ObjectStore, key: str, *, since: float | None) -> tuple[Tombstone | None, bool]:
    """Return the valid tombstone of `key`, or None, and whether there is a damaged one.

    Parameters
    ----------
    since
        Rely on a listing of the names that began at this time of the monotonic clock or later; None: on none.

    Raises
    ------
    NewerFormatError
        When a newer version of fsbackup wrote it.
    BackendError
        As the store raises it.
    """
    name = tombstone_name(key)
    asks = since is None or (store.capabilities.locks and store not in _known)
    if not asks and not await _known.setdefault(store, _Names()).may_have(store, name, cast(float, since)):
        return None, False
    return await record_objects.read(store, key, name, Tombstone)


def is_absent(store: ObjectStore, key: str, *, since: float) -> bool:
    """Tell whether `find` would find none without asking: by a listing that began at `since` or later."""
    known = _known.get(store)
    if known is None or known.names is None or known.began < since:
        return False
    return tombstone_name(key) not in known.names


async def list_names(store: ObjectStore) -> None:
    """List the tombstones of a store that is about to be asked for many keys; raises what the store raises."""
    await _known.setdefault(store, _Names()).may_have(store, "", time.monotonic())


def recently() -> float:
    """Return the time since when a listing must have begun where some seconds make no difference."""
    return time.monotonic() - LIFETIME


async def write(store: ObjectStore, tombstone: Tombstone) -> ObjectStat:
    """Store a tombstone, over an older one."""
    name = tombstone_name(tombstone.key)
    _note(store, name, exists=True)  # also when it fails: the service may have it all the same
    return await store.put(name, dump(tombstone))


async def remove(store: ObjectStore, key: str) -> None:
    """Remove the tombstone of `key`."""
    await store.remove(tombstone_name(key))
    removed(store, key)


def removed(store: ObjectStore, key: str) -> None:
    """Take note that the tombstone of `key` was removed."""
    _note(store, tombstone_name(key), exists=False)


def _note(store: ObjectStore, name: str, *, exists: bool) -> None:
    address = store.address(name)
    for other, names in list(_known.items()):
        if other is store or other.address(name) == address:
            names.note(name, exists=exists)


async def _listed(store: ObjectStore) -> set[str] | None:
    """Return the names of all tombstones, None where they are too many."""
    found: set[str] = set()
    names = cast("AsyncGenerator[ObjectStat, None]", store.list(TOMBSTONES))
    clock = asyncio.get_running_loop().time
    try:
        async with asyncio.timeout(store.hard_timeout) as limit, aclosing(names):
            async for stat in names:
                found.add(stat.name)
                if len(found) > MOST:
                    return None
                if len(found) % _PAGE == 0:  # as long as there is progress
                    limit.reschedule(clock() + store.hard_timeout)
    except TimeoutError:
        raise timeout_error(store, "list", TOMBSTONES) from None
    return found
