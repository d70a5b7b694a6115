"""`verify`: every object of a set examined, and what is wrong told as it is found. It changes nothing, ever.

By default an object costs each replica two requests: its manifest is read and its data asked for, and sizes,
ETags, generations and hashes are compared. That finds copies that are missing, short, stale, exchanged or written
over. Only `deep`, which reads every byte of every copy, finds bytes that rotted where they lie.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from fsbackup.replication.compare import stored
from fsbackup.replication.examine import Examiner
from fsbackup.replication.problems import FINE, Problem, is_gone, is_short, problems
from fsbackup.replication.sample import Sample
from fsbackup.replication.spread import for_each
from fsbackup.replication.states import Expired, Verdict
from fsbackup.replication.walk import Away, Seen, Walk
from fsbackup.transfer.replicas import ReplicaSet
from fsbackup.transfer.results import Status

#: Objects examined at once. What they read shares the set's memory.
WORKERS = 16
#: Problems that a report names; it counts them all, and `hear` gets them all.
NAMED = 1000

Hear = Callable[[Problem], None]


@dataclass(frozen=True, slots=True)
class BackendVerified:
    """What one backend has: how many objects in each state, and why it could not be listed, if so."""

    states: Mapping[str, int]
    error: str | None

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
    problems: tuple[Problem, ...]
    backends: Mapping[str, BackendVerified]
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
    hear: Hear | None = None,
    expired: Expired | None = None,
    away: Away | None = None,
) -> VerifyReport:
    """Examine every object at or below `prefix`; `hear` gets each problem at once, and who is `away` is not asked.

    Raises
    ------
    NoHealthyReplicaError
        When no replica can be listed.
    """
    started = asyncio.get_running_loop().time()
    walk = Walk(targets.stores, prefix, away=away)
    run = _Run(targets, walk, sample, Examiner(targets, deep=deep, expired=expired), hear)
    await for_each(run.keys(), run.examine, WORKERS)
    named = tuple(sorted(run.problems, key=lambda each: (each.key, each.backend)))
    return VerifyReport(
        prefix=prefix,
        deep=deep,
        sample=str(sample) if sample else None,
        objects=run.totals["objects"],
        complete=run.totals["complete"],
        short=run.totals["short"],
        found=run.totals["found"],
        problems=named,
        backends=run.backends(),
        bytes_read=run.totals["bytes"],
        seconds=asyncio.get_running_loop().time() - started,
    )


class _Run:
    def __init__(
        self, targets: ReplicaSet, walk: Walk, sample: Sample | None, examiner: Examiner, hear: Hear | None
    ) -> None:
        self.problems: list[Problem] = []
        self.totals: Counter[str] = Counter()
        self._states: dict[str, Counter[str]] = {store.name: Counter() for store in targets.stores}
        self._min_copies = targets.min_copies
        self._walk = walk
        self._sample = sample
        self._examiner = examiner
        self._hear = hear

    async def keys(self) -> AsyncGenerator[tuple[Seen, Away], None]:
        """Yield the keys to examine, each with the replicas that cannot be listed."""
        async with aclosing(self._walk.keys()) as keys:
            async for seen in keys:
                if self._sample is None or self._sample.takes(seen.key):
                    yield seen, self._walk.errors

    async def examine(self, each: tuple[Seen, Away]) -> None:
        seen, away = each
        verdict = await self._examiner.examine(seen.key, away, stored(seen))
        self.totals["bytes"] += verdict.bytes_read
        if is_gone(verdict):
            return  # it was removed since it was listed, or only the note of its delete is left
        self._count(verdict)
        for problem in problems(verdict):
            if problem.backend in away:
                continue  # that it cannot be listed is said once
            self.totals["found"] += 1
            if len(self.problems) < NAMED:
                self.problems.append(problem)
            if self._hear is not None:
                self._hear(problem)

    def _count(self, verdict: Verdict) -> None:
        for name, state in verdict.states.items():
            self._states[name][state] += not (verdict.deleted and state == "missing")
        if not verdict.deleted:
            self.totals["objects"] += 1
            self.totals["complete"] += FINE.issuperset(verdict.states.values())
            self.totals["short"] += is_short(verdict, self._min_copies)

    def backends(self) -> dict[str, BackendVerified]:
        errors = self._walk.errors
        return {
            name: BackendVerified(
                {state: n for state, n in sorted(states.items()) if n},
                str(errors[name]) if name in errors else None,
            )
            for name, states in self._states.items()
        }
