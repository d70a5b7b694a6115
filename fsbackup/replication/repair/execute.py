"""Doing what was planned for one object: each step asks again right before it writes, and gives way to others."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass

from fsbackup import __version__, events
from fsbackup.engine import delete, records, versions
from fsbackup.engine.copy import copy_version, remove_copy
from fsbackup.engine.records import ReplicaState
from fsbackup.engine.replicas import MemoryBudget, ReplicaSet
from fsbackup.engine.versions import VersionGuard
from fsbackup.errors import ConflictError, FsbackupError, as_backend_error
from fsbackup.keys import intent_name
from fsbackup.record import Manifest, Origin, Tombstone
from fsbackup.replication.repair.inspection import Inspection
from fsbackup.replication.repair.report import Action, Step
from fsbackup.sizing import part_size
from fsbackup.stores.base import ObjectStat, ObjectStore


@dataclass(frozen=True, slots=True)
class RoundResult:
    """How one round went: its steps, and replicas that looked right but gave wrong bytes."""

    steps: tuple[Step, ...]
    corrupt_replicas: frozenset[str]


class RoundExecutor:
    """Does the actions of one round on one object.

    Parameters
    ----------
    targets, budget
        The set, and the memory that all objects share.
    evidence
        What the actions were decided by.
    """

    def __init__(self, targets: ReplicaSet, budget: MemoryBudget, evidence: Inspection) -> None:
        self._targets = targets
        self._budget = budget
        self._evidence = evidence
        self._verdict = evidence.verdict
        self._key = evidence.verdict.key

    async def execute(self, actions: Sequence[Action]) -> RoundResult:
        """Do them all at once; each succeeds or fails for itself."""
        refills = [action for action in actions if action.kind == "refill"]
        others = [action for action in actions if action.kind not in ("refill", "leave")]
        (refilled, liars), rest = await asyncio.gather(
            self._refill(refills), asyncio.gather(*(self._one(action) for action in others))
        )
        return RoundResult((*refilled, *rest), liars)

    async def _refill(self, actions: Sequence[Action]) -> tuple[tuple[Step, ...], frozenset[str]]:
        manifest = self._verdict.manifest
        if not actions or manifest is None:
            return (), frozenset()
        needy = [self._finding(action) for action in actions]
        # What is read is held beside what is written.
        async with self._budget.reserve(2 * manifest.size):
            done = await copy_version(self._targets, self._guard(manifest), needy)
        steps = [
            self._step(action, result.exception, result.bytes_sent)
            for action, result in zip(actions, done.replicas, strict=True)
        ]
        # What needed it was known to be wrong.
        return tuple(steps), done.corrupt_replicas - {finding.store.name for finding in needy}

    async def _one(self, action: Action) -> Step:
        try:
            await self._do(action)
        except Exception as error:  # noqa: BLE001 - one replica's failure is its result, never another's
            wrapped = as_backend_error(error, action.backend or "", self._key, "repair")
            events.log_outcome(action.kind, action.backend or "", self._key, error=wrapped)
            return self._step(action, wrapped)
        events.log_outcome(action.kind, action.backend or "", self._key)
        return self._step(action, None)

    def _step(self, action: Action, error: FsbackupError | None, sent: int = 0) -> Step:
        if error is None:
            return Step(action, "done", bytes_sent=sent)
        return Step(action, "overtaken" if isinstance(error, ConflictError) else "failed", str(error), sent)

    def _do(self, action: Action) -> Awaitable[None]:
        if action.kind == "write manifest":
            assert self._verdict.manifest is not None
            return self._record(self._finding(action), self._verdict.manifest)
        if action.kind == "finish":
            announced = self._evidence.intents[action.backend or ""].manifest
            assert announced is not None
            return self._finish(self._finding(action), announced)
        if action.kind == "adopt":
            finding = self._finding(action)
            return self._record(finding, self._first_manifest())
        if action.kind == "clear announcement":
            return self._clear(self._finding(action).store, action)
        stone = self._verdict.latest
        assert isinstance(stone, Tombstone)
        if action.kind == "delete":
            return delete.complete(self._finding(action), stone)
        return self._forget(stone)

    async def _record(self, finding: ReplicaState, manifest: Manifest) -> None:
        """Write the manifest of data that was just found to be its content."""
        store, stat = finding.store, finding.stat
        assert stat is not None
        guard = self._guard(manifest)
        await guard.require(store)
        await self._unchanged(finding)
        own = manifest.for_replica(stat.etag, stat.version_id)
        fresh = finding.record is None and not finding.damaged
        await records.write_record(store, own, create_only=fresh)
        if await guard.currency(store.name) == "deleted":
            await remove_copy(store, own, stat)
        await guard.require(store)
        await self._is_of(store, own, stat)

    async def _unchanged(self, finding: ReplicaState) -> None:
        if await records.read_state(finding.store, self._key) != finding:
            raise self._changed(finding.store)

    async def _is_of(self, store: ObjectStore, own: Manifest, stat: ObjectStat) -> None:
        """Refuse to call it proven when other data stands there by now."""
        there = await records.read_state(store, self._key)
        same = there.stat is not None and (there.stat.size, there.stat.etag) == (stat.size, stat.etag)
        if there.record != own or not same:
            raise self._changed(store)

    async def _finish(self, finding: ReplicaState, announced: Manifest) -> None:
        now = await records.read_intent(finding.store, self._key)
        if now is not None and now.sha256 != announced.sha256:
            raise self._changed(finding.store)
        await self._record(finding, announced)
        await records.clear_intent(finding.store, announced)

    async def _clear(self, store: ObjectStore, action: Action) -> None:
        """Remove the announcement, unless it is another one by now."""
        seen = self._evidence.intents[action.backend or ""].manifest
        manifest, there = await records.find_intent(store, self._key)
        if there and manifest != seen:
            raise self._changed(store)
        await store.remove(intent_name(self._key))

    async def _forget(self, stone: Tombstone) -> None:
        """Remove the tombstones, one after the other: what stays when one fails is still remembered."""
        for finding in self._verdict.replicas.values():
            await delete.remove_tombstone(finding.store, self._key, stone)

    def _first_manifest(self) -> Manifest:
        """Return what all copies that are adopted get."""
        digest = next(iter(self._evidence.contents.values()))
        stats = [finding.stat for finding in self._verdict.replicas.values() if finding.stat is not None]
        modified = [stat.modified for stat in stats if stat.modified is not None]
        return Manifest(
            key=self._key,
            size=digest.size,
            sha256=digest.sha256,
            block_size=digest.block_size,
            blocks=digest.blocks,
            generation=1,
            replaces=None,
            created_at=versions.utc_now(),
            source=Origin(socket.gethostname(), min(modified, default=None)),
            part_size=part_size(digest.size, self._targets.part_size),
            fsbackup_version=__version__,
        )

    def _guard(self, manifest: Manifest) -> VersionGuard:
        """Return what watches over a version: those that could be asked, and those that have its manifest."""
        asked = [finding for finding in self._verdict.replicas.values() if finding.error is None]
        holders = [f.store.name for f in asked if f.manifest is not None and f.manifest.sha256 == manifest.sha256]
        return VersionGuard([finding.store for finding in asked], manifest, frozenset(holders))

    def _finding(self, action: Action) -> ReplicaState:
        return self._verdict.replicas[action.backend or ""]

    def _changed(self, store: ObjectStore) -> ConflictError:
        return ConflictError(
            "it changed since it was examined",
            backend=store.name,
            operation="repair",
            key=self._key,
            hint="repair again when nobody else is writing it",
        )
