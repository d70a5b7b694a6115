"""Whether an object is there, and how large: three-valued questions, answered or raised, never guessed."""

from __future__ import annotations

import asyncio

from fsbackup.engine import records, versions
from fsbackup.engine.replicas import ReplicaSet
from fsbackup.errors import FsbackupError, NoHealthyReplicaError
from fsbackup.keys import encode_key, manifest_name
from fsbackup.record import Record, Tombstone
from fsbackup.stores.base import ObjectStat, ObjectStore, timeout_error


async def exists(targets: ReplicaSet, key: str) -> bool:
    """Return True when a replica proves `key`, False when all say that it is not there (or deleted).

    Raises
    ------
    NoHealthyReplicaError
        When none proves it and not all could be asked; a set of one raises what its store raised.
    """
    return await size(targets, key) is not None


async def size(targets: ReplicaSet, key: str) -> int | None:
    """Return the size of `key` in bytes, None when all replicas say that it is not there.

    Costs one HEAD per replica where the key is absent, one manifest more where it is present.

    Raises
    ------
    NoHealthyReplicaError
        As `exists`.
    """
    answers = await asyncio.gather(*(_ask(store, key) for store in targets.stores))
    present = [stat for stat, _, _ in answers if stat is not None]
    if present:
        known = [record for _, record, _ in answers] + await _where_absent(targets, key, answers)
        top = versions.newest(known)
        if not isinstance(top, Tombstone):
            return top.size if top else present[0].size
    errors = [error for _, _, error in answers if error is not None]
    if not errors:
        return None
    if len(targets.stores) == 1:
        raise errors[0]
    reasons = "; ".join(str(error) for error in errors)
    raise NoHealthyReplicaError(f"not all replicas could be asked: {reasons}", operation="exists", key=key)


Answer = tuple[ObjectStat | None, Record | None, FsbackupError | None]


async def _where_absent(targets: ReplicaSet, key: str, answers: list[Answer]) -> list[Record | None]:
    """Ask the replicas without data for their record: a tombstone outdoes a copy that slept through the delete."""
    absent = [store for store, answer in zip(targets.stores, answers, strict=True) if answer == (None, None, None)]
    findings = await asyncio.gather(*(records.query(store, key, with_data=False) for store in absent))
    return [finding.record for finding in findings]


async def _ask(store: ObjectStore, key: str) -> Answer:
    try:
        async with asyncio.timeout(store.hard_timeout):
            stat = await store.stat(encode_key(key))
            if stat is None:
                return None, None, None
            record, _ = await records.read_record(store, manifest_name(key))
            return stat, record, None
    except FsbackupError as error:
        return None, None, error
    except TimeoutError:
        return None, None, timeout_error(store, "exists", key)
