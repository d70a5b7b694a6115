"""`prune`: what each backend's retention lets go, decided from two walks, removed many at a time."""

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
from fsbackup.replication.prune.execute import delete_copy
from fsbackup.replication.prune.plans import Clock, Plans
from fsbackup.replication.prune.report import NAMED, OnStep, PruneCounts, PruneReport, PruneStep
from fsbackup.replication.walk import KeyEntry, ReplicaEntry, Unreachable, Walk
from fsbackup.retention import Retention
from fsbackup.stores.base import ObjectStat, ObjectStore

#: Objects in hand at once: a removal is a handful of small requests.
WORKERS = 16


@dataclass(frozen=True, slots=True)
class PruneOptions:
    """What a prune was asked for, see `ReplicatedStorage.prune`; `now` is in epoch seconds, None: the clock's."""

    prefix: str = ""
    dry_run: bool = True
    now: float | None = None
    found_at_source: Container[str] = ()


async def prune(
    targets: ReplicaSet, rules: Mapping[str, Retention], options: PruneOptions, hear: OnStep | None = None
) -> PruneReport:
    """Let go of the objects at or below a prefix what their backends' rules no longer keep.

    Raises
    ------
    NoHealthyReplicaError
        When no replica can be listed.
    """
    return await _Prune(targets, rules, options, hear).run()


@dataclass(frozen=True, slots=True)
class _Candidate:
    """An object that some backend's rule lets go (with its reason, by name), or has only the record of (None)."""

    seen: KeyEntry
    when: float | None
    reasons: dict[str, str | None]


class _Prune:
    def __init__(
        self, targets: ReplicaSet, rules: Mapping[str, Retention], options: PruneOptions, hear: OnStep | None
    ) -> None:
        self._targets = targets
        self._options = options
        self._hear = hear
        self._clock = Clock(options.now)
        self._plans = Plans(rules, self._clock)
        #: What the first walk could not list; nobody has to wait for it a second time.
        self._away: Unreachable = {}
        #: Backends on which nothing is let go, and why.
        self._stopped: dict[str, str] = {}
        self._outcomes: dict[str, Counter[str]] = {store.name: Counter() for store in targets.stores}
        self._freed: Counter[str] = Counter()
        self._steps: list[PruneStep] = []

    async def run(self) -> PruneReport:
        started = time.monotonic()
        await self._look()
        await for_each(self._candidates(), self._decide_all, WORKERS)
        return PruneReport(
            prefix=self._options.prefix,
            dry_run=self._options.dry_run,
            backends={
                name: PruneCounts(dict(outcomes), self._freed[name], self._stopped.get(name))
                for name, outcomes in self._outcomes.items()
            },
            seconds=time.monotonic() - started,
            steps=tuple(self._steps),
        )

    async def _look(self) -> None:
        """Show the plans the complete listing of every backend; one that has none is stopped."""
        walk = Walk(self._targets.stores, "")
        async with aclosing(walk.keys()) as keys:
            async for seen in keys:
                self._plans.see(seen)
        self._away = walk.errors
        self._note_errors(walk)
        if wrong := self._clock.wrong:
            for name in filter(self._plans.__contains__, self._outcomes):
                self._stopped.setdefault(name, wrong)

    def _note_errors(self, walk: Walk) -> None:
        for name, error in walk.errors.items():
            self._stopped.setdefault(name, f"it cannot be listed: {error}")

    async def _candidates(self) -> AsyncGenerator[_Candidate, None]:
        """Yield the objects about which the replicas must be asked, and report the others."""
        walk = Walk(self._targets.stores, self._options.prefix, unreachable=self._away)
        async with aclosing(walk.keys()) as keys:
            async for seen in keys:
                self._note_errors(walk)
                candidate = _Candidate(seen, seen.stored_at, {})
                for name, listed in seen.replicas.items():
                    if listed is not None:
                        self._decide(name, listed, candidate)
                if candidate.reasons:
                    yield candidate
        self._note_errors(walk)

    def _decide(self, name: str, listed: ReplicaEntry, candidate: _Candidate) -> None:
        """Enter what a backend's rule lets go, or a record without data there; report what stays."""
        key = candidate.seen.key
        if listed.data is None:
            ours = listed.record is not None and name in self._plans and name not in self._stopped
            if ours and key not in self._options.found_at_source:
                candidate.reasons[name] = None
            return
        decision = self._plans.decide(name, key, candidate.when)
        why = decision.reason if decision.keep else self._stopped.get(name)
        if not decision.keep and key in self._options.found_at_source:
            why = "found at the source by this run"
        if listed.record is None:
            why = "it has no manifest, so nothing says that it is ours to remove"
        if why is None:
            candidate.reasons[name] = decision.reason
        else:
            self._say(PruneStep(key, name, "kept", why, listed.data.size))

    async def _decide_all(self, candidate: _Candidate) -> None:
        """Ask every replica about one object, and do what may be done on each of its backends."""
        findings = await asyncio.gather(*(_ask(store, candidate.seen) for store in self._targets.stores))
        case = ObjectFacts(
            candidate.seen, candidate.when, {each.store.name: each for each in findings}, dict(self._stopped)
        )
        await asyncio.gather(*(self._decide_one(name, why, case) for name, why in candidate.reasons.items()))

    async def _decide_one(self, name: str, reason: str | None, case: ObjectFacts) -> None:
        finding = case.findings[name]
        ruling = decide(name, case, self._plans)
        if ruling.outcome == "gone" or (reason is None and (ruling.outcome != "go" or finding.stat is not None)):
            return  # a record alone that is not ours to clear is repair's business
        created = finding.manifest.created_at if finding.manifest else None
        size = _size(finding.stat)
        if ruling.outcome != "go":
            text = ruling.reason if ruling.outcome == "failed" else f"{reason}; but {ruling.reason}"
            self._say(PruneStep(case.seen.key, name, ruling.outcome, text, size, created))
            return
        what = reason or "an interrupted prune left its manifest without the data"
        step = PruneStep(case.seen.key, name, "planned", f"{what}; {ruling.reason}", size, created)
        if not self._options.dry_run:
            step = await self._remove(finding, replace(step, outcome="let go" if reason else "cleared"))
        self._say(step)

    async def _remove(self, finding: ReplicaState, step: PruneStep) -> PruneStep:
        try:
            await delete_copy(finding, step.key)
        except LockedError as error:
            return replace(step, outcome="not yet", reason=f"{step.reason}; but {error}")
        except ConflictError as error:
            return replace(step, outcome="held", reason=f"{step.reason}; but {error}")
        except Exception as error:  # noqa: BLE001 - one copy's failure is its result, never another's
            wrapped = as_backend_error(error, step.backend, step.key, "prune")
            events.log_outcome("prune", step.backend, step.key, error=wrapped)
            return replace(step, outcome="failed", reason=str(wrapped))
        events.log_outcome("prune", step.backend, step.key, size=step.size)
        return step

    def _say(self, step: PruneStep) -> None:
        self._outcomes[step.backend][step.outcome] += 1
        if step.outcome in ("let go", "planned"):
            self._freed[step.backend] += step.size
        if step.outcome != "kept" and len(self._steps) < NAMED:
            self._steps.append(step)
        if self._hear is not None:
            self._hear(step)


async def _ask(store: ObjectStore, seen: KeyEntry) -> ReplicaState:
    """Ask one replica; one that could not be listed is not waited for."""
    return ReplicaState(store) if seen.replicas[store.name] is None else await records.query(store, seen.key)


def _size(stat: ObjectStat | None) -> int:
    return 0 if stat is None else stat.size
