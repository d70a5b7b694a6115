"""One writer per key and replica at a time: of this process, and where the store has locks, of all processes.

What changes a key on a replica (the commit of an upload, a delete, prune's removal, repair) does so inside
`exclusive`. A lock spares conflicts; no promise hangs on it, because other machines may write the same bucket, and
a network filesystem may ignore locks. What is sent before the commit is not locked.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from types import TracebackType

from fsbackup.aio import PerLoop
from fsbackup.keys import encode_key
from fsbackup.stores.base import ObjectStore


class _Lock(asyncio.Lock):
    """A lock that is forgotten when no task holds it or waits for it."""

    users = 0


#: By loop, because a forked child has a loop of its own; then by the object's address.
_locks: PerLoop[dict[str, _Lock]] = PerLoop(dict)

#: How often this process may have changed an object, by a hash of its address: few numbers, each of many objects.
_changes = [0] * 4096


class exclusive:  # noqa: N801 - used like a function; a generator would take as long as all else that it does
    """Hold the lock on `key` in `store` while the block runs; two stores at the same place share it.

    Raises
    ------
    BackendUnavailableError
        When another process holds it for the store's `timeout`.
    """

    __slots__ = ("_address", "_held", "_lock", "_locked", "_name", "_store")

    def __init__(self, store: ObjectStore, key: str) -> None:
        self._store = store
        self._name = encode_key(key)
        self._address = store.address(self._name)
        self._locked: AbstractAsyncContextManager[None] | None = None

    async def __aenter__(self) -> None:
        self._held = _locks.of(asyncio.get_running_loop())
        self._lock = self._held.get(self._address) or self._held.setdefault(self._address, _Lock())
        self._lock.users += 1
        try:
            await self._lock.acquire()
        except BaseException:
            self._leave()
            raise
        try:
            if self._store.capabilities.locks:
                self._locked = self._store.locked(self._name)
                await self._locked.__aenter__()
        except BaseException:
            self._lock.release()
            self._leave()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._locked is not None:
                await self._locked.__aexit__(kind, error, trace)
        finally:
            self._lock.release()
            self._leave()

    def _leave(self) -> None:
        _changes[hash(self._address) % len(_changes)] += 1
        self._lock.users -= 1
        if not self._lock.users:
            del self._held[self._address]


def changes(stores: Iterable[ObjectStore], key: str) -> int:
    """Return a number that grows with each change by this process to `key` in one of the stores.

    What was cached under a smaller number may be old: whichever object of this process made the change.
    """
    name = encode_key(key)
    return sum(_changes[hash(store.address(name)) % len(_changes)] for store in stores)


@asynccontextmanager
async def exclusive_all(store: ObjectStore, keys: Iterable[str]) -> AsyncIterator[None]:
    """Hold the locks on all of `keys` in `store`, taken in ascending order: two callers never block each other.

    Raises
    ------
    BackendUnavailableError
        As `exclusive`.
    """
    async with AsyncExitStack() as stack:
        for key in sorted(set(keys)):
            await stack.enter_async_context(exclusive(store, key))
        yield
