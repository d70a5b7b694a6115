"""What each replica has of one object, and whether the object is complete. Pure decisions, no I/O.

`classify` compares the records and metadata of all replicas; `classify_listed` compares their listings, and
returns None where these do not suffice. Both return an `ObjectStatus`. `ls`, `stat`, `status`, `verify` and
`repair` share it, and it alone decides an object's status:

``"complete"``
    Every replica has the newest version, or its own retention deleted it.
``"failed"``
    The object is under-replicated: fewer copies than `ObjectStatus.needed` are proven. A copy that is stale,
    damaged, of another size or without a manifest proves nothing. A replica that does not answer, or has the
    record of a newer version of fsbackup, is given the benefit of the doubt and counts as a copy, unless no other
    replica proves one.
``"degraded"``
    Everything between: enough copies, but not on every replica.

A deleted object is never failed: it is degraded while a replica still has its data.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from fsbackup.engine import versions
from fsbackup.engine.records import CopyState, ReplicaState
from fsbackup.engine.results import BaseReport, Status
from fsbackup.errors import FsbackupError
from fsbackup.record import Manifest, Record, Tombstone
from fsbackup.replication.walk import KeyEntry, ReplicaEntry
from fsbackup.stores.base import ObjectStat, ObjectStore, PassedOver
from fsbackup.stores.names import has_strangers_name

#: Seconds that an upload's end and the clocks of two machines may be apart: beyond that S3 refuses our requests.
CLOCK_SKEW = 900.0
#: Asks an `IsExpired` whether the key may be deleted at all: with some time, which only its manifest tells. Older
#: than any backup, because a function of the caller's (`status(expired=...)`) takes it for a time.
SOME_TIME = 1.0
#: States in which a replica is as it should be.
HEALTHY: frozenset[CopyState] = frozenset({"present", "expired"})

#: Manifests of one version differ only in their replica's ETag and version id, which are shorter than this.
_ETAG_AND_VERSION = 256
#: Bytes of the smallest manifest besides its key: an empty object's has 388.
_SMALLEST_MANIFEST = 380
_MD5 = re.compile(r"[0-9a-f]{32}(-[1-9][0-9]*)?")

#: Whether a backend's own retention deleted a key: its name, the key, and when that was stored (epoch seconds).
IsExpired = Callable[[str, str, float | None], bool]
#: Returns an `IsExpired` from a walk over the set, without the replicas that do not answer (by name, and why);
#: None where no backend has a retention.
FindExpired = Callable[[Mapping[str, FsbackupError]], Awaitable[IsExpired | None]]


@dataclass(frozen=True, slots=True)
class ObjectStatus(BaseReport):
    """One object of a set: its newest version, and what each replica has of it.

    Parameters
    ----------
    key
        The object.
    latest
        The record of its newest version; None when no replica has one, or when none was read.
    replicas
        What each replica has, by backend name, in reading order.
    min_copies
        How many copies the set requires.
    modified
        When it was stored according to the listings (epoch seconds), None when not known.
    bytes_read
        Bytes of data read to find out.
    """

    key: str
    latest: Record | None
    replicas: Mapping[str, ReplicaState]
    min_copies: int
    modified: float | None = None
    bytes_read: int = 0

    @property
    def states(self) -> dict[str, CopyState]:
        """Each replica's state, by backend name."""
        return {name: replica.state for name, replica in self.replicas.items()}

    @property
    def manifest(self) -> Manifest | None:
        """The newest version's manifest; None when there is none, or the object was deleted."""
        return self.latest if isinstance(self.latest, Manifest) else None

    @property
    def size(self) -> int:
        """Bytes of the newest version, or of the first replica's data where no manifest was read."""
        if self.manifest is not None:
            return self.manifest.size
        return next((each.stat.size for each in self.replicas.values() if each.stat is not None), 0)

    @property
    def is_deleted(self) -> bool:
        """Whether the newest record is a tombstone."""
        return isinstance(self.latest, Tombstone)

    @property
    def is_gone(self) -> bool:
        """Whether there is no such object: no replica has data or a manifest, or retention deleted it on all."""
        if set(self.states.values()) == {"expired"}:
            return True
        return self.manifest is None and not any(
            each.stat or each.damaged or each.error for each in self.replicas.values()
        )

    @property
    def is_foreign(self) -> bool:
        """Whether it is no object, but what an operating system leaves everywhere: no replica has a record."""
        recorded = any(
            each.record or each.damaged or each.error or each.state == "present" for each in self.replicas.values()
        )
        return not recorded and has_strangers_name(self.key)

    @property
    def is_complete(self) -> bool:
        """Whether every replica has the newest version, or its retention deleted it.

        A deleted object is complete when no replica has it.
        """
        healthy = HEALTHY | {"missing"} if self.is_deleted else HEALTHY
        return healthy.issuperset(self.states.values())

    @property
    def copies(self) -> int:
        """How many replicas have the newest version."""
        return list(self.states.values()).count("present")

    @property
    def is_confirmed(self) -> bool:
        """Whether enough replicas answered that they have the newest version, or that it was deleted."""
        if self.latest is None:
            return False
        return versions.copies(self.replicas.values(), self.latest) >= self.needed

    @property
    def needed(self) -> int:
        """How many copies there must be: `min_copies`, or fewer where the retention of backends deleted theirs."""
        states = list(self.states.values())
        return min(self.min_copies, len(states) - states.count("expired"))

    @property
    def is_under_replicated(self) -> bool:
        """Whether too few replicas prove the object; see the module's docstring."""
        if self.is_complete or self.is_deleted or not self._is_known:
            return False
        states = list(self.states.values())
        unknown = states.count("unknown") + states.count("newer")
        return self.copies == 0 or self.copies + unknown < self.needed

    @property
    def status(self) -> Status:
        """``"complete"``, ``"degraded"`` or ``"failed"``; see the module's docstring."""
        if self.is_under_replicated:
            return "failed"
        return "complete" if self.is_complete else "degraded"

    @property
    def _is_known(self) -> bool:
        """Whether any replica shows that there is an object: it may be gone since it was listed."""
        return any(each.stat or each.record or each.damaged or each.is_newer for each in self.replicas.values())

    def pass_over(self, passed_over: Mapping[str, PassedOver]) -> None:
        """Count what is no object (`is_foreign`), by the backends that have it."""
        for name, replica in self.replicas.items():
            if replica.stat is not None:
                passed_over[name].add(self.key)

    def as_dict(self) -> dict[str, Any]:
        """Return all that is known of the object as plain JSON types."""
        known = self.manifest
        return {
            "key": self.key,
            "status": self.status,
            "size": self.size,
            "sha256": known.sha256 if known else None,
            "generation": known.generation if known else None,
            "replaces": known.replaces if known else None,
            "created_at": known.created_at if known else None,
            "source": asdict(known.source) if known else None,
            "deleted_at": self.latest.deleted_at if isinstance(self.latest, Tombstone) else None,
            "replicas": {name: _replica_dict(each) for name, each in self.replicas.items()},
        }

    def summary(self) -> dict[str, Any]:
        """Return key, size, time and each replica's state as plain JSON types: one line of ``ls --json``."""
        return {"key": self.key, "size": self.size, "modified": self.modified, "replicas": self.states}


