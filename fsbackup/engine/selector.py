"""Whose turn it is: the replica that is likely to have a short read soonest, by how the last ones went."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from fsbackup.stores.base import ObjectStore

#: How much of what is known a new measurement leaves.
_SMOOTHING = 0.7
#: What a replica that was passed over is made faster by in mind, so that it is tried again some day.
_DECAY = 0.98


class ReplicaSelector:
    """Spreads short reads side by side over replicas of like speed; a much slower one only helps out."""

    def __init__(self) -> None:
        self._busy: Counter[str] = Counter()
        self._seconds: dict[str, float] = {}

    def pick(self, stores: Sequence[ObjectStore]) -> ObjectStore | None:
        """Return the one to ask first, of like ones the first in the list."""
        chosen = min(stores, key=lambda each: self._wait(each.name), default=None)
        for name in self._seconds:
            if chosen is not None and name != chosen.name:
                self._seconds[name] *= _DECAY
        return chosen

    @contextmanager
    def track(self, store: ObjectStore | None) -> Iterator[None]:
        """Count a read that `store` is the first to be asked for; when it ends well, learn from it."""
        name = "" if store is None else store.name
        started = time.monotonic()
        self._busy[name] += 1
        try:
            yield
            self._learn(name, time.monotonic() - started)
        finally:
            self._busy[name] -= 1

    def _wait(self, name: str) -> float:
        unknown = min(self._seconds.values(), default=1.0)
        return (self._busy[name] + 1) * self._seconds.get(name, unknown)

    def _learn(self, name: str, seconds: float) -> None:
        known = self._seconds.get(name, seconds)
        # Side by side with others of its own it took that much longer.
        self._seconds[name] = _SMOOTHING * known + (1 - _SMOOTHING) * seconds / self._busy[name]
