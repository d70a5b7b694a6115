"""Executes the actions on one object; each one checks again right before it writes, and gives way to others."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Collection, Sequence
from dataclasses import dataclass

from fsbackup import events
from fsbackup.engine import delete, intents, locks, records, repairs, tombstones, versions
from fsbackup.engine.clock_skew import check_clock
from fsbackup.engine.copy import copy_version, remove_copy
from fsbackup.engine.records import ReplicaState
from fsbackup.engine.replicas import MemoryBudget, ReplicaSet
from fsbackup.engine.versions import VersionGuard
from fsbackup.errors import ConflictError, FsbackupError, as_backend_error
from fsbackup.lazy import cached_property
from fsbackup.record import Manifest, Origin, Tombstone, version_order
from fsbackup.replication.repair.inspection import Inspection
from fsbackup.replication.repair.report import Action, Step
from fsbackup.sizing import part_size
from fsbackup.stores.base import ObjectStat, ObjectStore


@dataclass(frozen=True, slots=True)
class RoundResult:
    """How one round went: its steps, and the replicas that looked right but returned wrong bytes."""

    steps: tuple[Step, ...]
    corrupt_replicas: frozenset[str]


class RoundExecutor:
    """Executes the actions of one round on one object.

    Parameters
    ----------
    targets, budget
        The set, and the memory that all objects share.
    inspection
        What the actions were planned from.
    marks
        Show that this repair is at work.
    """

    def __init__(
        self, targets: ReplicaSet, budget: MemoryBudget, inspection: Inspection, marks: repairs.RepairMarks
    ) -> None:
        self._targets = targets
        self._budget = budget
        self._inspection = inspection
        self._marks = marks
        self._status = inspection.status
        self._key = inspection.status.key

    async def execute(self, actions: Sequence[Action]) -> RoundResult:
        """Execute all actions at once; each one succeeds or fails by itself."""
        refills = [action for action in actions if action.kind == "refill"]
        others = [action for action in actions if action.kind not in ("refill", "leave")]
        (refilled, corrupt), rest = await asyncio.gather(
            self._refill(refills), asyncio.gather(*(self._execute_one(action) for action in others))
        )
        return RoundResult((*refilled, *rest), corrupt)

    async def _refill(self, actions: Sequence[Action]) -> tuple[tuple[Step, ...], frozenset[str]]:
        manifest = self._status.manifest
        if not actions or manifest is None:
            return (), frozenset()
        recipients = [self._replica(action) for action in actions]
        # The parts read and the parts written are in memory at the same time.
        async with self._budget.reserve(2 * manifest.size):
            result = await copy_version(self._targets, self._guard(manifest), recipients)
        steps = [
            _step(action, each.exception, each.bytes_sent)
            for action, each in zip(actions, result.replicas, strict=True)
        ]
        # The recipients were known to be wrong before.
        return tuple(steps), result.corrupt_replicas - {replica.store.name for replica in recipients}

    async def _execute_one(self, action: Action) -> Step:
        try:
            await self._perform(action)
        except Exception as error:  # noqa: BLE001 - the failure of one replica is its result, never another's
            wrapped = as_backend_error(error, action.backend or "", self._key, "repair")
            events.log_outcome(action.kind, action.backend or "", self._key, error=wrapped)
            return _step(action, wrapped)
        events.log_outcome(action.kind, action.backend or "", self._key)
        return _step(action, None)

    def _perform(self, action: Action) -> Awaitable[None]:
        if action.kind == "write manifest":
            assert self._status.manifest is not None
            return self._write_manifest(self._replica(action), self._status.manifest)
        if action.kind == "finish":
            return self._finish(self._replica(action))
        if action.kind == "adopt":
            return self._write_manifest(self._replica(action), self._adopted_manifest)
        if action.kind == "clear intent":
            return self._clear_intents(self._replica(action), action.names)
        if action.kind == "forget delete" and action.backend is not None:
            return self._take_back_delete(self._replica(action))
        tombstone = self._status.latest
        assert isinstance(tombstone, Tombstone)
        if action.kind == "delete":
            return delete.complete(self._replica(action), tombstone)
        return self._forget_delete(tombstone)

    async def _write_manifest(self, replica: ReplicaState, manifest: Manifest) -> None:
        """Write the manifest of data that the inspection found to be its content.

        It is announced where it lies beside the data (see `engine.intents`). Before the write: the version is
        still the newest, and the replica unchanged. After it: the same again, because another writer or a delete
        may have come in between.
        """
        store = replica.store
        async with locks.exclusive(store, self._key), intents.announced(store, manifest):
            await self._write_manifest_locked(replica, manifest)

    async def _write_manifest_locked(self, replica: ReplicaState, manifest: Manifest) -> None:
        store, stat = replica.store, replica.stat
        assert stat is not None
        guard = self._guard(manifest)
        await guard.require(store)
        if await records.read_state(store, self._key) != replica:
            raise self._changed(store)
        if records.has_records_inside(store):
            own, stat = manifest.for_replica(None, None), await records.describe_data(store, stat, manifest)
        else:
            own = manifest.for_replica(stat.etag, stat.version_id)
            create_only = replica.record is None and not replica.damaged
            await records.write_record(store, own, create_only=create_only)
        if (currency := await guard.currency(store.name)) == "deleted":
            await remove_copy(store, own, stat)
        if currency in ("deleted", "replaced"):
            raise versions.superseded(store, self._key, currency)
        await self._require_data(store, own, stat)

    async def _require_data(self, store: ObjectStore, own: Manifest, stat: ObjectStat) -> None:
        """Raise ConflictError when the data beside the manifest is not the data that was inspected."""
        now = await records.read_state(store, self._key)
        same = now.stat is not None and (now.stat.size, now.stat.etag) == (stat.size, stat.etag)
        if now.record != own or not same:
            raise self._changed(store)

    async def _finish(self, replica: ReplicaState) -> None:
        """Write the manifest of a replacement whose data is in place."""
        content = self._inspection.contents[replica.backend]
        found = [each.manifest for each in self._inspection.intents[replica.backend] if each.manifest is not None]
        ready = [each for each in found if each.sha256 == content.sha256]
        await self._write_manifest(replica, max(ready, key=version_order))

    async def _clear_intents(self, replica: ReplicaState, names: Collection[str]) -> None:
        """Remove write intents; another one that came meanwhile has another name.

        A disk's lock tells that their writers have ended; one may have put his data in place since the inspection.
        """
        store = replica.store
        async with locks.exclusive(store, self._key):
            if store.capabilities.locks:
                now = await records.read_state(store, self._key)
                if now.stat not in (None, replica.stat) and not now.is_intact:
                    raise self._changed(store)
            for name in names:
                await store.remove(name)

    async def _take_back_delete(self, replica: ReplicaState) -> None:
        """Remove the tombstone of a delete that too few replicas confirmed; the copy is refilled after that."""
        assert self._status.manifest is not None
        await self._guard(self._status.manifest).require(replica.store)
        async with locks.exclusive(replica.store, self._key):
            if await records.read_state(replica.store, self._key) != replica:
                raise self._changed(replica.store)
            await tombstones.remove(replica.store, self._key)

    async def _forget_delete(self, tombstone: Tombstone) -> None:
        """Remove the tombstones one by one: after a failure those that remain still prove the delete."""
        if await repairs.at_work((each.store for each in self._status.replicas.values()), self._marks.run):
            raise ConflictError(
                "another repair is at work, or was killed within a day, and may need the tombstone",
                operation="repair",
                key=self._key,
                hint="a later repair removes it",
            )
        for replica in self._status.replicas.values():
            await delete.remove_tombstone(replica.store, self._key, tombstone)

    @cached_property
    def _adopted_manifest(self) -> Manifest:
        """The manifest of data that never had one: a first version, as old as its oldest copy."""
        check_clock((each.store for each in self._status.replicas.values()), self._key)
        digest = next(iter(self._inspection.contents.values()))
        stats = [replica.stat for replica in self._status.replicas.values() if replica.stat is not None]
        modified = [stat.modified for stat in stats if stat.modified is not None]
        oldest = min(modified, default=None)
        origin = Origin(socket.gethostname(), None if oldest is None else round(oldest * 1e9))
        size = part_size(digest.size, self._targets.part_size)
        return versions.new_manifest(self._key, digest, origin, size, versions.next_version(None))

    def _guard(self, manifest: Manifest) -> VersionGuard:
        """Return the guard of a version: the replicas that answered, and those that have its manifest."""
        answered = [replica for replica in self._status.replicas.values() if replica.error is None]
        holders = [r.store.name for r in answered if r.claims(manifest)]
        outranked = map(versions.version_id, versions.rivals_of(manifest, answered))
        return VersionGuard(
            [replica.store for replica in answered],
            manifest,
            frozenset(holders),
            self._marks,
            frozenset(outranked),
        )

    def _replica(self, action: Action) -> ReplicaState:
        return self._status.replicas[action.backend or ""]

    def _changed(self, store: ObjectStore) -> ConflictError:
        return ConflictError(
            "the object changed after it was inspected",
            backend=store.name,
            operation="repair",
            key=self._key,
            hint="repair again when no other process writes it",
        )


def _step(action: Action, error: FsbackupError | None, bytes_sent: int = 0) -> Step:
    if error is None:
        return Step(action, "done", bytes_sent=bytes_sent)
    return Step(action, "superseded" if isinstance(error, ConflictError) else "failed", str(error), bytes_sent)
