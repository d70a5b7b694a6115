"""The status of single objects: every replica's record and metadata, or with `deep` every byte of every copy.

Nothing is changed. An object that is being replaced looks damaged for a moment: its new data lies beside its old
manifest. So before a copy is called damaged, the replicas are queried again, and again after pauses where a write
intent shows a replacement under way.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import replace

from fsbackup.engine import intents, records
from fsbackup.engine.intents import Intent
from fsbackup.engine.records import CopyState, ReplicaState
from fsbackup.engine.replicas import MemoryBudget, ReplicaSet
from fsbackup.errors import FsbackupError, ObjectNotFoundError
from fsbackup.record import Manifest, version_order
from fsbackup.replication.bytecheck import ByteCheck, check_bytes
from fsbackup.replication.classify import IsExpired, ObjectStatus, classify
from fsbackup.replication.walk import Unreachable
from fsbackup.stores.base import ObjectStore

#: How often an object that keeps changing is inspected before its doubtful replicas are reported as unknown.
_ATTEMPTS = 4
#: Seconds before each repeated query while a replacement is under way: a live writer has moved on by then.
_PAUSES = (0.0, 0.5, 1.0)
#: States that an object also shows on its way from one version to the next.
_DOUBTFUL: frozenset[CopyState] = frozenset({"damaged", "size differs", "conflict", "unconfirmed", "no manifest"})


class Inspector:
    """Inspects objects, any number side by side, within the memory of the set.

    Parameters
    ----------
    targets
        The set.
    deep
        Read every byte of every replica for which there is a manifest to compare with.
    expired
        See `fsbackup.replication.classify.classify`.
    since
        Know of all tombstones that there were at this time of the monotonic clock; by default some seconds ago.
    """

    def __init__(
        self,
        targets: ReplicaSet,
        *,
        deep: bool = False,
        expired: IsExpired | None = None,
        since: float = -math.inf,
    ) -> None:
        self._targets = targets
        self._deep = deep
        self._expired = expired
        self._budget = MemoryBudget(targets.memory)
        self._since = since

    async def inspect(
        self, key: str, unreachable: Unreachable | None = None, stored: float | None = None
    ) -> ObjectStatus:
        """Return the status of `key`; a replica that does not answer is ``"unknown"``. Raises no backend error.

        Parameters
        ----------
        key
            The object.
        unreachable
            Replicas not to query, by name, and why.
        stored
            When it was stored according to the listings (epoch seconds).
        """
        skip = unreachable or {}
        replicas, bytes_read = await self._query_all(key, skip), 0
        for _ in range(_ATTEMPTS):
            status = classify(key, replicas, self._targets.min_copies, self._expired, stored)
            if self._deep:
                status = await self._read(status)
            bytes_read += status.bytes_read
            changed = await self._requery(status, skip)
            if changed is None:
                return replace(await self._with_intents(status), bytes_read=bytes_read)
            replicas = changed
        return replace(_unstable(status), bytes_read=bytes_read)

    async def _query_all(self, key: str, skip: Unreachable) -> list[ReplicaState]:
        return list(await asyncio.gather(*(self._query(store, key, skip) for store in self._targets.stores)))

    async def _query(self, store: ObjectStore, key: str, skip: Unreachable) -> ReplicaState:
        if (error := skip.get(store.name)) is not None:
            return ReplicaState(store, error=error)
        return await records.query(store, key, since=self._since)

    async def _read(self, status: ObjectStatus) -> ObjectStatus:
        """Read every copy, all replicas at once, and correct the replicas' states by what was read."""
        if status.is_deleted:
            return status
        checked = await asyncio.gather(
            *(self._read_copy(each, status.manifest) for each in status.replicas.values())
        )
        replicas = {replica.backend: replica for replica, _ in checked}
        return replace(status, replicas=replicas, bytes_read=sum(count for _, count in checked))

    async def _read_copy(self, replica: ReplicaState, newest: Manifest | None) -> tuple[ReplicaState, int]:
        """Compare a copy's bytes with its own manifest, or else the newest; return its state, and bytes read."""
        manifest = replica.manifest or newest
        if replica.stat is None or manifest is None or replica.stat.size != manifest.size:
            return replica, 0
        try:
            check = await check_bytes(replica.store, manifest, self._budget)
        except ObjectNotFoundError:
            return replace(replica, state="damaged", detail="its data was gone before it was read"), 0
        except FsbackupError as error:
            return replace(replica, state="unknown", detail=str(error)), 0
        return _corrected(replica, manifest, check), check.bytes_read

    async def _requery(self, status: ObjectStatus, skip: Unreachable) -> list[ReplicaState] | None:
        """Query a doubtful object again; return its replicas if any has changed, else None."""
        if not _DOUBTFUL.intersection(status.states.values()):
            return None
        before = [_fingerprint(replica) for replica in status.replicas.values()]
        for pause in _PAUSES:
            await asyncio.sleep(pause)
            replicas = await self._query_all(status.key, skip)
            if [_fingerprint(replica) for replica in replicas] != before:
                return replicas
            if not await _unfinished(status):
                return None
        return None

    async def _with_intents(self, status: ObjectStatus) -> ObjectStatus:
        """Add to the details of doubtful replicas which replacements were left unfinished."""
        if not _DOUBTFUL.intersection(status.states.values()):
            return status
        replicas = dict(status.replicas)
        for name, new in (await _unfinished(status)).items():
            note = f"its replacement (generation {new.generation}) was begun, not finished"
            replicas[name] = replace(replicas[name], detail=f"{replicas[name].detail}; {note}")
        return replace(status, replicas=replicas)