def _replica_dict(replica: ReplicaState) -> dict[str, Any]:
    stat = replica.stat
    return {
        "backend": replica.backend,
        "state": replica.state,
        "size": stat.size if stat else None,
        "modified": stat.modified if stat else None,
        "generation": replica.record.generation if replica.record else None,
        "etag": stat.etag if stat else None,
        "version_id": stat.version_id if stat else None,
        "error": str(replica.error) if replica.error else None,
    }


def classify(
    key: str,
    replicas: Sequence[ReplicaState],
    min_copies: int,
    is_expired: IsExpired | None = None,
    stored: float | None = None,
) -> ObjectStatus:
    """Return the status of `key` from every replica's record and metadata.

    `is_expired` is called for replicas that have nothing. `stored` is when the object was stored according to the
    listings (epoch seconds).
    """
    latest = versions.newest(replicas, min_copies)
    when = when_stored(stored, latest.created_timestamp if isinstance(latest, Manifest) else None)
    classified = {}
    for replica in replicas:
        state = _state(replica, latest)
        if state == "missing" and is_expired is not None and not isinstance(latest, Tombstone):
            state = "expired" if is_expired(replica.backend, key, when) else state
        classified[replica.backend] = replace(replica, state=state, detail=_detail(replica, state, latest))
    return ObjectStatus(key, latest, classified, min_copies, stored)


