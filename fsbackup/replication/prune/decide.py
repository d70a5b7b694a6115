"""Whether the copy that a backend's rule lets go may really go. Pure decisions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from fsbackup.engine import versions
from fsbackup.engine.records import ReplicaState
from fsbackup.record import Manifest, Tombstone
from fsbackup.replication.classify import when_stored
from fsbackup.replication.prune.plans import Plans, listed_at
from fsbackup.replication.walk import KeyEntry


@dataclass(frozen=True, slots=True)
class CopyDecision:
    """What to do with one copy, and why: ``"go"``, ``"gone"`` (nothing is left), or the outcome of leaving it."""

    outcome: Literal["go", "kept", "held", "failed", "gone"]
    reason: str


@dataclass(frozen=True, slots=True)
class ObjectFacts:
    """What is known of one object.

    Parameters
    ----------
    seen
        What the replicas list of it.
    when
        Its time by the listings, by which it was decided.
    findings
        What each replica said when it was asked, by name.
    stopped
        Backends that are not completely known, by name.
    """

    seen: KeyEntry
    when: float | None
    findings: Mapping[str, ReplicaState]
    stopped: Mapping[str, str]

    def lists(self, name: str) -> bool:
        """Tell whether a backend lists it."""
        listed = self.seen.replicas[name]
        return listed is not None and listed.data is not None

    def known(self, name: str) -> list[float | None]:
        """Return every time by which the rule of a backend that has it may keep it."""
        listed = self.seen.replicas[name]
        here = listed.record.modified if listed and listed.record else None
        manifests = [finding.manifest for finding in self.findings.values()]
        return [self.when, here, *(manifest.created_timestamp for manifest in manifests if manifest is not None)]

    def afterwards(self, name: str, top: Manifest) -> list[float | None]:
        """Return the times by which it may be judged once the backend `name` has let it go."""
        listed = [listed_at(each) for other, each in self.seen.replicas.items() if other != name]
        return [when_stored(when, top.created_timestamp) for when in [self.when, *listed]]


def decide(name: str, case: ObjectFacts, plans: Plans) -> CopyDecision:
    """Return whether the copy on the backend `name`, which its rule lets go by the listings, may go."""
    own, known = case.findings[name], [finding.record for finding in case.findings.values()]
    top = versions.newest(known)
    if own.error is not None:
        return CopyDecision("failed", str(own.error))
    if own.stat is None and own.record is None and not own.damaged:
        return CopyDecision("gone", "somebody else removed it")
    if isinstance(top, Tombstone):
        return CopyDecision("held", f"it was deleted on {top.deleted_at}: `fsbackup repair` finishes that")
    if versions.is_conflict(known, top):
        return CopyDecision("held", "there are two contents under one generation, and only a person can decide")
    if own.manifest is None or top is None:
        what = "its manifest is damaged" if own.damaged else "it has no manifest any more"
        return CopyDecision("held", f"{what}: run `fsbackup repair`")
    if own.stat is not None and not own.is_intact:
        return CopyDecision("held", "its data is not what its manifest says: run `fsbackup repair`")
    return _by_its_dates(name, case, plans, own.manifest, top) or _by_the_others(name, case, plans, top)


def _by_its_dates(name: str, case: ObjectFacts, plans: Plans, own: Manifest, top: Manifest) -> CopyDecision | None:
    key = case.seen.key
    if own.created_timestamp is None:
        return CopyDecision("kept", f"the date in its manifest cannot be read ({own.created_at!r})")
    if plans.keeps(name, key, case.known(name)) or plans.misses(name, key, case.afterwards(name, top), case.when):
        return CopyDecision(
            "kept", f"it was made on {own.created_at} or put here later, by which its rule keeps it"
        )
    return None


def _by_the_others(name: str, case: ObjectFacts, plans: Plans, top: Manifest) -> CopyDecision:
    """Let it go when nobody else wants it, or one who does has proof of the newest version."""
    wanting = [each for each in case.findings if each != name and _wants(each, name, case, plans, top)]
    unproven = [
        each for each, finding in case.findings.items() if finding.stat is not None and not finding.is_intact
    ]
    if not wanting and unproven:
        why = f"without it nothing proves or mends what {' and '.join(unproven)} has: run `fsbackup repair`"
        return CopyDecision("held", why)
    if not wanting:
        return CopyDecision("go", "no other backend's rule keeps it")
    proven = [each for each in wanting if each not in case.stopped and case.findings[each].holds(top)]
    if proven:
        return CopyDecision("go", f"proven on {' and '.join(proven)}")
    holders = [each for each, finding in case.findings.items() if finding.holds(top)]
    first = "it is the only proven copy left" if holders == [name] else "it is not proven where it should be"
    why = "; ".join(_lack(each, case, top) for each in wanting)
    return CopyDecision("held", f"{first}: {why}: run `fsbackup verify` and `repair`")


def _wants(each: str, name: str, case: ObjectFacts, plans: Plans, top: Manifest) -> bool:
    """Tell whether the backend `each` should have it once `name` has let it go; one not known might."""
    if each in case.stopped:
        return True
    if case.lists(each):
        return plans.keeps(each, case.seen.key, case.known(each))
    return plans.misses(each, case.seen.key, case.afterwards(name, top), case.when)


def _lack(name: str, case: ObjectFacts, top: Manifest) -> str:
    finding = case.findings[name]
    if name in case.stopped:
        return f"{name} should have it, but {case.stopped[name]}"
    if finding.error is not None:
        return f"{name} should have it, but cannot be asked: {finding.error}"
    if finding.stat is None:
        return f"{name} should have it, and has not"
    stale = finding.manifest is not None and finding.manifest.generation < top.generation
    what = "an older version" if stale else "a copy that its manifest does not fit"
    return f"{name} should have it, and has {what}"
