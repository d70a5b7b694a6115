"""Decides whether a copy that a backend's rule no longer keeps may be deleted. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from fsbackup.engine import records, versions
from fsbackup.engine.records import ReplicaState
from fsbackup.record import Manifest, Tombstone
from fsbackup.replication.classify import when_stored
from fsbackup.replication.prune.plans import Plans, listed_at
from fsbackup.replication.walk import KeyEntry


@dataclass(frozen=True, slots=True)
class CopyDecision:
    """What to do with one copy, and why: ``"delete"``, ``"gone"`` (nothing is there), or why it stays."""

    outcome: Literal["delete", "kept", "blocked", "failed", "gone"]
    reason: str


@dataclass(frozen=True, slots=True)
class ObjectFacts:
    """What is known of one object.

    Parameters
    ----------
    entry
        What the replicas list of it.
    when
        Its time by the listings, by which the rule was applied.
    replicas
        What each replica has, asked just now, by name.
    stopped
        Backends that could not be listed completely, by name, and why.
    min_copies
        How many copies confirm a version.
    """

    entry: KeyEntry
    when: float | None
    replicas: Mapping[str, ReplicaState]
    stopped: Mapping[str, str]
    min_copies: int = 1

    def is_listed_on(self, name: str) -> bool:
        """Tell whether a backend lists it."""
        listed = self.entry.replicas[name]
        return listed is not None and listed.data is not None

    def known_times(self, name: str) -> list[float | None]:
        """Return every time by which the rule of a backend that has it may keep it."""
        listed = self.entry.replicas[name]
        here = listed.recorded_at if listed else None
        manifests = [replica.manifest for replica in self.replicas.values()]
        return [self.when, here, *(manifest.created_timestamp for manifest in manifests if manifest is not None)]

    def times_without(self, name: str, latest: Manifest) -> list[float | None]:
        """Return the times by which it may be judged once its copy on the backend `name` is deleted."""
        listed = [listed_at(each) for other, each in self.entry.replicas.items() if other != name]
        return [when_stored(when, latest.created_timestamp) for when in [self.when, *listed]]


def decide(name: str, facts: ObjectFacts, plans: Plans) -> CopyDecision:
    """Return what to do with the copy on backend `name`, which its rule no longer keeps by the listings."""
    own, replicas = facts.replicas[name], list(facts.replicas.values())
    latest = versions.newest(replicas, facts.min_copies)
    if newer := records.refusal(replicas, "prune"):
        return CopyDecision("blocked", f"{newer.backend}: {newer.reason}")
    if own.error is not None:
        return CopyDecision("failed", str(own.error))
    if own.stat is None and own.record is None and not own.damaged:
        return CopyDecision("gone", "another process deleted it")
    if isinstance(latest, Tombstone):
        return CopyDecision("blocked", f"the object was deleted on {latest.deleted_at}: run `fsbackup repair`")
    if versions.is_conflict(replicas, latest):
        return CopyDecision("blocked", "two contents under one generation: run `fsbackup repair`")
    if own.manifest is None or latest is None:
        what = "its manifest is damaged" if own.damaged and not own.lacks_record else "its manifest is gone"
        return CopyDecision("blocked", f"{what}: run `fsbackup repair`")
    if own.stat is not None and not own.is_intact:
        return CopyDecision("blocked", "its data does not match its manifest: run `fsbackup repair`")
    return _decide_by_dates(name, facts, plans, own.manifest, latest) or _decide_by_others(
        name, facts, plans, latest
    )


def _decide_by_dates(
    name: str, facts: ObjectFacts, plans: Plans, own: Manifest, latest: Manifest
) -> CopyDecision | None:
    key = facts.entry.key
    later = facts.times_without(name, latest)
    if plans.keeps(name, key, facts.known_times(name)) or plans.expects(name, key, later, facts.when):
        return CopyDecision(
            "kept", f"it was made on {own.created_at} or stored here later: by that date its rule keeps it"
        )
    return None


def _decide_by_others(name: str, facts: ObjectFacts, plans: Plans, latest: Manifest) -> CopyDecision:
    """Delete when enough of the other backends that should have the object prove the newest version.

    Enough are `min_copies`, or all that should have it where these are fewer.
    """
    keepers = [
        other for other in facts.replicas if other != name and _should_have(other, name, facts, plans, latest)
    ]
    unproven = [
        other for other, replica in facts.replicas.items() if replica.stat is not None and not replica.is_intact
    ]
    if not keepers and unproven:
        why = f"only this copy can prove or repair the one on {' and '.join(unproven)}: run `fsbackup repair`"
        return CopyDecision("blocked", why)
    if not keepers:
        return CopyDecision("delete", "no other backend's rule keeps it")
    proven = [each for each in keepers if each not in facts.stopped and facts.replicas[each].holds(latest)]
    if len(proven) >= min(facts.min_copies, len(keepers)):
        return CopyDecision("delete", f"proven on {' and '.join(proven)}")
    holders = [each for each, replica in facts.replicas.items() if replica.holds(latest)]
    what = "it is the last proven copy" if holders == [name] else "too few backends that should have it prove it"
    why = "; ".join(_describe_lack(each, facts, latest) for each in keepers if each not in proven)
    return CopyDecision("blocked", f"{what}: {why}: run `fsbackup verify` and `repair`")


def _should_have(other: str, name: str, facts: ObjectFacts, plans: Plans, latest: Manifest) -> bool:
    """Tell whether backend `other` should have the object once `name` has deleted it; true where unknown."""
    if other in facts.stopped:
        return True
    if facts.is_listed_on(other):
        return plans.keeps(other, facts.entry.key, facts.known_times(other))
    return plans.expects(other, facts.entry.key, facts.times_without(name, latest), facts.when)


def _describe_lack(name: str, facts: ObjectFacts, latest: Manifest) -> str:
    replica = facts.replicas[name]
    if name in facts.stopped:
        return f"{name} should have it, but {facts.stopped[name]}"
    if replica.error is not None:
        return f"{name} should have it, but did not answer: {replica.error}"
    if replica.stat is None:
        return f"{name} should have it, but has no copy"
    stale = replica.manifest is not None and replica.manifest.generation < latest.generation
    what = "an older version" if stale else "a copy that does not match its manifest"
    return f"{name} should have it, but has {what}"
