"""`verify`: inspects every object of a set and reports each problem as it is found. Changes nothing.

By default an object costs each replica two requests: its manifest is read and its data's metadata asked for, and
sizes, ETags, generations and hashes are compared. That finds copies that are missing, truncated, stale, exchanged
or overwritten. Only `deep`, which reads every byte of every copy, finds bytes that changed in place.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Literal

from fsbackup.aio import for_each
from fsbackup.engine.records import CopyState
from fsbackup.engine.replicas import ReplicaSet
from fsbackup.engine.results import BaseReport, Serializable, Status
from fsbackup.loop import run
from fsbackup.replication.batches import Batch, Executor, KeyTask, batches, key_tasks, prepare_job, run_batches
from fsbackup.replication.classify import HEALTHY, IsExpired, ObjectStatus
from fsbackup.replication.inspector import Inspector
from fsbackup.replication.sample import Sample
from fsbackup.replication.walk import Unreachable, Walk
from fsbackup.stores.base import PassedOver

#: Objects inspected at the same time. What they read shares the set's memory.
WORKERS = 16
#: Problems that a report has by name; it counts them all, and `on_problem` gets them all.
MAX_NAMED = 1000

#: ``"lost"``: the object has a manifest, and its data is on no replica.
ProblemState = CopyState | Literal["lost"]

_REPAIR = "`fsbackup repair` puts a proven copy there"
_ADVICE: dict[ProblemState, str] = {
    "missing": _REPAIR,
    "stale": _REPAIR,
    "size differs": _REPAIR,
    "damaged": _REPAIR,
    "no manifest": "`fsbackup repair` gives it its manifest back, or a proven copy",
    "deleted elsewhere": "`fsbackup repair` finishes the delete",
    "conflict": "`fsbackup repair` replaces it; if it is the right one, copy it away and put it with --overwrite",
    "unconfirmed": "put it again to complete it; `fsbackup repair` takes it back when it is a day old",
    "newer": "upgrade this fsbackup: it changes nothing of what a newer one has stored",
    "unknown": "verify it again when this backend answers",
    "lost": "back it up again from its source, or delete it with `fsbackup rm`",
}
_NO_MANIFEST_ANYWHERE = (
    "nothing proves it: `fsbackup repair --adopt` gives it a manifest where all copies are the same"
)
_NO_PROVEN_COPY = (
    "no proven copy is left: restore what you can from this one, and back it up again from its source"
)


@dataclass(frozen=True, slots=True)
class CopyProblem(Serializable):
    """One thing that is wrong with one replica of one object.

    Parameters
    ----------
    key, backend
        The object and the replica.
    state
        What is wrong, in one word or two.
    detail
        What exactly; empty where the state says it all.
    advice
        What to do about it.
    """

    key: str
    backend: str
    state: ProblemState
    detail: str
    advice: str


#: Called with each problem as it is found.
OnProblem = Callable[[CopyProblem], None]


def problems(status: ObjectStatus) -> Iterator[CopyProblem]:
    """Yield what is wrong with an object, replica by replica."""
    replicas = status.replicas.values()
    lost = status.manifest is not None and not any(each.stat or each.error for each in replicas)
    for replica in replicas:
        if replica.state in HEALTHY or (status.is_deleted and replica.state == "missing"):
            continue
        if not lost:
            advice = _advice(status, replica.state)
            yield CopyProblem(status.key, replica.backend, replica.state, replica.detail, advice)
        elif replica.record is not None:
            yield CopyProblem(status.key, replica.backend, "lost", "no replica has its data", _ADVICE["lost"])


def _advice(status: ObjectStatus, state: CopyState) -> str:
    states = status.states.values()
    unproven = status.latest is None and "no manifest" in states
    if unproven and state in ("no manifest", "missing"):
        return _NO_MANIFEST_ANYWHERE
    irreparable = status.copies == 0 and "unknown" not in states and not status.is_deleted
    return _NO_PROVEN_COPY if irreparable and _ADVICE[state] == _REPAIR else _ADVICE[state]


@dataclass(frozen=True, slots=True)
class CopyCounts(Serializable):
    """What one backend has.

    Parameters
    ----------
    states
        How many objects in each state.
    error
        Why it could not be listed, None when it could.
    passed_over
        What other programs left there, which is no object.
    """

    states: Mapping[str, int]
    error: str | None
    passed_over: PassedOver = field(default_factory=PassedOver)

    def plus(self, other: CopyCounts) -> CopyCounts:
        """Return these counts with those of other objects added."""
        states = Counter(self.states) + Counter(other.states)
        return CopyCounts(states, self.error, self.passed_over.plus(other.passed_over))


@dataclass(frozen=True, slots=True)
class VerifyReport(BaseReport):
    """What a verification found.

    Parameters
    ----------
    prefix, deep, sample
        The arguments; `sample` as ``"1/30"``, None for all objects.
    objects, complete
        How many objects were inspected, and how many of them are complete.
    under_replicated
        How many have too few proven copies.
    found
        How many problems there are.
    problems
        The first 1,000 of them.
    backends
        Each backend's part, by name.
    bytes_read
        Bytes of data read; 0 unless `deep`.
    seconds
        Wall time.
    """

    prefix: str
    deep: bool
    sample: str | None
    objects: int
    complete: int
    under_replicated: int
    found: int
    problems: tuple[CopyProblem, ...]
    backends: Mapping[str, CopyCounts]
    bytes_read: int
    seconds: float

    @property
    def status(self) -> Status:
        """``"failed"``: an object is under-replicated; ``"degraded"``: something else is wrong or unknown."""
        if self.under_replicated:
            return "failed"
        return "degraded" if self.found or any(each.error for each in self.backends.values()) else "complete"

    def plus(self, other: VerifyReport) -> VerifyReport:
        """Return this report with that on other objects added."""
        return replace(
            self,
            objects=self.objects + other.objects,
            complete=self.complete + other.complete,
            under_replicated=self.under_replicated + other.under_replicated,
            found=self.found + other.found,
            problems=(self.problems + other.problems)[:MAX_NAMED],
            backends={name: each.plus(other.backends[name]) for name, each in self.backends.items()},
            bytes_read=self.bytes_read + other.bytes_read,
        )


async def verify(
    targets: ReplicaSet,
    prefix: str,
    *,
    deep: bool = False,
    sample: Sample | None = None,
    on_problem: OnProblem | None = None,
    expired: IsExpired | None = None,
    unreachable: Unreachable | None = None,
) -> VerifyReport:
    """Inspect every object at or below `prefix`; replicas in `unreachable` are not asked.

    Raises
    ------
    NoHealthyReplicaError
        When no replica can be listed.
    """
    started = asyncio.get_running_loop().time()
    walk = Walk(targets.stores, prefix, unreachable=unreachable)
    verifier = _Verifier(targets, Inspector(targets, deep=deep, expired=expired), on_problem)
    await for_each(key_tasks(walk, sample.includes if sample else None), verifier.verify, WORKERS)
    report = verifier.report(empty_report(targets, prefix, deep=deep, sample=sample))
    return finish_report(report, walk, asyncio.get_running_loop().time() - started)


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
    walk = Walk(targets.stores, prefix, unreachable=errors)
    source = batches(key_tasks(walk, sample.includes if sample else None), expired, targets)
    report = empty_report(targets, prefix, deep=deep, sample=sample)
    with closing(run_batches(executor, verify_batch, job, deep, source)) as parts:
        for part in parts:
            report = report.plus(part)
            if on_problem is not None:
                for problem in part.problems:
                    on_problem(problem)
    return finish_report(report, walk, time.monotonic() - started)


async def verify_batch(targets: ReplicaSet, batch: Batch, deep: bool) -> VerifyReport:
    """Verify one batch in a worker; the report names every problem."""
    found: list[CopyProblem] = []
    inspector = Inspector(targets, deep=deep, expired=batch.is_expired)
    verifier = _Verifier(targets, inspector, found.append)
    await for_each(batch.key_tasks(), verifier.verify, WORKERS)
    return replace(verifier.report(empty_report(targets, "", deep=deep, sample=None)), problems=tuple(found))


def empty_report(targets: ReplicaSet, prefix: str, *, deep: bool, sample: Sample | None) -> VerifyReport:
    """Return the report on no objects, to which others are added."""
    backends = {store.name: CopyCounts({}, None) for store in targets.stores}
    return VerifyReport(prefix, deep, str(sample) if sample else None, 0, 0, 0, 0, (), backends, 0, 0.0)


def finish_report(report: VerifyReport, walk: Walk, seconds: float) -> VerifyReport:
    """Return the report at the end of a walk, with its errors and what it passed over, and sorted."""
    errors = {name: str(error) for name, error in walk.errors.items()}
    backends = {
        name: CopyCounts(
            dict(sorted(each.states.items())), errors.get(name), walk.passed_over[name].plus(each.passed_over)
        )
        for name, each in report.backends.items()
    }
    named = tuple(sorted(report.problems, key=lambda each: (each.key, each.backend)))
    return replace(report, backends=backends, problems=named, seconds=seconds)


class _Verifier:
    """Inspects objects and counts what it finds."""

    def __init__(self, targets: ReplicaSet, inspector: Inspector, on_problem: OnProblem | None) -> None:
        self._problems: list[CopyProblem] = []
        self._totals: Counter[str] = Counter()
        self._states: dict[str, Counter[str]] = {store.name: Counter() for store in targets.stores}
        self._passed_over = {store.name: PassedOver() for store in targets.stores}
        self._inspector = inspector
        self._on_problem = on_problem

    async def verify(self, task: tuple[KeyTask, Unreachable]) -> None:
        key_task, unreachable = task
        status = await self._inspector.inspect(key_task.key, unreachable, key_task.stored)
        self._totals["bytes_read"] += status.bytes_read
        if status.is_gone:
            return  # removed since it was listed, or only the tombstone is left
        if status.is_foreign:
            status.pass_over(self._passed_over)
            return
        self._count(status)
        for problem in problems(status):
            if problem.backend in unreachable:
                continue  # reported once per backend, not once per object
            self._totals["found"] += 1
            if len(self._problems) < MAX_NAMED:
                self._problems.append(problem)
            if self._on_problem is not None:
                self._on_problem(problem)

    def _count(self, status: ObjectStatus) -> None:
        for name, state in status.states.items():
            self._states[name][state] += not (status.is_deleted and state == "missing")
        if not status.is_deleted:
            self._totals["objects"] += 1
            self._totals["complete"] += status.is_complete
            self._totals["under_replicated"] += status.is_under_replicated

    def report(self, empty: VerifyReport) -> VerifyReport:
        """Return `empty` with what was counted."""
        backends = {
            name: CopyCounts(
                {state: count for state, count in states.items() if count}, None, self._passed_over[name]
            )
            for name, states in self._states.items()
        }
        return replace(
            empty,
            objects=self._totals["objects"],
            complete=self._totals["complete"],
            under_replicated=self._totals["under_replicated"],
            found=self._totals["found"],
            problems=tuple(self._problems),
            backends=backends,
            bytes_read=self._totals["bytes_read"],
        )
