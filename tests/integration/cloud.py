"""A cloud in memory for a configuration's r2 and b2, at any time, and away when a test says so."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from fsbackup import clock
from fsbackup.backends import SingleBackend
from fsbackup.errors import BackendUnavailableError
from fsbackup.stores.base import ObjectStat, ObjectWriter, WritePlan
from tests.replication.memory import META, MemoryStore
from tests.replication.raw_replicas import manifest_name, proves

#: What was looked at already, by key: the data and the manifest.
LookedAt = dict[str, tuple[bytes | None, bytes | None]]


def assert_proven(key: str, data: bytes | None, manifest: bytes | None, looked_at: LookedAt) -> None:
    """Check that a manifest proves its data, unless the same was looked at before."""
    if looked_at.get(key) != (data, manifest):
        assert data is not None, key
        assert manifest is not None, key
        assert proves(json.loads(manifest), data), key
        looked_at[key] = (data, manifest)


class Cloud(MemoryStore):
    """Objects in memory, each as old as the clock said when it was stored."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.is_away = False
        self._times: dict[str, float] = {}
        self._looked_at: LookedAt = {}

    def open(self, **_: Any) -> SingleBackend:
        """Return it as a backend, whatever the settings are."""
        return SingleBackend(self, errors="raise")

    def place(self, name: str, data: bytes) -> None:
        super().place(name, data)
        self._times[name] = clock.now()

    def _answer(self) -> None:
        if self.is_away:
            raise BackendUnavailableError("the cloud is away", backend=self.name)

    def _stat(self, name: str) -> ObjectStat:
        return ObjectStat(name, len(self.objects[name]), self._times[name])

    async def stat(self, name: str) -> ObjectStat | None:
        self._answer()
        return self._stat(name) if name in self.objects else None

    async def read(self, name: str, start: int = 0, end: int | None = None, **options: object) -> bytes:
        self._answer()
        return await super().read(name, start, end, **options)

    def writer(self, name: str, plan: WritePlan, on_progress: Callable[[int], None]) -> ObjectWriter:
        self._answer()
        return super().writer(name, plan, on_progress)

    async def list(self, prefix: str = "", start_after: str = "") -> AsyncIterator[ObjectStat]:
        self._answer()
        async for each in super().list(prefix, start_after):
            yield self._stat(each.name)

    async def remove(self, name: str) -> None:
        self._answer()
        await super().remove(name)

    def content(self) -> dict[str, bytes]:
        """Return what is there, each object proven by its manifest; looked at without the library."""
        found = {key: data for key, data in self.objects.items() if not key.startswith(META)}
        for key, data in found.items():
            assert_proven(key, data, self.objects.get(manifest_name(key)), self._looked_at)
        return found
