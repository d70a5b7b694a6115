"""One writer per key and replica at a time: of this process, and where the store has locks, of all processes.

What changes a key on a replica (the commit of an upload, a delete, prune's removal, repair) does so inside
`exclusive`. A lock spares conflicts; no promise hangs on it, because other machines may write the same bucket, and
a network filesystem may ignore locks. What is sent before the commit is not locked.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from weakref import WeakKeyDictionary

from fsbackup.keys import encode_key
from fsbackup.stores.base import ObjectStore


class _Lock(asyncio.Lock):
    """A lock that is forgotten when nobody holds it or waits for it."""

    users = 0


#: By loop, because a forked child has a loop of its own; then by the object's address.
_locks: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, _Lock]] = WeakKeyDictionary()

#: How often this process may have changed an object, by a hash of its address: few numbers, each of many objects.
_changes = [0] * 4096


@asynccontextmanager
async def exclusive(store: ObjectStore, key: str) -> AsyncIterator[None]:
    """Hold the lock on `key` in `store` while the block runs; two stores at the same place share it.

    Raises
    ------
    BackendUnavailableError
        When another process holds it for the store's `timeout`.
    """
    name = encode_key(key)
    address, held = store.address(name), _locks.setdefault(asyncio.get_running_loop(), {})
    lock = held.setdefault(address, _Lock())
    lock.users += 1
    try:
        async with lock, store.locked(name) if store.capabilities.locks else nullcontext():
            yield
    finally:
        _changes[hash(address) % len(_changes)] += 1
        lock.users -= 1
        if not lock.users:
            del held[address]


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
