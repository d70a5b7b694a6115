"""Circuit breaker: work on many objects waits for an unreachable store once, not once per object."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime

from fsbackup.engine import records
from fsbackup.engine.records import ReplicaState
from fsbackup.errors import BackendUnavailableError, FsbackupError, TransientError
from fsbackup.stores.base import ObjectStore

#: How long a circuit stays open: this multiple of the seconds that the failed call took, and at least this many
#: seconds.
COOL_DOWN_FACTOR, COOL_DOWN = 4.0, 30.0
#: Transient failures in a row, each after all retries of the store, that open the circuit.
MAX_FAILURES = 3


@dataclass(slots=True)
class _Circuit:
    """Failures in a row of one store. The circuit is open while `error` is set, until monotonic time `until`."""

    failures: int = 0
    until: float = 0.0
    pause: float = 0.0
    error: FsbackupError | None = None
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Outage:
    """Since when a store does not answer (UTC), and its last error."""

    since: datetime
    error: FsbackupError


class CircuitBreaker:
    """Which stores of one operation are unreachable, by name.

    A store with an open circuit is not called. When its pause is over, one caller tries it, and the others go on
    without it until that call has ended: a store that never answers delays only that one.
    """

    def __init__(self) -> None:
        self._circuits: dict[str, _Circuit] = {}

    def __bool__(self) -> bool:
        """Return whether any circuit is open."""
        return any(circuit.error for circuit in self._circuits.values())

    def reason(self, store: ObjectStore) -> FsbackupError | None:
        """Return the error because of which `store` must not be called now.

        None means that the caller calls it, and passes the result to `record`.
        """
        circuit = self._circuits.get(store.name)
        if circuit is None or circuit.error is None:
            return None
        if time.monotonic() < circuit.until:
            return circuit.error
        circuit.until = time.monotonic() + max(circuit.pause, store.hard_timeout)
        return None

    def record(self, name: str, error: FsbackupError | None, seconds: float = 0.0) -> None:
        """Record the result of a call: its error, None on success, and its seconds."""
        if not isinstance(error, TransientError):
            self._circuits.pop(name, None)
            return
        circuit = self._circuits.setdefault(name, _Circuit())
        circuit.failures += 1
        if isinstance(error, BackendUnavailableError) or circuit.failures >= MAX_FAILURES:
            self.trip(name, error, seconds)

    def trip(self, name: str, error: FsbackupError, seconds: float = 0.0) -> None:
        """Open the circuit of a store, whatever the error; `seconds` is how long the failed call took."""
        pause = max(COOL_DOWN, COOL_DOWN_FACTOR * seconds)
        before = self._circuits.get(name)
        since = before.since if before is not None and before.since else datetime.now(UTC)
        # What it says of the store holds for every key that is asked for next, not only for the one of that call.
        known = error if error.key is None else error.of(None, None)
        self._circuits[name] = _Circuit(MAX_FAILURES, time.monotonic() + pause, pause, known, since)

    def outage(self, name: str) -> Outage | None:
        """Return since when and why a store is not called, None when it is."""
        circuit = self._circuits.get(name)
        if circuit is None or circuit.error is None or circuit.since is None:
            return None
        return Outage(circuit.since, circuit.error)

    async def query(self, store: ObjectStore, key: str, *, with_data: bool = True) -> ReplicaState:
        """As `records.query`, without calling a store whose circuit is open."""
        error = self.reason(store)
        if error is not None:
            return ReplicaState(store, error=error)
        return await self.query_and_record(store, key, with_data=with_data)

    async def query_and_record(self, store: ObjectStore, key: str, *, with_data: bool = True) -> ReplicaState:
        """As `records.query`, and record the result. For a caller that has checked `reason` already."""
        started = time.monotonic()
        try:
            replica = await records.query(store, key, with_data=with_data)
        except asyncio.CancelledError:  # `survey_without_stragglers` cancels stragglers
            self.record(store.name, records.straggler_error(store, key), time.monotonic() - started)
            raise
        self.record(store.name, replica.error, time.monotonic() - started)
        return replica
