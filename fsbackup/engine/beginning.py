"""The first bytes of an object, which come from one replica with what it has of the object.

Where the record lies inside the data object, one GET returns both. So a small object costs its reader one request
to the replica that it is read from, and of a longer one these bytes are not asked for again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, TypeAlias

from fsbackup.aio import retrieve_error
from fsbackup.engine.selector import ReplicaSelector
from fsbackup.keys import encode_key
from fsbackup.sizing import KIB
from fsbackup.stores.base import ObjectStat, ObjectStore

if TYPE_CHECKING:
    from fsbackup.buffers import Buffers
    from fsbackup.engine.records import ReplicaState

#: Bytes that are read with the record: all of a small object, and not many where others are wanted.
LENGTH = 256 * KIB
#: Seconds after which the store is asked for its record alone, too: bytes that trickle do not keep it back.
_PATIENCE = 1.0

_Found: TypeAlias = tuple[ObjectStat, list[bytes]] | None


class Beginning:
    """The first bytes of `key` in `store`, asked for by `stat`, and used once.

    Parameters
    ----------
    store, key
        What to read, and from where.
    selector
        Hears how long that takes.
    """

    def __init__(self, store: ObjectStore, key: str, selector: ReplicaSelector) -> None:
        self.store = store
        self._name = encode_key(key)
        self._selector = selector
        self._get: asyncio.Task[_Found] | None = None
        self._is_taken = False
        self._known = asyncio.Event()
        self._stat: ObjectStat | None = None
        self._received = 0
        self._on_progress: Callable[[int], None] = lambda _: None

    async def stat(self) -> ObjectStat | None:
        """Return what `ObjectStore.stat` returns, and have the bytes come.

        Bytes that are late, or refused, make no difference to the answer: the store is asked once more without.
        """
        try:
            self._stat = await self._ask()
        finally:
            self._known.set()
        return self._stat

    async def known(self) -> ObjectStat | None:
        """Return what `stat` returns, once it does; None where that takes long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                await self._known.wait()
        return self._stat

    async def _ask(self) -> ObjectStat | None:
        if self._get is None and not self._is_taken:
            self._get = get = asyncio.create_task(self._receive())
            get.add_done_callback(retrieve_error)
            try:
                await asyncio.wait({get}, timeout=_PATIENCE)
            except asyncio.CancelledError:
                self.cancel()
                raise
            if get.done() and not get.cancelled() and get.exception() is None:
                found = get.result()
                return None if found is None else found[0]
        return await self.store.stat(self._name)

    def is_of(self, stores: Collection[ObjectStore], states: Iterable[ReplicaState]) -> bool:
        """Tell whether the bytes are of what one of the `stores` has by its state.

        A state of a later look may be of an object that has replaced theirs since.
        """
        return self.store in stores and any(s.store is self.store and s.stat == self._stat for s in states)

    def begins(self, store: ObjectStore, start: int) -> bool:
        """Tell whether a read from `store` at `start` is one of these bytes, and they are not taken yet."""
        return store is self.store and start == 0 and self._get is not None and not self._is_taken

    async def read(self, end: int, on_progress: Callable[[int], None], into: Buffers | None = None) -> list[bytes]:
        """As `ObjectStore.read_buffers` from 0 up to `end`; what goes beyond these bytes is asked for."""
        assert self._get is not None
        get, self._get, self._is_taken, self._on_progress = self._get, None, True, on_progress
        on_progress(self._received)
        found = await get
        if found is None or found[0] != self._stat:  # replaced between the two answers
            return await self.store.read_buffers(self._name, 0, end, on_progress=on_progress, buffers=into)
        buffers, length = found[1], sum(map(len, found[1]))
        if length > end:
            return [b"".join(buffers)[:end]]
        if length < min(end, found[0].size):

            def on_rest(count: int) -> None:
                on_progress(count)
                if not count:  # an attempt begins, behind these bytes
                    on_progress(length)

            buffers += await self.store.read_buffers(self._name, length, end, on_progress=on_rest, buffers=into)
        return buffers

    def cancel(self) -> None:
        """Cancel the read: the bytes will not be taken."""
        self._is_taken = True
        if self._get is not None:
            self._get.cancel()
            self._get = None

    async def _receive(self) -> _Found:
        with self._selector.track(self.store):
            return await self.store.stat_and_read(self._name, LENGTH, on_progress=self._count)

    def _count(self, count: int) -> None:
        self._received = self._received + count if count else 0
        self._on_progress(count)
