"""One store's side of an upload, and the order of its steps.

Creating: data, then manifest. A reader in between finds an object without a manifest, and says so. Replacing:
announcement, data, manifest, announcement removed. The data changes in one atomic step of the store. Before it
the old manifest proves the old data, after it the announcement proves the new data, so there is no instant and
no crash after which neither can be read and proven.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from fsbackup.aio import run_all
from fsbackup.engine import records
from fsbackup.engine.parts import Consumer, PartBuffer
from fsbackup.engine.records import ReplicaState
from fsbackup.errors import ConflictError
from fsbackup.keys import encode_key
from fsbackup.record import Manifest, Tombstone
from fsbackup.stores.base import ObjectStat, ObjectWriter, WritePlan, timeout_error

T = TypeVar("T")


class ReplicaUpload:
    """Takes parts from the window into one store, then commits and records the object there.

    Parameters
    ----------
    finding
        What the store knew of the key before.
    key, plan
        The object.
    moved
        Called with bytes as they leave.
    """

    def __init__(self, finding: ReplicaState, key: str, plan: WritePlan, moved: Callable[[int], None]) -> None:
        self.store = finding.store
        self.finding = finding
        self.bytes_sent = 0
        self.aborted = False
        self._calls = 0
        self._key = key
        self._moved = moved
        self._last_move = asyncio.get_running_loop().time()
        self.writer: ObjectWriter = self.store.writer(encode_key(key), plan, self._count)

    def _count(self, amount: int) -> None:
        self._last_move = asyncio.get_running_loop().time()
        self.bytes_sent += amount
        self._moved(amount)

    async def run(self, window: PartBuffer, place: Consumer, workers: int, proven: Callable[[], Manifest]) -> None:
        """Send every part that `place` meets, up to `workers` at once, then commit what `proven` says they are.

        Raises
        ------
        BackendUnavailableError
            Also for a store that moves no byte and does not even fail for longer than its own timeout.
        """
        await self._with_idle_timeout(self._run(window, place, workers, proven))

    async def _run(
        self, window: PartBuffer, place: Consumer, workers: int, proven: Callable[[], Manifest]
    ) -> None:
        await self._send(window, place, workers)
        await self._commit(proven())

    async def _send(self, window: PartBuffer, place: Consumer, workers: int) -> None:
        async def work() -> None:
            # One call per part: a name for it here would keep its bytes alive while the next one is waited for.
            while await self._send_next(window, place):
                pass

        try:
            await run_all([work() for _ in range(workers)])
        finally:
            window.close(place)

    async def _send_next(self, window: PartBuffer, place: Consumer) -> bool:
        """Send the next part, and say whether there was one."""
        part = await window.take(place)
        if part is None:
            return False
        try:
            with self._counting_silence():
                await self.writer.write(part)
        finally:
            window.release(part)
        return True

    async def _commit(self, manifest: Manifest) -> None:
        if self.needs_intent:
            await self._write_intent(manifest)
        await self._precondition(manifest)
        stored = await self._step(self.writer.commit())
        await self._precondition(manifest, stored)
        await self.write_manifest(manifest, stored)
        await self._precondition(manifest, stored)
        if self.needs_intent:
            await self._step(records.clear_intent(self.store, manifest))

    @property
    def needs_intent(self) -> bool:
        """Whether others have to know beforehand: something is replaced, or comes after a delete."""
        replaces = self.finding.manifest is not None and self.finding.stat is not None
        return replaces or isinstance(self.finding.record, Tombstone)

    async def _write_intent(self, manifest: Manifest) -> None:
        await self._step(records.write_intent(self.store, manifest))

    async def _precondition(self, manifest: Manifest, stored: ObjectStat | None = None) -> None:
        """Hook before the data, before the manifest and after it: raise when the object must not be here (now)."""

    async def write_manifest(self, manifest: Manifest, stored: ObjectStat) -> None:
        """Write the manifest, last of all; where another writer may have been at it too, compare."""
        first = self.finding.record is None and not self.finding.damaged
        exclusive = first and self.store.capabilities.conditional_create
        own = manifest.for_replica(stored.etag, stored.version_id)
        try:
            await self._step(records.write_record(self.store, own, create_only=first))
        except ConflictError:
            exclusive = False
        if not exclusive:
            await self._compare(manifest, stored)

    async def _compare(self, manifest: Manifest, stored: ObjectStat) -> None:
        """Refuse to call it stored when another writer's manifest, or data, is what stands there now."""
        there = await self._step(records.read_state(self.store, self._key))
        own_record = there.manifest is not None and there.manifest.sha256 == manifest.sha256
        own_data = there.stat is not None and (there.stat.size, there.stat.etag) == (stored.size, stored.etag)
        if own_record and own_data:
            return
        if not own_record:
            await self._step(self.writer.rollback())
        raise ConflictError(
            "another writer stored other content under this key at the same time",
            backend=self.store.name,
            operation="upload",
            key=self._key,
            hint="decide which one is right and store it again with overwrite",
        )

    async def abort(self) -> None:
        """Throw away what was sent."""
        self.aborted = True
        await self.writer.abort()

    async def _step(self, work: Awaitable[T]) -> T:
        """Do one step that has the store's whole patience for itself."""
        with self._counting_silence():
            return await work

    @contextmanager
    def _counting_silence(self) -> Iterator[None]:
        """Count the store's silence from here on; while a lane waits for a part, it is not the store's."""
        self._last_move = asyncio.get_running_loop().time()
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1

    async def _with_idle_timeout(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        clock = asyncio.get_running_loop().time
        silence = self.store.hard_timeout
        try:
            while not task.done():
                rest = self._last_move + silence - clock() if self._calls else silence
                if rest <= 0:
                    raise timeout_error(self.store, "upload", self._key)
                await asyncio.wait({task}, timeout=rest)
            task.result()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task}, timeout=self.store.hard_timeout_margin)
