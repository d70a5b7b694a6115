"""What each backend's retention rule says of an object: of a copy that it has, and of one that it lacks."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import aclosing

from fsbackup import clock
from fsbackup.engine.replicas import ReplicaSet
from fsbackup.replication.classify import CLOCK_SKEW, SOME_TIME, IsExpired
from fsbackup.replication.prune.report import BackendSeries, SeriesReport
from fsbackup.replication.walk import KeyEntry, ReplicaEntry, Unreachable, Walk
from fsbackup.retention import Decision, Plan, Retention


class Clock:
    """The time of a run, and whether the listed objects contradict it.

    Parameters
    ----------
    now
        Epoch seconds; the current time by default.
    """

    def __init__(self, now: float | None = None) -> None:
        self.now = clock.now() if now is None else now
        self._started = time.monotonic()
        self._max_lead, self._newest_key = 0.0, ""

    def observe(self, key: str, when: float | None) -> None:
        """Compare the clock with the time at which an object was stored."""
        latest = self.now + time.monotonic() - self._started + CLOCK_SKEW
        if when is not None and when - latest > self._max_lead:
            self._max_lead, self._newest_key = when - latest, key

    @property
    def error(self) -> str | None:
        """Why the clock must be wrong, None while no object contradicts it."""
        if not self._newest_key:
            return None
        return f"this machine's clock is behind its newest object ({self._newest_key!r})"

    def clamp(self, when: float | None) -> float | None:
        """Return `when`, but not later than now: an object may be stored during the run, or by a clock ahead."""
        return when if when is None else min(when, self.now)


class Plans:
    """The retention rules of all backends, applied to the listed objects.

    Parameters
    ----------
    rules
        Each backend's retention, by name; a backend without one keeps everything.
    clock
        The time of the run.
    """

    def __init__(self, rules: Mapping[str, Retention], clock: Clock) -> None:
        self._clock = clock
        #: Per backend: its rule over the objects that the backend lists.
        self._listed = {name: Plan(rule, clock.now) for name, rule in rules.items() if rule.deletes}
        by_rule = {rule: Plan(rule, clock.now) for rule in rules.values() if rule.deletes}
        #: Per backend: its rule over the objects that any replica has; equal rules share a plan.
        self._complete = {name: by_rule[rules[name]] for name in self._listed}
        self._distinct = tuple(by_rule.values())

    def __contains__(self, name: object) -> bool:
        return name in self._listed

    def __len__(self) -> int:
        return len(self._listed)

    def add(self, entry: KeyEntry, *, per_backend: bool = True) -> None:
        """Add a listed object; without `per_backend` only `expects` can be called afterwards.

        An object that no replica lists with both data and record is not added: nothing shows that it should count
        among the newest of a series.
        """
        holders = [name for name, listed in entry.replicas.items() if listed_at(listed) is not None]
        if not holders:
            return
        when = entry.stored_at
        self._clock.observe(entry.key, when)
        when = self._clock.clamp(when)
        for name in holders:
            if per_backend and name in self._listed:
                self._listed[name].see(entry.key, when)
        for plan in self._distinct:
            plan.see(entry.key, when)

    def decide(self, name: str, key: str, when: float | None) -> Decision:
        """Return what a backend's rule says of an object that it lists, among all that it lists."""
        if name not in self._listed:
            return Decision(key, True, "no rule of this backend deletes anything")
        return self._listed[name].decide(key, self._clock.clamp(when))

    def series_of(self, name: str, key: str) -> str | None:
        """Return the name of a key's series by a backend's rule, None without one."""
        return self._listed[name].series_of(key) if name in self._listed else None

    def series(self, stopped: Mapping[str, str]) -> SeriesReport:
        """Return the series of each backend; `stopped` says where nothing is deleted, and why."""
        return SeriesReport(
            {
                name: BackendSeries(tuple(plan.summaries()), plan.without_series)
                for name, plan in self._listed.items()
            },
            dict(stopped),
        )

    def keeps(self, name: str, key: str, times: Iterable[float | None]) -> bool:
        """Tell whether a backend's rule keeps an object that it has, by any of its known times."""
        return name not in self._listed or self._any_keeps(self._listed[name], key, times, None)

    def expects(self, name: str, key: str, times: Iterable[float | None], added_as: float | None = None) -> bool:
        """Tell whether a backend should have an object that it lacks, by any of the object's known times.

        `added_as` is the time with which the object was added, if it was.

        The rule is applied as if the backend had everything that any replica has: a disk that lost all its objects
        lacks those which its rule keeps, not the years of objects that it once deleted. Never true for an object
        that `keeps` would not keep.
        """
        if name not in self._complete:
            return True
        return self._any_keeps(self._complete[name], key, times, self._clock.clamp(added_as))

    def may_let_go(self, name: str, key: str) -> bool:
        """Tell whether a backend's rule would delete an object if it had some other time than is known."""
        return name in self._complete and self._complete[name].may_delete(key)

    def _any_keeps(self, plan: Plan, key: str, times: Iterable[float | None], added_as: float | None) -> bool:
        known = [self._clock.clamp(when) for when in times if when is not None]
        return not known or any(plan.wants(key, when, instead_of=added_as) for when in known)


def listed_at(listed: ReplicaEntry | None) -> float | None:
    """Return when a replica got the manifest of an object that it has, by its listing."""
    return listed.recorded_at if listed and listed.data else None


async def find_expired(
    targets: ReplicaSet,
    rules: Mapping[str, Retention],
    now: float | None = None,
    unreachable: Unreachable | None = None,
) -> tuple[IsExpired | None, Unreachable]:
    """List the whole set, and return what tells a copy that retention deleted from a missing one.

    The function is None when no backend has a retention. The second value is why replicas could not be listed, by
    name: callers need not wait for them again. A replica that cannot be listed, or a clock that is behind, makes
    fewer copies expire.

    Parameters
    ----------
    targets, rules
        The set, and each backend's retention by name.
    now
        Epoch seconds; the current time by default.
    unreachable
        Replicas not to ask, by name, and why.

    Raises
    ------
    NoHealthyReplicaError
        When no replica can be listed.
    """
    plans = Plans(rules, Clock(now))
    if not plans:
        return None, {}
    walk = Walk(targets.stores, "", unreachable=unreachable)
    async with aclosing(walk.keys()) as keys:
        async for entry in keys:
            plans.add(entry, per_backend=False)

    def is_expired(backend: str, key: str, when: float | None) -> bool:
        if when == SOME_TIME:
            return plans.may_let_go(backend, key)
        return not plans.expects(backend, key, [when])

    return is_expired, walk.errors
