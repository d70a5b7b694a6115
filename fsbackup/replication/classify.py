"""What each replica has of an object, judged from what all of them say. Pure decisions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from fsbackup.engine import versions
from fsbackup.engine.records import ReplicaState
from fsbackup.errors import FsbackupError
from fsbackup.record import Manifest, Record, Tombstone

#: Seconds that an upload's end and the clocks of two machines may be apart: beyond that S3 refuses us anyway.
CLOCK_SKEW = 900.0

CopyState = Literal[
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
class ObjectStatus:
    """What is known of one key.

    Parameters
    ----------
    key
        The object.
    top
        The record of its newest version, None when no replica has a record.
    states
        What each replica has, by backend name.
    findings
        What each replica said, by backend name.
    details
        What is wrong with a replica, for people; no entry where there is nothing to say.
    bytes_read
        Bytes of data read to find out.
    """

    key: str
    latest: Record | None
    states: Mapping[str, CopyState]
    findings: Mapping[str, ReplicaState] = field(default_factory=dict)
    details: Mapping[str, str] = field(default_factory=dict)
    bytes_read: int = 0

    @property
    def manifest(self) -> Manifest | None:
        """The newest version's manifest; None when there is none, or it was deleted."""
        return self.latest if isinstance(self.latest, Manifest) else None

    @property
    def deleted(self) -> bool:
        """The newest that is known of it is that it was deleted."""
        return isinstance(self.latest, Tombstone)

    @property
    def copies(self) -> int:
        """How many replicas have the newest version."""
        return sum(state == "present" for state in self.states.values())


#: Whether a backend's own retention has let a key go: its name, the key, and when that was stored (epoch seconds).
IsExpired = Callable[[str, str, float | None], bool]
#: Finds that out by a walk over the set, without those that are known not to answer (by name, and why); None where
#: nothing is ever let go.
FindExpired = Callable[[Mapping[str, FsbackupError]], Awaitable[IsExpired | None]]


def classify(
    key: str, findings: Sequence[ReplicaState], expired: IsExpired | None = None, stored: float | None = None
) -> ObjectStatus:
    """Return what the replicas have of `key`, from their records and metadata.

    `expired` is asked about a replica that has nothing. `stored` is when the object was stored, by the listings
    (epoch seconds).
    """
    known = [finding.record for finding in findings]
    top = versions.newest(known)
    disputed = versions.is_conflict(known, top)
    when = when_stored(stored, top.created_timestamp if isinstance(top, Manifest) else None)
    states: dict[str, CopyState] = {}
    for each in findings:
        name, state = each.store.name, _state(each, top, disputed=disputed)
        asked = expired is not None and state == "missing" and not isinstance(top, Tombstone)
        states[name] = "expired" if asked and expired and expired(name, key, when) else state
    said = {each.store.name: _detail(each, states[each.store.name], top) for each in findings}
    details = {name: detail for name, detail in said.items() if detail}
    return ObjectStatus(key, top, states, {each.store.name: each for each in findings}, details)


def copies_needed(states: Sequence[CopyState], min_copies: int) -> int:
    """Return how many copies are to be there: one that retention let go is not asked for."""
    return min(min_copies, len(states) - states.count("expired"))


def when_stored(listed: float | None, made: float | None) -> float | None:
    """Return the time by which retention judges an object: by the listings, or else by its manifest.

    A copy that repair put back is listed as younger than the object, and a stale one as older. Within what lies
    between making an object and storing it the listings count, since all others of its series are known by them.
    """
    if listed is None or made is None:
        return made if listed is None else listed
    return listed if abs(listed - made) <= CLOCK_SKEW else made


def _state(finding: ReplicaState, top: Record | None, *, disputed: bool) -> CopyState:
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


def _detail(finding: ReplicaState, state: CopyState, top: Record | None) -> str:
    """Return what is wrong, in words."""
    own, stat = finding.manifest, finding.stat
    if state == "unknown":
        return str(finding.error)
    if state == "missing":
        return "its manifest is there, its data is not" if own is not None else ""
    if isinstance(top, Tombstone):
        return f"deleted on {top.deleted_at}, its data is still there"
    if state == "no manifest":
        return "its manifest is gone" if top is not None else "nothing proves it"
    if finding.damaged:
        return "its manifest is damaged or another object's"
    if own is None or stat is None or top is None or state == "present":
        return ""
    if state == "stale":
        return f"generation {own.generation}, the newest is {top.generation}"
    if state == "conflict":
        return f"generation {own.generation} has other content elsewhere (sha256 here: {own.sha256})"
    if state == "size differs":
        return f"{stat.size:,} bytes, its manifest says {own.size:,}"
    return f"written or touched since it was stored: its ETag is {stat.etag}, not {own.etag}"
