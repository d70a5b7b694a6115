"""`verify`: every object of a set examined, and what is wrong told as it is found. It changes nothing, ever.

By default an object costs each replica two requests: its manifest is read and its data asked for, and sizes,
ETags, generations and hashes are compared. That finds copies that are missing, short, stale, exchanged or written
over. Only `deep`, which reads every byte of every copy, finds bytes that rotted where they lie.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from fsbackup.aio import for_each
from fsbackup.engine.breaker import CircuitBreaker
from fsbackup.engine.replicas import ReplicaSet
from fsbackup.engine.results import Status
from fsbackup.loop import run
from fsbackup.replication.batches import Batch, Executor, KeyTask, batches, key_tasks, prepare_job, run_batches
from fsbackup.replication.classify import IsExpired, ObjectStatus
from fsbackup.replication.inspect import Inspector
from fsbackup.replication.problems import FINE, CopyProblem, is_gone, is_under_replicated, problems
from fsbackup.replication.sample import Sample
from fsbackup.replication.walk import Unreachable, Walk

#: Objects examined at once. What they read shares the set's memory.
WORKERS = 16
#: Problems that a report names; it counts them all, and `hear` gets them all.
NAMED = 1000

OnProblem = Callable[[CopyProblem], None]


@dataclass(frozen=True, slots=True)
class CopyCounts:
    """What one backend has: how many objects in each state, and why it could not be listed, if so."""

    states: Mapping[str, int]
    error: str | None

    def plus(self, other: CopyCounts) -> CopyCounts:
        """Return it with other objects added."""
        return CopyCounts(Counter(self.states) + Counter(other.states), self.error)

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain JSON types."""
        return {"states": dict(self.states), "error": self.error}


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What a verification found.

    Parameters
    ----------
    prefix, deep, sample
        What was asked for; `sample` as ``"1/30"``, None for all objects.
    objects, complete
        How many objects were examined, and how many of them are right on every replica.
    short
        How many have too few proven copies.
    found
        How many problems there are.
    problems
        The first of them, at most 1,000.
    backends
        Each backend's part, by name.
    bytes_read
        Bytes of data read; 0 unless `deep`.
    seconds
        How long it took.
    """

    prefix: str
    deep: bool
    sample: str | None
    objects: int
    complete: int
    short: int
    found: int
    problems: tuple[CopyProblem, ...]
    backends: Mapping[str, CopyCounts]
    bytes_read: int
    seconds: float

    @property
    def status(self) -> Status:
        """``"complete"``, ``"degraded"`` (something is wrong or unknown) or ``"failed"`` (an object is short)."""
        if self.short:
            return "failed"
        return "degraded" if self.found or any(each.error for each in self.backends.values()) else "complete"

    def __bool__(self) -> bool:
        return self.status != "failed"

    def plus(self, other: VerifyReport) -> VerifyReport:
        """Return this report with what was found of other objects added."""
        return replace(
            self,
            objects=self.objects + other.objects,
            complete=self.complete + other.complete,
            short=self.short + other.short,
            found=self.found + other.found,
            problems=(self.problems + other.problems)[:NAMED],
            backends={name: each.plus(other.backends[name]) for name, each in self.backends.items()},
            bytes_read=self.bytes_read + other.bytes_read,
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON types."""
        return {
            "prefix": self.prefix,
            "status": self.status,
            "deep": self.deep,
            "sample": self.sample,
            "objects": self.objects,
            "complete": self.complete,
            "short": self.short,
            "found": self.found,
            "problems": [problem.as_dict() for problem in self.problems],
            "backends": {name: each.as_dict() for name, each in self.backends.items()},
            "bytes_read": self.bytes_read,
            "seconds": round(self.seconds, 3),
        }


async def verify(
    targets: ReplicaSet,
    prefix: str,
    *,
    deep: bool = False,
    sample: Sample | None = None,
    hear: OnProblem | None = None,
    expired: IsExpired | None = None,
    away: Unreachable | None = None,
) -> VerifyReport:
    """Examine every object at or below `prefix`; `hear` gets each problem at once, and who is `away` is not asked.

    Raises
    ------
    NoHealthyReplicaError
        When no replica can be listed.
    """
    started = asyncio.get_running_loop().time()
    walk = Walk(targets.stores, prefix, away=away)
    verification = _Run(targets, Inspector(targets, deep=deep, expired=expired), hear)
    await for_each(key_tasks(walk, sample.takes if sample else None), verification.examine, WORKERS)
    asked = blank(targets, prefix, deep=deep, sample=sample)
    return finished(verification.report(asked), walk.errors, asyncio.get_running_loop().time() - started)