async def _unfinished(status: ObjectStatus) -> dict[str, Manifest]:
    """Return the newer version that a write intent names, for each doubtful replica that has one."""
    doubtful = [each for each in status.replicas.values() if each.state in _DOUBTFUL and each.record]
    found = await asyncio.gather(*(try_find_intents(each.store, status.key) for each in doubtful))
    unfinished = {}
    for replica, announced in zip(doubtful, found, strict=True):
        manifests = [each.manifest for each in announced if each.manifest is not None]
        newest = max(manifests, key=version_order, default=None)
        if newest and replica.record and newest.generation > replica.record.generation:
            unfinished[replica.backend] = newest
    return unfinished


async def try_find_intents(store: ObjectStore, key: str) -> list[Intent]:
    """Return what `intents.find` returns; none where the store fails.

    An intent explains, and every step of a repair looks again before it writes.
    """
    try:
        async with asyncio.timeout(store.hard_timeout):
            return await intents.find(store, key)
    except (FsbackupError, TimeoutError):
        return []


def _corrected(replica: ReplicaState, manifest: Manifest, check: ByteCheck) -> ReplicaState:
    """Return a replica's state after all its bytes were compared with `manifest`."""
    if replica.manifest is None:
        found = "its data is the newest version" if check.good else "its data is not the newest version either"
        return replace(replica, detail=f"{replica.detail}; {found}")
    if not check.good:
        return replace(replica, state="damaged", detail=check.describe(manifest))
    if replica.state == "damaged":
        detail = "every byte is right, though it was stored again or touched since"
        return replace(replica, state="present", detail=detail)
    return replica


def _fingerprint(replica: ReplicaState) -> Sequence[object]:
    """Return what is equal in two queries of a replica that did not change."""
    stat = replica.stat
    data = None if stat is None else (stat.size, stat.etag, stat.version_id)
    return replica.record, replica.damaged, data, replica.error is None


def _unstable(status: ObjectStatus) -> ObjectStatus:
    """Return the status of an object that changed during every attempt: its doubtful replicas are unknown."""
    detail = "it kept changing while it was inspected: verify it again later"
    replicas = {
        name: replace(each, state="unknown", detail=detail) if each.state in _DOUBTFUL else each
        for name, each in status.replicas.items()
    }
    return replace(status, replicas=replicas)
