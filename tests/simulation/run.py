"""Runs one case from its beginning to the end, and returns what was violated, and the trace."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from fsbackup.aio import cancel_and_wait
from fsbackup.engine import breaker
from fsbackup.engine.delete import delete
from fsbackup.engine.replicas import ReplicaSet
from fsbackup.engine.source import BytesSource
from fsbackup.engine.upload import upload
from fsbackup.errors import BackendUnavailableError
from fsbackup.replication.repair import RepairReport
from tests.simulation.case import Beginning, Case, content_of
from tests.simulation.judge import Judge, Violation, describe
from tests.simulation.loop import Clock, SimLoop, simulated_time
from tests.simulation.operation import KEY, Operation
from tests.simulation.operations import perform, repair_all
from tests.simulation.store import KINDS, Bucket, SimStore
from tests.simulation.world import EndlessError, Event, Faults, Process, Schedule, World

_MEMORY = 1 << 16
#: Seconds between the beginning and the operations, and before the last repair: two days.
_PAUSE, _LONG_PAUSE = 1000.0, 172_800.0
_FAULT_RATE = 0.05
#: Requests that can change what a store shows, and crashes.
_CHANGING = ("put", "remove", "vremove", "remeta", "CRASH")


@dataclass(frozen=True)
class Result:
    """The outcome of one case."""

    case: Case
    violations: tuple[Violation, ...]
    events: tuple[Event, ...]
    operations: tuple[Operation, ...]

    def describe(self, *, brief: bool = False) -> str:
        """Return the case, its trace (`brief`: what changed a store), the reports and the violations."""
        events = [each for each in self.events if not brief or each.verb in _CHANGING]
        return "\n".join(map(str, (self.case, *events, *self.operations, *self.violations)))


def run_case(case: Case) -> Result:
    """Run a case; the same case gives the same result."""
    breaker.forget()
    old, newer = content_of("old", case.same_size, 4), content_of("older", case.same_size, 5)
    prepared, serial = _prepare(case.layout, case.beginning, case.odd, case.part_size, old, newer)
    return _Run(case, [each.copy() for each in prepared], serial, frozenset({old, newer})).run()


class _Run:
    def __init__(self, case: Case, buckets: list[Bucket], serial: int, contents: frozenset[bytes]) -> None:
        self._case, self._buckets = case, buckets
        self._clock = Clock()
        self._clock.advance(_PAUSE)
        self._world = World(self._clock, random.Random(f"world {case.seed}"))
        self._world.serial = serial
        self._operations = case.operations()
        self._judge = Judge(
            buckets,
            {each.name: each for each in self._operations},
            contents | {each.content for each in self._operations if each.content is not None},
            _tolerated(case, buckets),
            describe(buckets),
            case.min_copies,
        )

    def run(self) -> Result:
        world, case = self._world, self._case
        world.schedule = Schedule(case.mode, random.Random(f"schedule {case.seed}"), case.changes, case.jump)
        world.faults = Faults(random.Random(f"faults {case.seed}"), case.faults, _FAULT_RATE)
        world.tick, world.observer, world.killed = case.tick, self._judge, self._on_crash
        try:
            run_in_simulation(world, case.seed, self._main)
        except EndlessError as error:
            self._judge.fail("endless", str(error))
        return Result(case, tuple(self._judge.violations), tuple(world.events), tuple(self._operations))

    async def _main(self) -> None:
        await self._concurrently()
        self._judge.judge_reports()
        await self._settle()

    async def _concurrently(self) -> None:
        processes = [Process(each.name) for each in self._operations]
        if self._case.crash is not None:
            number, step, after_effect = self._case.crash
            processes[number].crash_at, processes[number].after_effect = step, after_effect
        pairs = zip(processes, self._operations, strict=True)
        tasks = [asyncio.create_task(self._process(process, operation)) for process, operation in pairs]
        for process, task in zip(processes, tasks, strict=True):
            process.task = task
        await asyncio.gather(*(_end_of(process, task) for process, task in zip(processes, tasks, strict=True)))
        for task in tasks:
            if task.done() and not task.cancelled():
                task.result()

    async def _process(self, process: Process, operation: Operation) -> None:
        await perform(operation, self._targets(process))
        operation.end = self._judge.step
        operation.faulted = self._case.faults > 0

    def _on_crash(self, process: Process) -> None:
        operation = self._judge.operations[process.name]
        operation.status, operation.end = "crashed", self._judge.step

    def _targets(self, process: Process) -> ReplicaSet:
        stores = tuple(SimStore(self._world, process, each) for each in self._buckets)
        return ReplicaSet(stores, self._case.min_copies, part_size=self._case.part_size, memory=_MEMORY)

    async def _settle(self) -> None:
        """Repair at once, and after two days, when nothing counts as under way any more, twice."""
        world = self._world
        world.schedule, world.faults.left = None, 0
        await repair_all(self._targets(Process("settle")))
        self._clock.advance(_LONG_PAUSE)
        first = await repair_all(self._targets(Process("settle-1")))
        second = await repair_all(self._targets(Process("settle-2")))
        self._judge.judge_end(_left(first), _done(second))


async def _end_of(process: Process, task: asyncio.Task[None]) -> None:
    """Wait until a process has ended, or is killed: what it may still want to do then has no effect."""
    killed = asyncio.create_task(process.killed.wait())
    await asyncio.wait([task, killed], return_when=asyncio.FIRST_COMPLETED)
    await cancel_and_wait([killed])


def run_in_simulation(world: World, seed: int, main: Callable[[], Awaitable[None]]) -> None:
    """Run `main` on a loop of its own, and clean up after it."""

    async def supervise() -> None:
        await main()

    with simulated_time(world.clock, seed):
        loop = SimLoop(world.clock, world.idle)
        try:
            loop.run_until_complete(supervise())
        finally:
            _clean_up(loop)


def _clean_up(loop: SimLoop) -> None:
    pending = asyncio.all_tasks(loop)
    for task in pending:
        task.cancel()
    if pending:
        loop.run_until_complete(asyncio.wait(pending))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


def _left(report: RepairReport) -> list[str]:
    return [f"{each.action.problem} {each.action.reason}" for each in report.steps if each.outcome == "unresolved"]


def _done(report: RepairReport) -> list[str]:
    outcomes = ("done", "failed", "superseded")
    return [
        f"{each.action.kind} {each.action.backend}: {each.outcome}"
        for each in report.steps
        if each.outcome in outcomes
    ]


def _tolerated(case: Case, buckets: Sequence[Bucket]) -> frozenset[int]:
    """Return the serial of the data that is rotten in the beginning."""
    data = buckets[case.odd].get(KEY)
    return frozenset({data.serial} if case.beginning == "rotten" and data is not None else set())


@lru_cache(maxsize=4096)
def _prepare(
    layout: tuple[str, ...], beginning: Beginning, odd: int, part_size: int, old: bytes, older: bytes
) -> tuple[tuple[Bucket, ...], int]:
    """Return stores in the state in which a case begins, made by the engine itself, and the last serial."""
    buckets = [Bucket("abc"[number], KINDS[kind]) for number, kind in enumerate(layout)]
    world = World(Clock(), random.Random(0))

    def targets(without: int | None = None) -> ReplicaSet:
        stores = [SimStore(world, Process("begin"), each) for each in buckets]
        kept = [each for number, each in enumerate(stores) if number != without]
        return ReplicaSet(tuple(kept), 1, part_size=part_size, memory=_MEMORY)

    async def store(content: bytes, without: int | None = None) -> None:
        report = await upload(targets(without), KEY, BytesSource(content, "begin"), overwrite=True)
        assert report.status == "complete", report

    async def main() -> None:
        if beginning == "absent":
            return
        if beginning == "stale":
            await store(older)
        await store(old, odd if beginning in ("missing", "stale") else None)
        if beginning == "deleted":
            await _delete_without(targets(), odd)

    run_in_simulation(world, 0, main)
    if beginning == "rotten":
        _rot(buckets[odd])
    return tuple(buckets), world.serial


async def _delete_without(targets: ReplicaSet, odd: int) -> None:
    """Delete while one replica does not answer: it keeps its data, the others get tombstones."""
    store = targets.stores[odd]
    assert isinstance(store, SimStore)
    away = _Away(store)
    stores = tuple(away if number == odd else each for number, each in enumerate(targets.stores))
    await delete(replace(targets, stores=stores), KEY)


class _Away(SimStore):
    """A store that does not answer."""

    def __init__(self, store: SimStore) -> None:
        super().__init__(store.world, store.process, store.bucket)

    async def stat(self, name: str) -> None:
        raise BackendUnavailableError("away", backend=self.name, key=name)


def _rot(bucket: Bucket) -> None:
    """Change a byte of the data; its size, ETag and time stay."""
    data = bucket.get(KEY)
    assert data is not None
    bucket.versions[KEY][-1] = replace(data, data=b"~" + data.data[1:])