def when_stored(listed: float | None, made: float | None) -> float | None:
    """Return the time by which retention judges an object: the listings' time, or else its manifest's.

    A copy that repair restored is listed as younger than the object, and a stale one as older: there the manifest
    decides. Within `CLOCK_SKEW` the listings' time counts, as it does for the other objects of the series.
    """
    if listed is None or made is None:
        return made if listed is None else listed
    return listed if abs(listed - made) <= CLOCK_SKEW else made


def _state(replica: ReplicaState, latest: Record | None) -> CopyState:
    own = replica.manifest
    if replica.error is not None:
        return "newer" if replica.is_newer else "unknown"
    if latest is not None and _is_unconfirmed(replica, latest):
        return "unconfirmed"
    if replica.stat is None:
        return "missing"
    if isinstance(latest, Tombstone):
        return "deleted elsewhere"
    if replica.damaged:
        return "damaged"
    if own is None or latest is None:
        return "no manifest"
    if own.generation < latest.generation:
        return "stale"
    if replica.stat.size != own.size:
        return "size differs"
    if isinstance(latest, Manifest) and not replica.claims(latest):
        return "conflict"
    return "present" if replica.holds(own) else "damaged"


def _is_unconfirmed(replica: ReplicaState, latest: Record) -> bool:
    """Tell whether a replica has a higher version than the newest, or its delete."""
    own = replica.record
    if isinstance(latest, Tombstone):
        return False  # it is the highest version that any replica has
    if isinstance(own, Tombstone):
        return own.generation >= latest.generation
    return own is not None and replica.stat is not None and own.generation > latest.generation


def _detail(replica: ReplicaState, state: CopyState, latest: Record | None) -> str:
    """Return what is wrong, for people; empty where the state says it all."""
    own, stat = replica.manifest, replica.stat
    if state == "newer" and replica.error is not None:
        return replica.error.reason
    if state == "unknown":
        return "" if replica.error is None else replica.error.reason
    if state == "missing":
        return "its manifest is there, its data is not" if own is not None else ""
    if state == "no manifest":
        return "its manifest is missing" if latest is not None else "no replica has a manifest for it"
    if state == "unconfirmed":
        return _describe_unconfirmed(replica)
    if isinstance(latest, Tombstone):
        return f"deleted on {latest.deleted_at}, its data is still there"
    if replica.lacks_record:
        return "the record behind its id is missing"
    if replica.damaged:
        return "its manifest fails its checksum or belongs to another key"
    if own is None or stat is None or latest is None or state == "present":
        return ""
    if state == "stale":
        return f"generation {own.generation}, the newest is {latest.generation}"
    if state == "conflict":
        return f"generation {own.generation} has other content elsewhere, which counts (sha256 here: {own.sha256})"
    if state == "size differs":
        return f"{stat.size:,} bytes, its manifest says {own.size:,}"
    return f"its ETag is {stat.etag}, its manifest says {own.etag}: the data was written or touched since"


def _describe_unconfirmed(replica: ReplicaState) -> str:
    if isinstance(replica.record, Tombstone):
        return f"deleted here on {replica.record.deleted_at}, on too few replicas to count"
    assert replica.manifest is not None
    return f"generation {replica.manifest.generation}, on too few replicas to count"


