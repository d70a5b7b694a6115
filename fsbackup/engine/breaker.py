"""Which stores do not answer, so that work on many objects does not wait for them once per object."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from fsbackup.engine import records
from fsbackup.engine.records import ReplicaState
from fsbackup.errors import BackendUnavailableError, FsbackupError, TransientError
from fsbackup.stores.base import ObjectStore

#: For how long a store that does not answer is left alone: so many times what it cost to find out, and at least so
#: many seconds.
COOL_DOWN_FACTOR, COOL_DOWN = 4.0, 30.0
#: Failures of a busy service, each after all its tries and nothing good in between, that count as no answer.
MAX_FAILURES = 3


@dataclass(slots=True)
class _Circuit:
    """How one store fares: failures in a row, and until when it is left alone, and why."""

    failures: int = 0
    until: float = 0.0
    pause: float = 0.0
    error: FsbackupError | None = None


class CircuitBreaker:
    """What one operation has found out about its stores, by name.

    A store that is away is not asked until its pause is over. Then one asker finds out whether it is back, while
    all others still go on without it: a store that swallows every question never holds up more than that one.
    """

    def __init__(self) -> None:
        self._records: dict[str, _Circuit] = {}

    def __bool__(self) -> bool:
        """Tell whether any store is away."""
        return any(record.error for record in self._records.values())

    def reason(self, store: ObjectStore) -> FsbackupError | None:
        """Return why not to ask `store` now. None means to ask it, and to `note` how that went."""
        record = self._records.get(store.name)
        if record is None or record.error is None:
            return None
        if time.monotonic() < record.until:
            return record.error
        record.until = time.monotonic() + max(record.pause, store.hard_timeout)
        return None

    def record(self, name: str, error: FsbackupError | None, seconds: float = 0.0) -> None:
        """Note how a store answered, with the error if any, and after how many seconds."""
        if not isinstance(error, TransientError):
            self._records.pop(name, None)
            return
        record = self._records.setdefault(name, _Circuit())
        record.failures += 1
        if isinstance(error, BackendUnavailableError) or record.failures >= MAX_FAILURES:
            self.trip(name, error, seconds)

    def trip(self, name: str, error: FsbackupError, seconds: float = 0.0) -> None:
        """Leave a store alone for a while, whatever the error."""
        pause = max(COOL_DOWN, COOL_DOWN_FACTOR * seconds)
        self._records[name] = _Circuit(MAX_FAILURES, time.monotonic() + pause, pause, error)

    async def query(self, store: ObjectStore, key: str, *, with_data: bool = True) -> ReplicaState:
        """Ask a store what it knows of `key` (see `records.find`), unless it is away."""
        known = self.reason(store)
        if known is not None:
            return ReplicaState(store, error=known)
        return await self.ask(store, key, with_data=with_data)

    async def ask(self, store: ObjectStore, key: str, *, with_data: bool = True) -> ReplicaState:
        """Ask a store of which nothing is `known`, and note how that went."""
        started = time.monotonic()
        try:
            finding = await records.query(store, key, with_data=with_data)
        except asyncio.CancelledError:  # a reader had an answer from another one, and waited long enough for this
            self.record(store.name, records.straggler_error(store, key), time.monotonic() - started)
            raise
        self.record(store.name, finding.error, time.monotonic() - started)
        return finding
