"""`repair`: every object that is not right everywhere made right from replicas that prove it, many at a time."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import aclosing
from dataclasses import dataclass

from fsbackup.errors import FsbackupError
from fsbackup.keys import PENDING, decode_name, encode_key, in_prefix
from fsbackup.objects import Leftover, ObjectStore
from fsbackup.replication.compare import stored
from fsbackup.replication.examine import Examiner
from fsbackup.replication.repair.act import Actor
from fsbackup.replication.repair.evidence import Evidence, gather
from fsbackup.replication.repair.plan import SAFE_AGE, plan, said
from fsbackup.replication.repair.results import NAMED, Action, Hear, RepairReport, Step
from fsbackup.replication.states import Expired, Verdict
from fsbackup.replication.walk import Away, Seen, Walk
from fsbackup.transfer.replicas import MemoryBudget, ReplicaSet

#: Objects in hand at once; their parts share the set's memory.
_WORKERS = 16
#: Rounds of examining, planning and acting per object: what shows after one is mended in the next.
_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Options:
    """What a repair was asked for; see `ReplicatedStorage.repair`."""

    prefix: str = ""
    dry_run: bool = False
    deep: bool = False
    adopt: bool = False
    expired: Expired | None = None
    away: Away | None = None
    safe_age: float = SAFE_AGE


async def repair(targets: ReplicaSet, options: Options, hear: Hear | None = None) -> RepairReport:
    """Repair the objects at or below a prefix.

    Raises
    ------
    NoHealthyReplicaError
        When no replica can be listed.
    """
    return await _Repair(targets, options, hear).run()


class _Repair:
    def __init__(self, targets: ReplicaSet, options: Options, hear: Hear | None) -> None:
        self._targets = targets
        self._options = options
        self._hear = hear
        self._budget = MemoryBudget(targets.memory)
        self._cheap = Examiner(targets, expired=options.expired)
        self._deep = Examiner(targets, deep=True, expired=options.expired)
        self._clock = asyncio.get_running_loop().time
        self._started = self._clock()
        #: When each replica got the announcement of a key, for those that list one.
        self._pending: dict[str, dict[str, float]] = {}
        #: Replicas that are not waited for again, and those that did not answer for an object.
        self._unlisted: dict[str, FsbackupError] = dict(options.away or {})
        self._away: dict[str, str] = {}
        self._done: Counter[str] = Counter()
        self._tally: Counter[str] = Counter()
        self._steps: list[Step] = []

    async def run(self) -> RepairReport:
        await asyncio.gather(*(self._list_announcements(store) for store in self._targets.stores))
        self._walk = Walk(self._targets.stores, self._options.prefix, away=self._unlisted)
        keys: asyncio.Queue[Seen | None] = asyncio.Queue(2 * _WORKERS)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._feed(keys))
            for _ in range(_WORKERS):
                tasks.create_task(self._work(keys))
        await asyncio.gather(*(self._clear_leftovers(store) for store in self._targets.stores))
        return self._report()

    async def _feed(self, keys: asyncio.Queue[Seen | None]) -> None:
        async with aclosing(self._walk.keys()) as walk:
            async for seen in walk:
                await keys.put(seen)
        # Announcements of which neither the object nor its record is left.
        for key in list(self._pending):
            await keys.put(Seen(key, {}))
        for _ in range(_WORKERS):
            await keys.put(None)

    async def _work(self, keys: asyncio.Queue[Seen | None]) -> None:
        while (seen := await keys.get()) is not None:
            await self._mend(seen)

    async def _mend(self, seen: Seen) -> None:
        """Bring one object in order, as far as that can be done now."""
        # What could not be listed is not known, whatever single questions would be answered.
        away = {name: error for name, error in self._walk.errors.items() if seen.replicas.get(name) is None}
        pending = self._pending.pop(seen.key, {})
        deep, rounds = self._options.deep, _ROUNDS
        while True:
            evidence = await self._examine(seen, away, pending, deep=deep)
            actions = plan(evidence, adopt=self._options.adopt, safe_age=self._options.safe_age)
            todo = [action for action in actions if action.kind != "leave"]
            if not todo or not rounds or self._options.dry_run:
                break
            acted = await Actor(self._targets, self._budget, evidence).act(todo)
            for step in acted.steps:
                self._say(step)
            outcomes = {step.outcome for step in acted.steps}
            # Reading everything is worth it where a copy that looked right gave wrong bytes.
            found_rotten = bool(acted.liars) and not deep
            deep = found_rotten or (deep and outcomes != {"done"})
            rounds = rounds - 1 if found_rotten or "failed" not in outcomes else 0
        self._conclude(evidence, actions)

    async def _examine(
        self, seen: Seen, away: dict[str, FsbackupError], pending: dict[str, float], *, deep: bool
    ) -> Evidence:
        examiner = self._deep if deep else self._cheap
        verdict = await examiner.examine(seen.key, away, stored(seen))
        return await gather(verdict, pending, self._budget, adopt=self._options.adopt)

    def _conclude(self, evidence: Evidence, actions: tuple[Action, ...]) -> None:
        """Count how the object stands at the end; what is still to do (a dry run's plan) is said too."""
        for action in actions:
            if action.kind == "leave":
                self._say(Step(action, "left"))
            elif self._options.dry_run:
                self._say(Step(action, "planned"))
        verdict = evidence.verdict
        lost = _is_lost(verdict)
        if lost and not self._options.dry_run and not any(action.problem for action in actions):
            why = f"no replica can prove it any more: {said(verdict)}"
            self._say(Step(Action("leave", verdict.key, None, why, "lost"), "left"))
        self._tally["objects"] += 1
        self._tally["left"] += bool(actions)
        for name, state in verdict.states.items():
            if state == "unknown":
                self._away.setdefault(name, str(verdict.findings[name].error or verdict.details.get(name, "")))
        self._tally["short"] += _is_short(verdict, self._targets.min_copies)
        self._tally["lost"] += lost

    async def _list_announcements(self, store: ObjectStore) -> None:
        if store.name in self._unlisted:
            return
        prefix = self._options.prefix
        try:
            async for stat in store.list(PENDING + encode_key(prefix.removesuffix("/"))):
                key = decode_name(stat.name.removeprefix(PENDING))
                if key is not None and in_prefix(key, prefix):
                    # One of unknown age is as young as can be.
                    found = self._pending.setdefault(key, {})
                    found[store.name] = float("inf") if stat.modified is None else stat.modified
        except FsbackupError as error:
            self._unlisted[store.name] = error

    async def _clear_leftovers(self, store: ObjectStore) -> None:
        """Clear what unfinished writes of ours left, all of it: its names say nothing of a prefix."""
        if self._options.prefix or store.name in {**self._walk.errors, **self._away}:
            return
        try:
            async for leftover in store.leftovers(self._options.safe_age):
                await self._clear_one(store, leftover)
        except FsbackupError as error:
            self._away[store.name] = str(error)

    async def _clear_one(self, store: ObjectStore, leftover: Leftover) -> None:
        action = Action("clear leftover", leftover.name, store.name, f"{leftover.what}, never finished")
        if self._options.dry_run:
            self._say(Step(action, "planned"))
            return
        try:
            await store.discard(leftover)
        except FsbackupError as error:
            self._say(Step(action, "failed", str(error)))
        else:
            self._say(Step(action, "done"))

    def _say(self, step: Step) -> None:
        if step.outcome in ("done", "planned"):
            self._done[step.action.kind] += 1
        self._tally["failed"] += step.outcome == "failed"
        self._tally["bytes"] += step.bytes_sent
        if len(self._steps) < NAMED:
            self._steps.append(step)
        if self._hear is not None:
            self._hear(step)

    def _report(self) -> RepairReport:
        unlisted = {name: str(error) for name, error in self._walk.errors.items()}
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
            away={**self._away, **unlisted},
            bytes_sent=self._tally["bytes"],
            seconds=self._clock() - self._started,
            steps=tuple(self._steps),
        )


def _is_short(verdict: Verdict, min_copies: int) -> bool:
    """Tell whether too few replicas have it proven; one that could not be asked may have it."""
    if verdict.deleted or not _is_there(verdict):
        return False
    good = sum(state in ("present", "unknown", "expired", "conflict") for state in verdict.states.values())
    return good < min_copies


def _is_lost(verdict: Verdict) -> bool:
    """Tell whether no replica proves it, and none is left that might."""
    if verdict.deleted or verdict.top is None:
        return False
    return not {"present", "unknown", "conflict", "expired"} & set(verdict.states.values())


def _is_there(verdict: Verdict) -> bool:
    """Tell whether there is anything at all: it may have gone between the listing and the question."""
    return any(f.stat is not None or f.record is not None or f.damaged for f in verdict.findings.values())