def verify_with(
    executor: Executor,
    config: tuple[str, str],
    targets: ReplicaSet,
    prefix: str,
    *,
    deep: bool = False,
    sample: Sample | None = None,
    on_problem: OnProblem | None = None,
    expired: IsExpired | None = None,
    unreachable: Unreachable | None = None,
) -> VerifyReport:
    """Verify as `verify` does, in batches that `executor` runs; called from synchronous code.

    `config` is the path of the configuration file and the name of the set in it.
    """
    started = time.monotonic()
    job, errors = run(prepare_job(*config, targets.stores, unreachable or {}))
    walk = Walk(targets.stores, prefix, away=errors)
    source = batches(key_tasks(walk, sample.takes if sample else None), expired, targets)
    report = blank(targets, prefix, deep=deep, sample=sample)
    with closing(run_batches(executor, verify_batch, job, deep, source)) as parts:
        for part in parts:
            report = report.plus(part)
            if on_problem is not None:
                for problem in part.problems:
                    on_problem(problem)
    return finished(report, walk.errors, time.monotonic() - started)


async def verify_batch(targets: ReplicaSet, breaker: CircuitBreaker, batch: Batch, deep: bool) -> VerifyReport:
    """Verify one batch in a worker; the report names every problem."""
    found: list[CopyProblem] = []
    inspector = Inspector(targets, deep=deep, expired=batch.is_expired, outages=breaker)
    verification = _Run(targets, inspector, found.append)
    await for_each(batch.key_tasks(), verification.examine, WORKERS)
    return replace(verification.report(blank(targets, "", deep=deep, sample=None)), problems=tuple(found))


def blank(targets: ReplicaSet, prefix: str, *, deep: bool, sample: Sample | None) -> VerifyReport:
    """Return the report on nothing, to which others are added."""
    backends = {store.name: CopyCounts({}, None) for store in targets.stores}
    return VerifyReport(prefix, deep, str(sample) if sample else None, 0, 0, 0, 0, (), backends, 0, 0.0)


def finished(report: VerifyReport, errors: Unreachable, seconds: float) -> VerifyReport:
    """Return the report at the end of a walk, which says what could not be listed."""
    backends = {
        name: CopyCounts(dict(sorted(each.states.items())), str(errors[name]) if name in errors else None)
        for name, each in report.backends.items()
    }
    named = tuple(sorted(report.problems, key=lambda each: (each.key, each.backend)))
    return replace(report, backends=backends, problems=named, seconds=seconds)


class _Run:
    def __init__(self, targets: ReplicaSet, examiner: Inspector, hear: OnProblem | None) -> None:
        self._problems: list[CopyProblem] = []
        self._totals: Counter[str] = Counter()
        self._states: dict[str, Counter[str]] = {store.name: Counter() for store in targets.stores}
        self._min_copies = targets.min_copies
        self._examiner = examiner
        self._hear = hear

    async def examine(self, each: tuple[KeyTask, Unreachable]) -> None:
        task, away = each
        verdict = await self._examiner.inspect(task.key, away, task.stored)
        self._totals["bytes"] += verdict.bytes_read
        if is_gone(verdict):
            return  # it was removed since it was listed, or only the note of its delete is left
        self._count(verdict)
        for problem in problems(verdict):
            if problem.backend in away:
                continue  # that it cannot be listed is said once
            self._totals["found"] += 1
            if len(self._problems) < NAMED:
                self._problems.append(problem)
            if self._hear is not None:
                self._hear(problem)

    def _count(self, verdict: ObjectStatus) -> None:
        for name, state in verdict.states.items():
            self._states[name][state] += not (verdict.deleted and state == "missing")
        if not verdict.deleted:
            self._totals["objects"] += 1
            self._totals["complete"] += FINE.issuperset(verdict.states.values())
            self._totals["short"] += is_under_replicated(verdict, self._min_copies)

    def report(self, asked: VerifyReport) -> VerifyReport:
        """Return what was found, of what was `asked`."""
        return replace(
            asked,
            objects=self._totals["objects"],
            complete=self._totals["complete"],
            short=self._totals["short"],
            found=self._totals["found"],
            problems=tuple(self._problems),
            backends={
                name: CopyCounts({state: n for state, n in states.items() if n}, None)
                for name, states in self._states.items()
            },
            bytes_read=self._totals["bytes"],
        )
