"""What each backend should hold by its own retention: the answer to "is it missing there, or expired?"."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing

from fsbackup.engine.replicas import ReplicaSet
from fsbackup.replication.classify import IsExpired
from fsbackup.replication.prune.plans import Clock, Plans
from fsbackup.replication.walk import Unreachable, Walk
from fsbackup.retention import Retention


async def expected(
    targets: ReplicaSet, rules: Mapping[str, Retention], now: float | None = None, away: Unreachable | None = None
) -> tuple[IsExpired | None, Unreachable]:
    """Return what tells whether a backend's retention let a key go (None when no backend has one).

    And, by name, why replicas could not be listed for that: nobody has to wait for them a second time.

    It costs a walk over the whole set, whose series say what is left of them. What cannot be listed makes less
    expire. A clock that is behind does not stop it: it lets go nothing.

    Parameters
    ----------
    targets, rules
        The set, and each backend's retention by name.
    now
        Epoch seconds; the current time by default.
    away
        Replicas not to ask, by name, and why.

    Raises
    ------
    NoHealthyReplicaError
        When no replica can be listed.
    """
    plans = Plans(rules, Clock(now))
    if not plans:
        return None, {}
    walk = Walk(targets.stores, "", unreachable=away)
    async with aclosing(walk.keys()) as keys:
        async for seen in keys:
            plans.see(seen, own=False)
    return (lambda backend, key, when: not plans.misses(backend, key, [when])), walk.errors
