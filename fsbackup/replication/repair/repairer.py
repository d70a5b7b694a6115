"""Mending single objects, any number side by side, and what came of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass

from fsbackup.engine.breaker import CircuitBreaker
from fsbackup.engine.replicas import MemoryBudget, ReplicaSet
from fsbackup.replication.classify import IsExpired, ObjectStatus
from fsbackup.replication.inspector import Inspector
from fsbackup.replication.portions import Question
from fsbackup.replication.repair.execute import RoundExecutor
from fsbackup.replication.repair.inspection import Inspection, inspect_object
from fsbackup.replication.repair.plan import SAFE_AGE, plan, said
from fsbackup.replication.repair.report import NAMED, Action, OnStep, RepairReport, Step
from fsbackup.replication.walk import Unreachable

#: Rounds of examining, planning and acting per object: what shows after one is mended in the next.
_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class RepairOptions:
    """What a repair was asked for; see `ReplicatedStorage.repair`. Who is `away` is not asked."""

    prefix: str = ""
    dry_run: bool = False
    deep: bool = False
    adopt: bool = False
    expired: IsExpired | None = None
    away: Unreachable | None = None
    safe_age: float = SAFE_AGE


class Repairer:
    """Mends objects and counts.

    Parameters
    ----------
    targets, options
        The set, and what was asked for.
    hear
        Hears of every step as it is done.
    outages
        What is known of the stores by those who go on from one mender to another.
    """

    def __init__(
        self,
        targets: ReplicaSet,
        options: RepairOptions,
        hear: OnStep | None,
        outages: CircuitBreaker | None = None,
    ) -> None:
        known = CircuitBreaker() if outages is None else outages
        self._targets = targets
        self._options = options
        self._hear = hear
        self._budget = MemoryBudget(targets.memory)
        self._cheap = Inspector(targets, expired=options.expired, breaker=known)
        self._deep = Inspector(targets, deep=True, expired=options.expired, breaker=known)
        self._clock = asyncio.get_running_loop().time
        self._started = self._clock()
        #: Replicas that did not answer for an object.
        self._away: dict[str, str] = {}
        self._done: Counter[str] = Counter()
        self._tally: Counter[str] = Counter()
        self._steps: list[Step] = []

    async def repair(self, each: tuple[Question, Unreachable]) -> None:
        """Bring one object in order, as far as that can be done now."""
        # What could not be listed is not known, whatever single questions would be answered.
        question, away = each
        deep, rounds = self._options.deep, _ROUNDS
        while True:
            evidence = await self._examine(question, away, deep=deep)
            actions = plan(evidence, adopt=self._options.adopt, safe_age=self._options.safe_age)
            todo = [action for action in actions if action.kind != "leave"]
            if not todo or not rounds or self._options.dry_run:
                break
            acted = await RoundExecutor(self._targets, self._budget, evidence).execute(todo)
            for step in acted.steps:
                self.say(step)
            outcomes = {step.outcome for step in acted.steps}
            # Reading everything is worth it where a copy that looked right gave wrong bytes.
            found_rotten = bool(acted.corrupt_replicas) and not deep
            deep = found_rotten or (deep and outcomes != {"done"})
            rounds = rounds - 1 if found_rotten or "failed" not in outcomes else 0
        self._conclude(evidence, actions)

    async def _examine(self, question: Question, away: Unreachable, *, deep: bool) -> Inspection:
        examiner = self._deep if deep else self._cheap
        verdict = await examiner.inspect(question.key, away, question.stored)
        return await inspect_object(verdict, question.pending, self._budget, adopt=self._options.adopt)

    def _conclude(self, evidence: Inspection, actions: tuple[Action, ...]) -> None:
        """Count how the object stands at the end; what is still to do (a dry run's plan) is said too."""
        for action in actions:
            if action.kind == "leave":
                self.say(Step(action, "left"))
            elif self._options.dry_run:
                self.say(Step(action, "planned"))
        verdict = evidence.verdict
        lost = _is_unrecoverable(verdict)
        if lost and not self._options.dry_run and not any(action.problem for action in actions):
            why = f"no replica can prove it any more: {said(verdict)}"
            self.say(Step(Action("leave", verdict.key, None, why, "lost"), "left"))
        self._tally["objects"] += 1
        self._tally["left"] += bool(actions)
        for name, state in verdict.states.items():
            if state == "unknown":
                self._away.setdefault(name, str(verdict.replicas[name].error or verdict.replicas[name].detail))
        self._tally["short"] += verdict.is_under_replicated
        self._tally["lost"] += lost

    def say(self, step: Step) -> None:
        """Count a step, and tell of it."""
        if step.outcome in ("done", "planned"):
            self._done[step.action.kind] += 1
        self._tally["failed"] += step.outcome == "failed"
        self._tally["bytes"] += step.bytes_sent
        if len(self._steps) < NAMED:
            self._steps.append(step)
        if self._hear is not None:
            self._hear(step)

    @property
    def away(self) -> frozenset[str]:
        """The replicas that did not answer for some object."""
        return frozenset(self._away)

    def report(self, unlisted: Unreachable) -> RepairReport:
        """Return what was done; `unlisted` are the replicas that could not be listed."""
        return RepairReport(
            prefix=self._options.prefix,
            dry_run=self._options.dry_run,
            deep=self._options.deep,
            objects=self._tally["objects"],
            done=dict(self._done),
            failed=self._tally["failed"],
            left=self._tally["left"],
            short=self._tally["short"],
            lost=self._tally["lost"],
            away={**self._away, **{name: str(error) for name, error in unlisted.items()}},
            bytes_sent=self._tally["bytes"],
            seconds=self._clock() - self._started,
            steps=tuple(self._steps),
        )


def _is_unrecoverable(verdict: ObjectStatus) -> bool:
    """Tell whether no replica proves it, and none is left that might."""
    states = set(verdict.states.values())
    if verdict.is_deleted or verdict.latest is None or states == {"expired"}:
        return False
    return not {"present", "unknown", "conflict"} & states