def classify_listed(
    entry: KeyEntry, stores: Mapping[str, ObjectStore], min_copies: int, is_expired: IsExpired | None = None
) -> ObjectStatus | None:
    """Return the status of a key from its listings alone; None when the replicas must be queried.

    They must be where a listing differs from the others or looks wrong: data of two sizes, ETags that contradict
    each other, a tombstone, a record without data, a record that is too small to be a manifest.
    A damaged manifest of the right size and a same-size replacement on a disk are not visible in listings, and
    neither is an object that lies in all buckets without a manifest inside.
    """
    listed = {name: each for name, each in entry.replicas.items() if each is not None}
    if any(each.tombstone or (each.record and not each.data) for each in listed.values()):
        return None
    data = {name: each.data for name, each in listed.items() if each.data}
    records = [each.record.size for each in listed.values() if each.record]
    if len({each.size for each in data.values()}) > 1 or not _are_one_version(records, entry.key):
        return None
    if _etags_differ(data, stores):
        return None
    expired = _expired_replicas(entry, [name for name in listed if name not in data], is_expired)
    if expired is None or (_may_be_unproven(listed) and len(listed) > len(expired) + len(_proven(listed))):
        return None
    states: dict[str, CopyState] = {
        name: "expired" if name in expired else _listed_state(each) for name, each in entry.replicas.items()
    }
    return status_from_listings(entry, states, stores, min_copies, entry.stored_at)


def _proven(listed: Mapping[str, ReplicaEntry]) -> list[str]:
    return [name for name, each in listed.items() if each.data and each.may_have_manifest]


def _may_be_unproven(listed: Mapping[str, ReplicaEntry]) -> bool:
    """Tell whether the data may have no manifest anywhere: a bucket's listing shows none, and no disk lists one.

    It matters only where a replica lacks the object or its manifest, as it does if another program stored it.
    """
    return any(each.inside and each.data for each in listed.values()) and not any(
        each.data and each.record for each in listed.values()
    )


def status_from_listings(
    entry: KeyEntry,
    states: Mapping[str, CopyState],
    stores: Mapping[str, ObjectStore],
    min_copies: int,
    modified: float | None,
) -> ObjectStatus:
    """Return the status of a key whose replicas' states were decided from listings."""
    replicas = {}
    for name, state in states.items():
        listed = entry.replicas[name]
        error = entry.unreachable.get(name)
        replicas[name] = ReplicaState(stores[name], stat=listed.data if listed else None, error=error, state=state)
    return ObjectStatus(entry.key, None, replicas, min_copies, modified)


def _listed_state(listed: ReplicaEntry | None) -> CopyState:
    if listed is None:
        return "unknown"
    if listed.data is None:
        return "missing"
    return "present" if listed.may_have_manifest else "no manifest"


def _are_one_version(record_sizes: Sequence[int], key: str) -> bool:
    """Tell whether records of these sizes may all be manifests of one version of `key`."""
    smallest, largest = min(record_sizes, default=0), max(record_sizes, default=0)
    if record_sizes and smallest < _SMALLEST_MANIFEST + len(json.dumps(key)):
        return False
    return largest - smallest <= _ETAG_AND_VERSION


def _expired_replicas(entry: KeyEntry, lacking: Sequence[str], is_expired: IsExpired | None) -> set[str] | None:
    """Return the replicas whose retention deleted the object; None when only its manifest can tell.

    The manifest may say that the object is older than listed, where repair restored the copy that is listed.
    """
    if is_expired is None:
        return set()
    expired = {name for name in lacking if is_expired(name, entry.key, entry.stored_at)}
    doubtful = any(is_expired(name, entry.key, SOME_TIME) for name in lacking if name not in expired)
    return None if doubtful else expired


def _etags_differ(data: Mapping[str, ObjectStat], stores: Mapping[str, ObjectStore]) -> bool:
    """Tell whether stores whose ETags are made of the content list different ones for one number of parts."""
    found: dict[str, set[str]] = {}
    for name, each in data.items():
        form = _MD5.fullmatch(each.etag or "")
        kinds = ("all",) if form and form[1] else ("single", "all")
        if form and stores[name].capabilities.content_etags in kinds:
            found.setdefault(form[1] or "", set()).add(form[0])
    return any(len(etags) > 1 for etags in found.values())
