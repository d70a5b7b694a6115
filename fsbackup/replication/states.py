"""What each replica has of an object, judged from what all of them say. Pure decisions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from fsbackup.manifest import Manifest, Record, Tombstone
from fsbackup.transfer import versions
from fsbackup.transfer.records import Finding

ReplicaState = Literal[
    "present",  # the newest version, as far as was looked
    "missing",  # nothing, though another replica has it
    "stale",  # an older version: it slept through a replacement
    "conflict",  # one of two contents under one generation, which only a person decides between
    "size differs",  # data of another size than its manifest says
    "damaged",  # data that is not what its manifest says, or a manifest that cannot be believed
    "no manifest",  # data that nothing proves
    "deleted elsewhere",  # data of an object that was deleted: it slept through the delete
    "expired",  # nothing, because its own retention let it go
    "unknown",  # it could not be asked
]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is known of one key.

    Parameters
    ----------
    key
        The object.
    top
        The record of its newest version, None when no replica has a record.
    states
        What each replica has, by backend name.
    """

    key: str
    top: Record | None
    states: Mapping[str, ReplicaState]

    @property
    def manifest(self) -> Manifest | None:
        """The newest version's manifest; None when there is none, or it was deleted."""
        return self.top if isinstance(self.top, Manifest) else None


def judge(key: str, findings: Sequence[Finding]) -> Verdict:
    """Return what the replicas have of `key`, from their records and metadata."""
    known = [finding.record for finding in findings]
    top = versions.newest(known)
    disputed = versions.contradicts(known, top)
    return Verdict(key, top, {each.store.name: _state(each, top, disputed=disputed) for each in findings})


def _state(finding: Finding, top: Record | None, *, disputed: bool) -> ReplicaState:
    own = finding.manifest
    if finding.error is not None:
        return "unknown"
    if finding.stat is None:
        return "missing"
    if isinstance(top, Tombstone):
        return "deleted elsewhere"
    if finding.damaged:
        return "damaged"
    if own is None or top is None:
        return "no manifest"
    if own.generation < top.generation:
        return "stale"
    if disputed:
        return "conflict"
    if finding.stat.size != own.size:
        return "size differs"
    return "present" if finding.holds(own) else "damaged"
