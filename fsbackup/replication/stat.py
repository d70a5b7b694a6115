"""`stat`: what one object is, and what each replica has of it. Reads manifests and metadata, never the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fsbackup.engine import records
from fsbackup.engine.records import ReplicaState
from fsbackup.engine.replicas import ReplicaSet
from fsbackup.engine.results import Status
from fsbackup.errors import FsbackupError, NoHealthyReplicaError, ObjectNotFoundError
from fsbackup.record import Manifest, Record, Tombstone
from fsbackup.replication.classify import CopyState, FindExpired, ObjectStatus, classify, copies_needed
from fsbackup.replication.problems import FINE


@dataclass(frozen=True, slots=True)
class ReplicaInfo:
    """What one replica has of an object, None where it has or says nothing."""

    backend: str
    state: CopyState
    size: int | None
    modified: float | None
    generation: int | None
    etag: str | None
    version_id: str | None
    error: str | None


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object of a set.

    Parameters
    ----------
    key
        Its key.
    manifest
        Of the newest version; None when no replica has one, or it was deleted.
    size
        Bytes.
    deleted_at
        When it was deleted, where a replica still has its data; None otherwise.
    min_copies
        How many copies the set asks for.
    replicas
        What each backend has of it, by name.
    """

    key: str
    manifest: Manifest | None
    size: int
    deleted_at: str | None
    min_copies: int
    replicas: Mapping[str, ReplicaInfo]

    @property
    def status(self) -> Status:
        """``"complete"``: each replica has the newest version or let it go; ``"degraded"``: enough have it.

        ``"failed"``: fewer than `min_copies` do, or than are to have it.
        """
        states = [info.state for info in self.replicas.values()]
        if FINE.issuperset(states):
            return "complete"
        return "degraded" if states.count("present") >= copies_needed(states, self.min_copies) else "failed"

    def __bool__(self) -> bool:
        return self.status != "failed"

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain JSON types."""
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
            "deleted_at": self.deleted_at,
            "replicas": {name: asdict(info) for name, info in self.replicas.items()},
        }


async def stat(targets: ReplicaSet, key: str, expecting: FindExpired | None = None) -> ObjectInfo:
    """Ask every replica what it has of `key`, and what it let go only where one of them has nothing.

    Raises
    ------
    ObjectNotFoundError
        When every replica says that there is no such key, or that it was deleted.
    NoHealthyReplicaError
        When none has it and not all could be asked.
    """
    findings = await records.survey(targets.stores, key)
    verdict = classify(key, findings)
    if expecting is not None and verdict.manifest is not None and "missing" in verdict.states.values():
        away = {finding.store.name: finding.error for finding in findings if finding.error is not None}
        verdict = classify(key, findings, await expecting(away))
    top = verdict.latest
    if not any(finding.stat is not None for finding in findings):
        raise _absent(key, findings, top)
    return ObjectInfo(
        key=key,
        manifest=top if isinstance(top, Manifest) else None,
        size=top.size if isinstance(top, Manifest) else next(f.stat.size for f in findings if f.stat is not None),
        deleted_at=top.deleted_at if isinstance(top, Tombstone) else None,
        min_copies=targets.min_copies,
        replicas={finding.store.name: _info(finding, verdict) for finding in findings},
    )


def _info(finding: ReplicaState, verdict: ObjectStatus) -> ReplicaInfo:
    stat = finding.stat
    return ReplicaInfo(
        backend=finding.store.name,
        state=verdict.states[finding.store.name],
        size=stat.size if stat else None,
        modified=stat.modified if stat else None,
        generation=finding.record.generation if finding.record else None,
        etag=stat.etag if stat else None,
        version_id=stat.version_id if stat else None,
        error=str(finding.error) if finding.error else None,
    )


def _absent(key: str, findings: list[ReplicaState], top: Record | None) -> FsbackupError:
    errors = [str(finding.error) for finding in findings if finding.error is not None]
    if errors:
        reasons = "; ".join(errors)
        return NoHealthyReplicaError(f"not all replicas could be asked: {reasons}", operation="stat", key=key)
    if isinstance(top, Manifest):
        why = "its manifest is there, but its data is gone from every replica"
    else:
        why = f"it was deleted on {top.deleted_at}" if top is not None else "no such key"
    return ObjectNotFoundError(why, operation="stat", key=key)
