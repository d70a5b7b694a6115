"""Repairs many objects at once: inspects, plans and executes until each is right, and counts."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

from fsbackup.aio import for_each
from fsbackup.engine import marker
from fsbackup.engine.intents import SAFE_AGE
from fsbackup.engine.records import new_id
from fsbackup.engine.repairs import RepairMarks
from fsbackup.engine.replicas import MemoryBudget, ReplicaSet
from fsbackup.loop import run
from fsbackup.replication.batches import Batch, Executor, KeyTask, batches, key_tasks, prepare_job, run_batches
from fsbackup.replication.classify import IsExpired, ObjectStatus
from fsbackup.replication.inspector import Inspector
from fsbackup.replication.repair.brake import Brake, HeldObject
from fsbackup.replication.repair.execute import RoundExecutor
from fsbackup.replication.repair.inspection import Inspection, inspect_object
from fsbackup.replication.repair.keys import refill_keys
from fsbackup.replication.repair.orphans import clear_orphans, list_intents
from fsbackup.replication.repair.plan import describe, plan
from fsbackup.replication.repair.report import NAMED, Action, OnStep, RepairReport, Step
from fsbackup.replication.walk import Unreachable, Walk

#: Objects repaired at once; their parts share the set's memory.
WORKERS = 16
#: Rounds of inspecting, planning and executing per object.
_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class RepairOptions:
    """The options of a repair, see `ReplicatedStorage.repair`; replicas in `unreachable` are not asked.

    Batches of one repair have the same `run`, see `RepairMarks`.
    """

    prefix: str = ""
    dry_run: bool = False
    deep: bool = False
    adopt: bool = False
    expired: IsExpired | None = None
    unreachable: Unreachable | None = None
    safe_age: float = SAFE_AGE
    allow_many: bool = False
    run: str = ""


async def repair(targets: ReplicaSet, options: RepairOptions, on_step: OnStep | None = None) -> RepairReport:
    """Repair the objects at or below a prefix; `on_step` gets every step as it is done.

    Raises
    ------
    NoHealthyReplicaError
        When no replica can be listed.
    """
    repairer = Repairer(targets, options, on_step)
    intents, unreachable = await list_intents(targets.stores, options.prefix, options.unreachable or {})
    walk = Walk(targets.stores, options.prefix, unreachable=unreachable)
    await repairer.repair_all(key_tasks(walk, intents=intents))
    report = await repairer.finish(walk.errors)
    await _finish_markers(targets, report)
    return report


async def _finish_markers(targets: ReplicaSet, report: RepairReport) -> None:
    """Let replicas that were accepted empty count for absence again, where all of the set was brought there."""
    if not (report.dry_run or report.failed or report.unreachable):
        await marker.finish(targets.stores, report.prefix)


def repair_with(
    executor: Executor,
    config: tuple[str, str],
    targets: ReplicaSet,
    options: RepairOptions,
    on_step: OnStep | None = None,
) -> RepairReport:
    """Repair as `repair` does, in batches that `executor` runs; called from synchronous code.

    `config` is the path of the configuration file and the name of the set in it. Orphans are removed from here,
    after all batches.
    """
    started = time.monotonic()
    job, unreachable = run(prepare_job(*config, targets.stores, options.unreachable or {}))
    intents, unreachable = run(list_intents(targets.stores, options.prefix, unreachable))
    walk = Walk(targets.stores, options.prefix, unreachable=unreachable)
    source = batches(key_tasks(walk, intents=intents), options.expired, targets)
    portable = replace(options, prefix="", expired=None, unreachable=None, run=new_id())
    report = RepairReport.empty(options.prefix, dry_run=options.dry_run, deep=options.deep)
    with closing(run_batches(executor, repair_batch, job, portable, source)) as parts:
        for part in parts:
            report = report.plus(part)
            if on_step is not None:
                for step in part.steps:
                    on_step(step)
    report = report.plus(run(_clear_after(targets, options, on_step, report, walk.errors)))
    run(_finish_markers(targets, report))
    return replace(report, seconds=time.monotonic() - started)


async def _clear_after(
    targets: ReplicaSet, options: RepairOptions, on_step: OnStep | None, report: RepairReport, errors: Unreachable
) -> RepairReport:
    answering = tuple(each for each in targets.stores if each.name not in report.unreachable)
    return await Repairer(replace(targets, stores=answering), options, on_step).finish(errors)


async def repair_batch(targets: ReplicaSet, batch: Batch, options: RepairOptions) -> RepairReport:
    """Repair one batch in a worker; the report names every step."""
    steps: list[Step] = []
    repairer = Repairer(targets, replace(options, expired=batch.is_expired), steps.append)
    await repairer.repair_all(batch.key_tasks())
    return replace(repairer.report({}), steps=tuple(steps))


class Repairer:
    """Repairs objects, any number side by side, and counts.

    Parameters
    ----------
    targets, options
        The set, and the options of the run.
    on_step
        Called with every step as it is done.
    """

    def __init__(
        self,
        targets: ReplicaSet,
        options: RepairOptions,
        on_step: OnStep | None,
    ) -> None:
        self._targets = targets
        self._options = options
        self._on_step = on_step
        self._budget = MemoryBudget(targets.memory)
        self._marks = RepairMarks(options.run)
        self._brake = Brake(released=options.allow_many or options.dry_run)
        now = time.monotonic()
        self._inspector = Inspector(targets, expired=options.expired, since=now)
        self._deep_inspector = Inspector(targets, deep=True, expired=options.expired, since=now)
        self._started = time.monotonic()
        #: Why a replica did not answer for some object, by name.
        self._unreachable: dict[str, str] = {}
        self._done: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()
        self._steps: list[Step] = []

    async def repair_all(self, tasks: AsyncGenerator[tuple[KeyTask, Unreachable], None]) -> None:
        """Bring objects in order, as far as that is possible now."""
        try:
            await for_each(tasks, self._repair, WORKERS)
            await self._release()
        finally:
            await self._marks.remove()

    async def _repair(self, each: tuple[KeyTask, Unreachable]) -> None:
        """Bring one object in order, as far as that is possible now."""
        task, unreachable = each
        deep, rounds = self._options.deep, _ROUNDS
        while True:
            inspection = await self._inspect(task, unreachable, deep=deep)
            if inspection.status.is_foreign and not task.intents:
                return
            actions = plan(inspection, adopt=self._options.adopt, safe_age=self._options.safe_age)
            todo = [action for action in actions if action.kind != "leave"]
            if not todo or not rounds or self._options.dry_run:
                break
            if self._brake.holds(each, inspection.status, todo):
                return
            result = await RoundExecutor(self._targets, self._budget, inspection, self._marks).execute(todo)
            for step in result.steps:
                self._add(step)
            outcomes = {step.outcome for step in result.steps}
            # A copy that looked right returned wrong bytes: read every copy of this object.
            newly_corrupt = bool(result.corrupt_replicas) and not deep
            unread = any(action.kind == "forget delete" for action in todo)  # a deleted copy is not read
            deep = newly_corrupt or (deep and (unread or outcomes != {"done"}))
            rounds = rounds - 1 if newly_corrupt or "failed" not in outcomes else 0
        self._conclude(inspection.status, actions)

    async def _release(self) -> None:
        """Repair what the brake held back, or report it when it is too much; called after all other objects."""
        held, count = self._brake.held, self._brake.count
        if self._brake.trips(self._counts["objects"] + count):
            why = f"{count:,} objects would lose a proven copy: see --dry-run, and if that is right add --yes"
            for one in held:
                self._add(Step(Action("leave", one.each[0].key, None, why, "held back"), "unresolved"))
            self._counts["under_replicated"] += sum(one.under_replicated for one in held)
            self._counts["unresolved"] += count
            self._counts["objects"] += count
        else:
            self._brake.released = True
            await for_each(_each(held), lambda one: self._repair(one.each), WORKERS)
            self._counts["unresolved"] += count - len(held)
            self._counts["objects"] += count - len(held)

    async def _inspect(self, task: KeyTask, unreachable: Unreachable, *, deep: bool) -> Inspection:
        inspector = self._deep_inspector if deep else self._inspector
        status = await inspector.inspect(task.key, unreachable, task.stored)
        return await inspect_object(status, task.intents, self._budget, adopt=self._options.adopt)

    def _conclude(self, status: ObjectStatus, actions: tuple[Action, ...]) -> None:
        """Count how the object ends, and report what remains to be done or is planned by a dry run."""
        for action in actions:
            if action.kind == "leave":
                self._add(Step(action, "unresolved"))
            elif self._options.dry_run:
                self._add(Step(action, "planned"))
        unrecoverable = _is_unrecoverable(status)
        if unrecoverable and not self._options.dry_run and not any(action.problem for action in actions):
            why = f"no replica proves it any more: {describe(status)}"
            self._add(Step(Action("leave", status.key, None, why, "unrecoverable"), "unresolved"))
        for name, state in status.states.items():
            if state == "unknown":
                why = str(status.replicas[name].error or status.replicas[name].detail)
                self._unreachable.setdefault(name, why)
        self._counts["objects"] += 1
        self._counts["unresolved"] += bool(actions)
        self._counts["under_replicated"] += status.is_under_replicated
        self._counts["unrecoverable"] += unrecoverable

    def _add(self, step: Step) -> None:
        """Count a step and report it."""
        if step.outcome in ("done", "planned"):
            self._done[step.action.kind] += 1
        self._counts["failed"] += step.outcome == "failed"
        self._counts["bytes_sent"] += step.bytes_sent
        if len(self._steps) < NAMED:
            self._steps.append(step)
        if self._on_step is not None:
            self._on_step(step)

    async def finish(self, errors: Unreachable) -> RepairReport:
        """Refill keys and remove orphans, unless the repair is of a few objects, and return the report.

        Neither has a prefix. A prefix of one segment may be all that the set has on backends that it shares with
        others. `errors` says which replicas could not be listed.
        """
        if "/" in self._options.prefix.removesuffix("/"):
            return self.report(errors)
        stores = [s for s in self._targets.stores if s.name not in errors and s.name not in self._unreachable]
        dry_run = self._options.dry_run
        unlisted = dict(await refill_keys(stores, self._add, dry_run=dry_run))
        unlisted |= await clear_orphans(stores, self._options.safe_age, self._add, dry_run=dry_run)
        return self.report({**errors, **unlisted})

    def report(self, unlisted: Unreachable) -> RepairReport:
        """Return what was done; `unlisted` are the replicas that could not be listed."""
        return RepairReport(
            prefix=self._options.prefix,
            dry_run=self._options.dry_run,
            deep=self._options.deep,
            objects=self._counts["objects"],
            done=dict(self._done),
            failed=self._counts["failed"],
            unresolved=self._counts["unresolved"],
            under_replicated=self._counts["under_replicated"],
            unrecoverable=self._counts["unrecoverable"],
            unreachable={**self._unreachable, **{name: str(error) for name, error in unlisted.items()}},
            bytes_sent=self._counts["bytes_sent"],
            seconds=time.monotonic() - self._started,
            steps=tuple(self._steps),
        )


async def _each(held: Sequence[HeldObject]) -> AsyncGenerator[HeldObject, None]:
    for one in held:
        yield one


def _is_unrecoverable(status: ObjectStatus) -> bool:
    """Tell whether no replica proves it, and every one answered."""
    states = set(status.states.values())
    if status.is_deleted or status.latest is None or states == {"expired"}:
        return False
    return not {"present", "unknown", "newer", "conflict", "unconfirmed"} & states
