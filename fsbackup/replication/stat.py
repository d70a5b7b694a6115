"""`stat`: what one object is, and what each replica has of it. Reads manifests and metadata, never the data."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from fsbackup.engine import records, versions
from fsbackup.engine.download import lost_error
from fsbackup.engine.records import ReplicaState
from fsbackup.engine.replicas import ReplicaSet
from fsbackup.engine.survey import decide, look_twice, survey
from fsbackup.errors import FsbackupError, ObjectNotFoundError
from fsbackup.record import Manifest, Record
from fsbackup.replication.classify import FindExpired, ObjectStatus, classify


async def stat(targets: ReplicaSet, key: str, find_expired: FindExpired | None = None) -> ObjectStatus:
    """Return the status of `key` from every replica; `find_expired` is called only where one has nothing.

    Raises
    ------
    ObjectNotFoundError
        When a quorum answers that there is no such key, or that it was deleted.
    NoHealthyReplicaError
        When no replica has it and too few answer.
    ObjectLostError
        When its manifest is there, and its data is gone from every replica.
    """
    look = partial(_look, targets, key, find_expired)
    return await look_twice(targets, look(), look)


async def _look(targets: ReplicaSet, key: str, find_expired: FindExpired | None) -> ObjectStatus:
    replicas = await survey(targets.stores, key)
    return await decide(replicas, key, partial(_status, targets, key, find_expired))


async def _status(
    targets: ReplicaSet, key: str, find_expired: FindExpired | None, replicas: Sequence[ReplicaState]
) -> ObjectStatus:
    status = classify(key, replicas, targets.min_copies)
    if find_expired is not None and status.manifest is not None and "missing" in status.states.values():
        expired = await find_expired(records.errors_of(replicas))
        status = classify(key, replicas, targets.min_copies, expired)
    if not any(each.stat is not None or each.is_newer for each in replicas):
        raise _absent(targets, key, await records.with_doubts(replicas, key), status.latest)
    return status


def _absent(
    targets: ReplicaSet, key: str, replicas: Sequence[ReplicaState], latest: Record | None
) -> FsbackupError:
    if records.errors_of(replicas) and not versions.is_proven_absent(targets, replicas, latest):
        return records.unproven_absence(replicas, "stat", key)
    if isinstance(latest, Manifest):
        return lost_error(key, "stat")
    why = f"it was deleted on {latest.deleted_at}" if latest is not None else "no such key"
    return ObjectNotFoundError(why, operation="stat", key=key)
