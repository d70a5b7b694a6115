"""The plans of all backends that have a retention, and the times that objects are judged by."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from datetime import datetime

from fsbackup.manifest import Manifest
from fsbackup.replication.walk import Listed
from fsbackup.retention import Decision, Plan, Retention

#: Seconds that a store's clock may be ahead of ours: beyond that S3 refuses us anyway (RequestTimeTooSkewed).
SKEW = 900.0


class Plans:
    """One plan for each backend whose rule lets anything go; the others want everything.

    Parameters
    ----------
    rules
        Each backend's retention, by name.
    now
        Epoch seconds. What is a little newer, by a store's clock or because it came since, counts as made now.
    """

    def __init__(self, rules: Mapping[str, Retention], now: float) -> None:
        self._plans = {name: Plan(rule, now) for name, rule in rules.items() if rule.lets_go}
        self._now = now
        self._started = time.monotonic()

    def __contains__(self, name: object) -> bool:
        return name in self._plans

    def __len__(self) -> int:
        return len(self._plans)

    def see(self, name: str, key: str, when: float | None) -> None:
        """Take note that a backend lists an object; nothing where it has no rule."""
        if name in self._plans:
            self._plans[name].see(key, self._at(when))

    def decide(self, name: str, key: str, when: float | None) -> Decision:
        """Return what a backend's rule says of an object that it lists."""
        if name not in self._plans:
            return Decision(key, True, "no rule of this backend lets anything go")
        return self._plans[name].decide(key, self._at(when))

    def wants(self, name: str, key: str, times: Iterable[float | None]) -> bool:
        """Tell whether a backend would keep an object, if it had it, by any of its known times."""
        plan = self._plans.get(name)
        if plan is None:
            return True
        known = [self._at(when) for when in times if when is not None]
        return not known or any(plan.wants(key, when) for when in known)

    def behind(self) -> str | None:
        """Return why the clock cannot be right, None when nothing that was seen speaks against it."""
        late = (plan for plan in self._plans.values() if plan.clock_is_behind)
        return next((plan.decide("", None).reason for plan in late), None)

    def _at(self, when: float | None) -> float | None:
        latest = self._now + (time.monotonic() - self._started) + SKEW
        return self._now if when is not None and self._now < when <= latest else when


def listed_at(listed: Listed | None) -> float | None:
    """Return when a replica got the manifest of an object that it has, by its listing."""
    return listed.record.modified if listed and listed.data and listed.record else None


def made_at(manifest: Manifest) -> float | None:
    """Return when a version was made, by its manifest; None when that cannot be read."""
    try:
        return datetime.fromisoformat(manifest.created_at).timestamp()
    except (TypeError, ValueError):
        return None
