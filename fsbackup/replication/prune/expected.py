"""What each backend should hold by its own retention: the answer to "is it missing there, or expired?"."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import aclosing

from fsbackup.replication.compare import stored
from fsbackup.replication.prune.plans import Plans, listed_at
from fsbackup.replication.states import Expired
from fsbackup.replication.walk import Away, Walk
from fsbackup.retention import Retention
from fsbackup.transfer.replicas import ReplicaSet


async def expected(
    targets: ReplicaSet, rules: Mapping[str, Retention], now: float | None = None
) -> tuple[Expired | None, Away]:
    """Return what tells whether a backend's retention let a key go (None when no backend has one).

    And, by name, why replicas could not be listed for that: nobody has to wait for them a second time.

    It costs a walk over the whole set. A backend's rule is asked as if the backend had everything that any replica
    has: a disk that lost it all lacks what its rule keeps of that, not years of what it once let go. (What may be
    removed from a backend is decided by its own listing alone, which never lets go more than this.)

    Parameters
    ----------
    targets, rules
        The set, and each backend's retention by name.
    now
        Epoch seconds; the current time by default.

    Raises
    ------
    NoHealthyReplicaError
        When no replica can be listed.
    """
    plans = Plans(rules, time.time() if now is None else now)
    if not plans:
        return None, {}
    walk = Walk(targets.stores, "")
    async with aclosing(walk.keys()) as keys:
        async for seen in keys:
            # Where no replica has both the data and a record, nothing says that it is worth a place in the floor.
            if any(listed_at(each) is not None for each in seen.replicas.values()):
                for name in rules:
                    plans.see(name, seen.key, stored(seen))

    def expired(backend: str, key: str, when: float | None) -> bool:
        return backend in plans and not plans.wants(backend, key, [when])

    return expired, walk.errors
