"""What each backend's retention says of an object: of one that it has, and of one that it lacks."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from fsbackup.replication.classify import CLOCK_SKEW
from fsbackup.replication.walk import KeyEntry, ReplicaEntry
from fsbackup.retention import Decision, Plan, Retention


class Clock:
    """The time of a run, and whether what was seen speaks against it.

    Parameters
    ----------
    now
        Epoch seconds; the current time by default.
    """

    def __init__(self, now: float | None = None) -> None:
        self.now = time.time() if now is None else now
        self._started = time.monotonic()
        self._ahead, self._newest = 0.0, ""

    def see(self, key: str, when: float | None) -> None:
        """Take note of when an object was stored."""
        latest = self.now + time.monotonic() - self._started + CLOCK_SKEW
        if when is not None and when - latest > self._ahead:
            self._ahead, self._newest = when - latest, key

    @property
    def wrong(self) -> str | None:
        """Why the clock cannot be right, None while nothing speaks against it."""
        return f"this machine's clock is behind its newest object ({self._newest!r})" if self._newest else None

    def at(self, when: float | None) -> float | None:
        """Return `when`, or now for what is newer: it came since, or a store's clock is a little ahead."""
        return when if when is None else min(when, self.now)


class Plans:
    """What each backend's rule says of the objects, by their times: one plan for every rule that lets anything go.

    Parameters
    ----------
    rules
        Each backend's retention, by name; one without keeps everything.
    clock
        The time of the run.
    """

    def __init__(self, rules: Mapping[str, Retention], clock: Clock) -> None:
        self._clock = clock
        self._own = {name: Plan(rule, clock.now) for name, rule in rules.items() if rule.deletes}
        alike = {rule: Plan(rule, clock.now) for rule in rules.values() if rule.deletes}
        self._whole = {name: alike[rules[name]] for name in self._own}
        self._alike = tuple(alike.values())

    def __contains__(self, name: object) -> bool:
        return name in self._own

    def __len__(self) -> int:
        return len(self._own)

    def see(self, seen: KeyEntry, *, own: bool = True) -> None:
        """Take note of an object that is listed; without `own` only for `misses`.

        Where no replica has both the data and a record, nothing says that it is worth a place in a floor.
        """
        having = [name for name, listed in seen.replicas.items() if listed_at(listed) is not None]
        if not having:
            return
        when = seen.stored_at
        self._clock.see(seen.key, when)
        when = self._clock.at(when)
        for name in having:
            if own and name in self._own:
                self._own[name].see(seen.key, when)
        for plan in self._alike:
            plan.see(seen.key, when)

    def decide(self, name: str, key: str, when: float | None) -> Decision:
        """Return what a backend's rule says of an object that it lists, among all that it lists."""
        if name not in self._own:
            return Decision(key, True, "no rule of this backend lets anything go")
        return self._own[name].decide(key, self._clock.at(when))

    def keeps(self, name: str, key: str, times: Iterable[float | None]) -> bool:
        """Tell whether a backend's rule keeps an object that it has, by any of its known times."""
        return name not in self._own or self._any(self._own[name], key, times, None)

    def misses(self, name: str, key: str, times: Iterable[float | None], seen: float | None = None) -> bool:
        """Tell whether a backend should have an object that it lacks, by any of its known times.

        `seen` is the time that it was seen with, if it was.

        Its rule is asked as if it had everything that any replica has: a disk that lost it all lacks what its
        rule keeps of that, not years of what it once let go. It never asks for more than what `keeps` keeps.
        """
        return name not in self._whole or self._any(self._whole[name], key, times, self._clock.at(seen))

    def _any(self, plan: Plan, key: str, times: Iterable[float | None], seen: float | None) -> bool:
        known = [self._clock.at(when) for when in times if when is not None]
        return not known or any(plan.wants(key, when, instead_of=seen) for when in known)


def listed_at(listed: ReplicaEntry | None) -> float | None:
    """Return when a replica got the manifest of an object that it has, by its listing."""
    return listed.record.modified if listed and listed.data and listed.record else None
