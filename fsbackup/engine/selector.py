"""Load balancing of short reads: which replica to ask first, by the latency of earlier reads."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from fsbackup.stores.base import ObjectStore

#: Weight of the previous estimate in the moving average of the latency.
_SMOOTHING = 0.7
#: Decay factor applied to the latency estimate of replicas that were not chosen, so that they are eventually
#: retried.
_DECAY = 0.98


class ReplicaSelector:
    """Spreads concurrent short reads over replicas of similar latency; a much slower one gets the overflow."""

    def __init__(self) -> None:
        self._in_flight: Counter[str] = Counter()
        self._latency: dict[str, float] = {}

    def pick(self, stores: Sequence[ObjectStore]) -> ObjectStore | None:
        """Return the store with the shortest expected wait, the first in the list among equals; None if empty."""
        chosen = min(stores, key=lambda store: self._expected_wait(store.name), default=None)
        for name in self._latency:
            if chosen is not None and name != chosen.name:
                self._latency[name] *= _DECAY
        return chosen

    @contextmanager
    def track(self, store: ObjectStore) -> Iterator[None]:
        """Count a read from `store` as in flight; measure its latency when it succeeds."""
        name, started = store.name, time.monotonic()
        self._in_flight[name] += 1
        try:
            yield
            self._measure(name, time.monotonic() - started)
        finally:
            self._in_flight[name] -= 1

    def observe(self, store: ObjectStore, seconds: float) -> None:
        """Note how long a short read took on a store that was not chosen for it."""
        previous = self._latency.get(store.name, seconds)
        self._latency[store.name] = _SMOOTHING * previous + (1 - _SMOOTHING) * seconds

    def _expected_wait(self, name: str) -> float:
        unknown = min(self._latency.values(), default=1.0)
        return (self._in_flight[name] + 1) * self._latency.get(name, unknown)

    def _measure(self, name: str, seconds: float) -> None:
        previous = self._latency.get(name, seconds)
        # Concurrent reads from one replica share its capacity: divided by their number, it is the latency of one.
        self._latency[name] = _SMOOTHING * previous + (1 - _SMOOTHING) * seconds / self._in_flight[name]
