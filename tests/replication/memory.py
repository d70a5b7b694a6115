"""A backend in memory whose every step a test can hold or fail, and a count of the parts that are alive."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from fsbackup.backends import SingleBackend
from fsbackup.errors import BackendError, ConflictError, ObjectNotFoundError
from fsbackup.stores.base import ObjectStat, ObjectStore, ObjectWriter, Part, WritePlan

META = ".fsbackup/"
MARKER = f"{META}backend"


class Gate:
    """Stops whoever comes until the test lets go, or makes it fail."""

    def __init__(self) -> None:
        self._reached = threading.Event()
        self._open: concurrent.futures.Future[None] = concurrent.futures.Future()

    async def enter(self) -> None:
        """Wait for the test; called on the loop."""
        self._reached.set()
        await asyncio.shield(asyncio.wrap_future(self._open))

    def wait_reached(self) -> None:
        """Wait, in the test, until somebody stands at the gate."""
        assert self._reached.wait(20), "nobody came to the gate"

    def release(self) -> None:
        """Let pass who waits and who comes later."""
        if not self._open.done():
            self._open.set_result(None)

    def fail(self) -> None:
        """Have the backend fail whoever waits and comes later."""
        self._open.set_exception(BackendError("broken by the test"))


class MemoryStore(ObjectStore):
    """Objects in a dictionary; `gates` holds the writing of a data object's part by the part's number."""

    def __init__(self, name: str, *, timeout: float = 20.0, workers: int = 1, can_reread: bool = False) -> None:
        super().__init__(name, timeout=timeout)
        self.objects: dict[str, bytes] = {}
        self.gates: dict[int, Gate] = {}
        self.workers, self.can_reread = workers, can_reread
        self.aborted = 0
        self._proven = threading.Event()
        self._progress = threading.Condition()
        self._highest = 0

    def hold(self, number: int) -> Gate:
        """Hold the writing of one part."""
        return self.gates.setdefault(number, Gate())

    def wait_proven(self) -> None:
        """Wait, in the test, until an object's manifest is here."""
        assert self._proven.wait(20), f"{self.name} has no manifest"

    @property
    def is_proven(self) -> bool:
        return self._proven.is_set()

    def wait_part(self, number: int) -> None:
        """Wait, in the test, until a part has been written."""
        with self._progress:
            assert self._progress.wait_for(lambda: self._highest >= number, 20), f"{self.name}: {self._highest}"

    def wrote(self, number: int) -> None:
        with self._progress:
            self._highest = max(self._highest, number)
            self._progress.notify_all()

    @property
    def stored(self) -> dict[str, bytes]:
        """All that is stored but the backend's marker."""
        return {name: data for name, data in self.objects.items() if name != MARKER}

    def place(self, name: str, data: bytes) -> None:
        self.objects[name] = data
        if name.startswith(f"{META}manifests/"):
            self._proven.set()

    @property
    def location(self) -> str:
        return f"{self.name}://"

    @property
    def filesystem(self) -> Any:
        return None

    async def stat(self, name: str) -> ObjectStat | None:
        return ObjectStat(name, len(self.objects[name])) if name in self.objects else None

    async def read(self, name: str, start: int = 0, end: int | None = None, **_: object) -> bytes:
        if name not in self.objects:
            raise ObjectNotFoundError("no such key", backend=self.name, key=name)
        return self.objects[name][start:end]

    def writer(self, name: str, plan: WritePlan, on_progress: Callable[[int], None]) -> ObjectWriter:
        return MemoryWriter(self, name, plan, on_progress)

    async def list(self, prefix: str = "", start_after: str = "") -> AsyncIterator[ObjectStat]:
        for name in sorted(self.objects):
            if name.startswith(prefix) and name > start_after and (prefix or not name.startswith(META)):
                yield ObjectStat(name, len(self.objects[name]))

    async def remove(self, name: str) -> None:
        self.objects.pop(name, None)


class MemoryWriter(ObjectWriter):
    """Collects the parts' bytes, which is what a bucket does; the parts themselves are let go."""

    def __init__(self, store: MemoryStore, name: str, plan: WritePlan, moved: Callable[[int], None]) -> None:
        self._store, self._name, self._plan, self._moved = store, name, plan, moved
        self._pieces: dict[int, bytes] = {}
        self.can_reread = store.can_reread
        self.concurrency = store.workers

    async def write(self, part: Part) -> None:
        if not self._name.startswith(META) and part.number in self._store.gates:
            await self._store.gates[part.number].enter()
        self._pieces[part.number] = bytes(part.data)
        self._moved(len(part.data))
        if not self._name.startswith(META):
            self._store.wrote(part.number)

    async def commit(self, metadata: Mapping[str, str] | None = None) -> ObjectStat:  # noqa: ARG002
        if self._plan.create_only and self._name in self._store.objects:
            raise ConflictError("the name exists", backend=self._store.name)
        self._store.place(self._name, self._joined())
        return ObjectStat(self._name, len(self._store.objects[self._name]))

    async def abort(self) -> None:
        self._store.aborted += 1
        self._pieces.clear()

    async def reread(self, offset: int, length: int) -> bytes | None:
        data = self._joined()[offset : offset + length]
        return data if self.can_reread and data else None

    def _joined(self) -> bytes:
        return b"".join(self._pieces[number] for number in sorted(self._pieces))


def backend(store: ObjectStore) -> SingleBackend:
    """Return a store as a backend."""
    return SingleBackend(store, errors="raise")


class PartCount:
    """Stands in for the class `Part` where sources and the window make parts; knows the most alive at once."""

    def __init__(self) -> None:
        self.most = 0
        self._alive: dict[int, weakref.ref[Part]] = {}

    def __call__(self, number: int, offset: int, data: bytes, last: bool) -> Part:
        part = Part(number, offset, data, last)
        serial = id(part)
        self._alive[serial] = weakref.ref(part, lambda _: self._alive.pop(serial, None))
        self.most = max(self.most, len(self._alive))
        return part
