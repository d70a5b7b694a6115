"""A store that does not answer is left alone for a while: whoever reads many objects waits for it once.

Without it every look at a directory would wait for the same dead replica again.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from fsbackup.errors import BackendUnavailableError, FsbackupError
from fsbackup.objects import ObjectStat, ObjectStore, ObjectWriter, WritePlan

T = TypeVar("T")

#: Seconds for which a store that did not answer is not asked again.
COOL_DOWN = 30.0
#: Seconds without any answer after which a call that the reader gave up says something about the store.
_SILENT = 1.0


class Breaker(ObjectStore):
    """Reads from a store, and fails at once while that one is known not to answer.

    Writes, and what keeps the store in order, belong to the store itself.
    """

    def __init__(self, store: ObjectStore) -> None:
        super().__init__(store.name, timeout=store.timeout)
        self._store = store
        self._down: tuple[float, FsbackupError] | None = None

    # A fact of the class elsewhere; here of the store that is wrapped.
    @property
    def capabilities(self) -> Any:  # type: ignore[override]
        return self._store.capabilities

    @property
    def location(self) -> str:
        return self._store.location

    @property
    def filesystem(self) -> Any:
        return self._store.filesystem

    async def stat(self, name: str) -> ObjectStat | None:
        with self._watch():
            return await self._store.stat(name)

    async def read(
        self, name: str, start: int = 0, end: int | None = None, *, moved: Callable[[int], None] | None = None
    ) -> bytes:
        with self._watch() as heard:
            return await self._store.read(name, start, end, moved=_both(heard, moved))

    async def list(self, prefix: str = "", start_after: str = "") -> AsyncIterator[ObjectStat]:
        names = self._store.list(prefix, start_after)
        try:
            while True:
                with self._watch():
                    stat = await anext(names, None)
                if stat is None:
                    return
                yield stat
        finally:
            close: Callable[[], Awaitable[None]] | None = getattr(names, "aclose", None)
            if close is not None:
                await close()

    def writer(self, name: str, plan: WritePlan, moved: Callable[[int], None]) -> ObjectWriter:
        return self._store.writer(name, plan, moved)

    async def remove(self, name: str) -> None:
        await self._store.remove(name)

    @contextmanager
    def _watch(self) -> Iterator[Callable[[int], None]]:
        """Refuse while the store is down; take note when it is. Yields what is to hear of bytes that arrive."""
        last = time.monotonic()
        if self._down is not None and last < self._down[0]:
            raise self._down[1]
        arrived = 0

        def heard(amount: int) -> None:
            nonlocal last, arrived
            last, arrived = time.monotonic(), arrived + amount

        try:
            yield heard
        except BackendUnavailableError as error:
            # One that broke off in the middle does answer.
            if not arrived:
                self._note(error)
            raise
        except FsbackupError:
            raise
        except BaseException:
            # The reader gave up waiting. A healthy store would have said something by then.
            if time.monotonic() - last > _SILENT:
                self._note(self._silent())
            raise
        else:
            self._down = None

    def _note(self, error: FsbackupError) -> None:
        self._down = (time.monotonic() + COOL_DOWN, error)

    def _silent(self) -> FsbackupError:
        return BackendUnavailableError("did not answer in time", backend=self.name, operation="read")


def _both(heard: Callable[[int], None], moved: Callable[[int], None] | None) -> Callable[[int], None]:
    def tell(amount: int) -> None:
        heard(amount)
        if moved is not None:
            moved(amount)

    return tell
