"""Marks of running repairs: a store has one from before a repair's first copy to it until that repair ends.

When a repair has written a copy and finds the object gone from all others, without a tombstone, a prune may have
counted on that very copy; or a delete may have begun and ended while it was written. Of both the same is left:
nothing. So a tombstone is the only proof of a delete, and a repair takes nothing back without one. It is kept for
the repairs that need it:

- A repair puts its mark, then looks whether the version is still the newest and somewhere, then writes.
- A delete removes all data, then looks for marks; where one is, it leaves its tombstones to a later repair.

Where the repair looked before the data was gone, the delete finds the mark. Where it looked after that, it finds
nothing to copy, and writes nothing. On a disk the lock of the key says the same: a delete waits for it.

A killed repair leaves its mark, which counts for a day: deletes leave tombstones until then. A running one renews
its own. Batches of one repair have different keys, so they may ignore each other's (`run`).
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing
from typing import cast

from fsbackup import __version__, clock
from fsbackup.engine.intents import SAFE_AGE
from fsbackup.engine.records import new_id
from fsbackup.errors import FsbackupError
from fsbackup.keys import REPAIRS
from fsbackup.stores.base import ObjectStat, ObjectStore

log = logging.getLogger("fsbackup.storage")

#: Seconds after which a repair renews its mark.
_RENEWED = 3600.0


class RepairMarks:
    """The marks of one repair, or of one batch of it.

    Parameters
    ----------
    run
        Identifies the repair; by default a new one.
    """

    def __init__(self, run: str = "") -> None:
        self.run = run or new_id()
        self._name = f"{REPAIRS}{self.run}-{new_id()}"
        self._stores: dict[str, ObjectStore] = {}
        self._put_at: dict[str, float] = {}
        self._locks: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def put(self, store: ObjectStore) -> None:
        """Have a mark in `store`, before a look at what is to be copied there; raises what the store raises."""
        if store.capabilities.locks:
            return
        async with self._locks[store.name]:
            now = clock.now()
            if abs(now - self._put_at.get(store.name, -_RENEWED)) >= _RENEWED:
                self._stores[store.name] = store  # also when it fails: the service may have it all the same
                await store.put(self._name, _describe())
                self._put_at[store.name] = now

    async def remove(self) -> None:
        """Remove the marks when nothing is copied any more; a failure is only logged."""
        await asyncio.gather(*map(self._remove_from, self._stores.values()))

    async def _remove_from(self, store: ObjectStore) -> None:
        try:
            await store.remove(self._name)
        except FsbackupError as error:
            log.warning("the mark of a repair was not removed (it counts for a day): %s", error)


def _describe() -> bytes:
    """Return what a mark says, for people: only its name and its age count."""
    fields = {"format": 1, "kind": "repair", "host": socket.gethostname(), "fsbackup_version": __version__}
    return json.dumps(fields, separators=(",", ":")).encode("ascii")


async def at_work(stores: Iterable[ObjectStore], but: str = "") -> bool:
    """Return whether a repair other than `but` may be running on one of the stores.

    Raises
    ------
    BackendError
        As a store raises it.
    """
    found = await asyncio.gather(*(_has_live(each, but) for each in stores if not each.capabilities.locks))
    return any(found)


async def _has_live(store: ObjectStore, but: str) -> bool:
    async with aclosing(cast("AsyncGenerator[ObjectStat, None]", store.list(REPAIRS))) as marks:
        async for each in marks:
            is_own = bool(but) and each.name.startswith(f"{REPAIRS}{but}-")
            if not is_own and (each.modified is None or clock.now() - each.modified <= SAFE_AGE):
                return True
    return False


async def abandoned(store: ObjectStore, before: float) -> AsyncIterator[ObjectStat]:
    """Yield the marks that are older than `before`, in epoch seconds: of repairs that were killed."""
    if store.capabilities.locks:
        return
    async for each in store.list(REPAIRS):
        if each.modified is not None and each.modified <= before:
            yield each
