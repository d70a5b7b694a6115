"""`prune` over a whole set: two listings, then many objects decided and deleted at once."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Container, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace

from fsbackup import events
from fsbackup.aio import for_each
from fsbackup.engine import records
from fsbackup.engine.records import ReplicaState
from fsbackup.engine.replicas import ReplicaSet
from fsbackup.errors import ConflictError, LockedError, as_backend_error
from fsbackup.replication.prune.decide import ObjectFacts, decide
from fsbackup.replication.prune.execute import can_delete_together, delete_copies, delete_copy
from fsbackup.replication.prune.plans import Clock, Plans
from fsbackup.replication.prune.report import NAMED, OnStep, PruneCounts, PruneReport, PruneStep, SeriesReport
from fsbackup.replication.walk import KeyEntry, ReplicaEntry, Unreachable, Walk
from fsbackup.retention import Retention
from fsbackup.stores.base import ObjectStore

#: Objects processed at once: a delete is a handful of small requests.
WORKERS = 16
#: Copies that are removed together, where a backend can do that.
TOGETHER = 1000


@dataclass(frozen=True, slots=True)
class PruneOptions:
    """The options of a prune, see `ReplicatedStorage.prune`; `now` is in epoch seconds, None: the clock's."""

    prefix: str = ""
    dry_run: bool = True
    now: float | None = None
    found_at_source: Container[str] = ()


async def prune(
    targets: ReplicaSet, rules: Mapping[str, Retention], options: PruneOptions, on_step: OnStep | None = None
) -> PruneReport:
    """Delete, at or below a prefix, the copies that their backends' rules no longer keep.

    Raises
    ------
    NoHealthyReplicaError
        When no replica can be listed.
    """
    return await _Prune(targets, rules, options, on_step).run()


async def find_series(
    targets: ReplicaSet, rules: Mapping[str, Retention], now: float | None = None
) -> SeriesReport:
    """List the whole set once, and return the series of each backend; `now` is in epoch seconds.

    Raises
    ------
    NoHealthyReplicaError
        When no replica can be listed.
    """
    return await _Prune(targets, rules, PruneOptions(now=now), None).series()


@dataclass(frozen=True, slots=True)
class _Candidate:
    """An object, and the backends to decide about: why the rule deletes the copy; None: only a record is there."""

    entry: KeyEntry
    when: float | None
    reasons: dict[str, str | None]


class _Prune:
    def __init__(
        self, targets: ReplicaSet, rules: Mapping[str, Retention], options: PruneOptions, on_step: OnStep | None
    ) -> None:
        self._targets = targets
        self._options = options
        self._on_step = on_step
        self._clock = Clock(options.now)
        self._plans = Plans(rules, self._clock)
        #: Replicas that the first listing did not reach, and why; the second one does not wait for them again.
        self._unreachable: Unreachable = {}
        #: Backends on which nothing is deleted, and why.
        self._stopped: dict[str, str] = {}
        self._outcomes: dict[str, Counter[str]] = {store.name: Counter() for store in targets.stores}
        self._bytes_freed: Counter[str] = Counter()
        self._steps: list[PruneStep] = []
        #: By backend, the copies to remove together, and what to report of each, by key.
        self._waiting: dict[str, dict[str, tuple[ReplicaState, PruneStep]]] = {
            store.name: {} for store in targets.stores
        }

    async def series(self) -> SeriesReport:
        await self._build_plans()
        return self._plans.series(self._stopped)

    async def run(self) -> PruneReport:
        started = time.monotonic()
        await self._build_plans()
        await for_each(self._candidates(), self._process, WORKERS)
        await asyncio.gather(*map(self._delete_waiting, self._waiting))
        return PruneReport(
            prefix=self._options.prefix,
            dry_run=self._options.dry_run,
            backends={
                name: PruneCounts(dict(outcomes), self._bytes_freed[name], self._stopped.get(name))
                for name, outcomes in self._outcomes.items()
            },
            seconds=time.monotonic() - started,
            steps=tuple(self._steps),
            series=self._plans.series(self._stopped) if self._options.dry_run else None,
        )

    async def _build_plans(self) -> None:
        """Add every listed object to the plans; delete nothing on a backend whose listing is incomplete."""
        walk = Walk(self._targets.stores, "")
        async with aclosing(walk.keys()) as keys:
            async for entry in keys:
                self._plans.add(entry)
        self._unreachable = walk.errors
        self._stop_unlisted(walk)
        if error := self._clock.error:
            for name in filter(self._plans.__contains__, self._outcomes):
                self._stopped.setdefault(name, error)

    def _stop_unlisted(self, walk: Walk) -> None:
        for name, error in walk.errors.items():
            self._stopped.setdefault(name, f"it cannot be listed: {error}")

    async def _candidates(self) -> AsyncGenerator[_Candidate, None]:
        """Yield the objects about which the replicas must be asked, and report the others as kept."""
        walk = Walk(self._targets.stores, self._options.prefix, unreachable=self._unreachable)
        async with aclosing(walk.keys()) as keys:
            async for entry in keys:
                self._stop_unlisted(walk)
                candidate = _Candidate(entry, entry.stored_at, {})
                for name, listed in entry.replicas.items():
                    if listed is not None:
                        self._add_backend(name, listed, candidate)
                if candidate.reasons:
                    yield candidate
        self._stop_unlisted(walk)

    def _add_backend(self, name: str, listed: ReplicaEntry, candidate: _Candidate) -> None:
        """Add a copy that the backend's rule deletes, or a record without data; report a copy that stays."""
        key = candidate.entry.key
        if listed.data is None:
            can_clear = listed.record is not None and name in self._plans and name not in self._stopped
            if can_clear and key not in self._options.found_at_source:
                candidate.reasons[name] = None
            return
        decision = self._plans.decide(name, key, candidate.when)
        why = decision.reason if decision.keep else self._stopped.get(name)
        if not decision.keep and key in self._options.found_at_source:
            why = "found at the source by this run"
        if not listed.may_have_manifest:
            why = "it has no manifest, so nothing proves that fsbackup stored it"
        if why is None:
            candidate.reasons[name] = decision.reason
        else:
            series = self._plans.series_of(name, key)
            self._report(PruneStep(key, name, "kept", why, listed.data.size, series=series))

    async def _process(self, candidate: _Candidate) -> None:
        """Ask every replica about one object, then decide and delete on each backend concerned."""
        replicas = await asyncio.gather(*(_query(store, candidate.entry) for store in self._targets.stores))
        facts = ObjectFacts(
            candidate.entry,
            candidate.when,
            {each.store.name: each for each in replicas},
            dict(self._stopped),
            self._targets.min_copies,
        )
        await asyncio.gather(*(self._process_copy(name, why, facts) for name, why in candidate.reasons.items()))

    async def _process_copy(self, name: str, reason: str | None, facts: ObjectFacts) -> None:
        replica = facts.replicas[name]
        decision = decide(name, facts, self._plans)
        outcome = decision.outcome
        if outcome == "gone" or (reason is None and (outcome != "delete" or replica.stat is not None)):
            return  # a record alone that no prune left is up to repair
        created = replica.manifest.created_at if replica.manifest else None
        size = replica.stat.size if replica.stat else 0
        series = self._plans.series_of(name, facts.entry.key)
        if outcome != "delete":
            text = decision.reason if outcome == "failed" else f"{reason}; but {decision.reason}"
            self._report(PruneStep(facts.entry.key, name, outcome, text, size, created, series))
            return
        what = reason or "an interrupted prune left its manifest without the data"
        step = PruneStep(facts.entry.key, name, "planned", f"{what}; {decision.reason}", size, created, series)
        if self._options.dry_run:
            self._report(step)
            return
        step = replace(step, outcome="deleted" if reason else "cleared")
        if can_delete_together(replica):
            self._waiting[name][step.key] = (replica, step)
            if len(self._waiting[name]) >= TOGETHER:
                await self._delete_waiting(name)
        else:
            await self._delete(replica, step)

    async def _delete(self, replica: ReplicaState, step: PruneStep) -> None:
        error: Exception | None = None
        try:
            await delete_copy(replica, step.key)
        except Exception as failed:  # noqa: BLE001 - the failure of one copy is its result, never another's
            error = failed
        self._report_end(step, error)

    async def _delete_waiting(self, name: str) -> None:
        waiting, self._waiting[name] = self._waiting[name], {}
        if not waiting:
            return
        errors: Mapping[str, Exception | None]
        try:
            errors = await delete_copies({key: replica for key, (replica, _) in waiting.items()})
        except Exception as failed:  # noqa: BLE001 - as in `_delete`
            errors = dict.fromkeys(waiting, failed)
        for key, (_, step) in waiting.items():
            self._report_end(step, errors[key])

    def _report_end(self, step: PruneStep, error: Exception | None) -> None:
        """Report a step after its deletion."""
        if error is None:
            events.log_outcome("prune", step.backend, step.key, size=step.size)
        elif isinstance(error, LockedError):
            step = replace(step, outcome="locked", reason=f"{step.reason}; but {error}")
        elif isinstance(error, ConflictError):
            step = replace(step, outcome="blocked", reason=f"{step.reason}; but {error}")
        else:
            wrapped = as_backend_error(error, step.backend, step.key, "prune")
            events.log_outcome("prune", step.backend, step.key, error=wrapped)
            step = replace(step, outcome="failed", reason=str(wrapped))
        self._report(step)

    def _report(self, step: PruneStep) -> None:
        self._outcomes[step.backend][step.outcome] += 1
        if step.outcome in ("deleted", "planned"):
            self._bytes_freed[step.backend] += step.size
        if step.outcome != "kept" and len(self._steps) < NAMED:
            self._steps.append(step)
        if self._on_step is not None:
            self._on_step(step)


async def _query(store: ObjectStore, entry: KeyEntry) -> ReplicaState:
    """Ask one replica; one that could not be listed is not waited for."""
    return ReplicaState(store) if entry.replicas[store.name] is None else await records.query(store, entry.key)
