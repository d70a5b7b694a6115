"""What every store of a set has of one key, asked concurrently, and how long a caller waits for each store.

`survey` waits for all stores. A reader waits for a quorum, and briefly for the others
(`survey_without_stragglers`); where it will read from one store alone, it asks only as many as prove the version
(`survey_to_read`). A change waits for a quorum and `min_copies`; a store that answers later takes part later
(`survey_for_change`). A store that is known to be away (`breaker`) is not asked, until a caller would have to
refuse without it (`decide`, `insist`). Where the answers look like those during a delete, tombstones of the last
seconds are read (`settled`).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

from fsbackup.aio import cancel_and_wait
from fsbackup.engine import breaker, tombstones, versions
from fsbackup.engine.records import ReplicaState, add_tombstone, clear_answers, query, state_or_error
from fsbackup.engine.replicas import ReplicaSet
from fsbackup.errors import FsbackupError, ObjectNotFoundError, TransientError
from fsbackup.record import Manifest
from fsbackup.stores.base import ObjectStore

T = TypeVar("T")

#: Least seconds that a reader waits for the other stores after the first has returned a manifest. It waits three
#: times as long as that one took if that is more.
STRAGGLER_TIMEOUT = 2.0
#: Seconds within which the few agree that a reader asks first, before it asks the others.
_FEW_TIMEOUT = 1.0
#: Least seconds that a change waits for the other stores after enough have answered, and how much longer than
#: these took.
_CHANGE_TIMEOUT, _CHANGE_FACTOR = 0.2, 1.0


class Query(Protocol):
    """Returns the state of one key in one store, with an outage in its `error`; as `query`."""

    def __call__(
        self, store: ObjectStore, key: str, *, insist: bool = False
    ) -> Coroutine[Any, Any, ReplicaState]: ...


async def survey(stores: Iterable[ObjectStore], key: str, query: Query = query) -> list[ReplicaState]:
    """Return the state of `key` in every store, queried concurrently; an error of one store is in its state."""
    return list(await asyncio.gather(*(query(store, key) for store in stores)))


async def settled(replicas: Sequence[ReplicaState], key: str, *, changes: bool = False) -> list[ReplicaState]:
    """Return the states, with tombstones of the last seconds where a delete may have left what they show.

    It may where another replica lacks the version; for a change also where a replica does not answer (see
    `tombstones`). Where all agree, no store is asked.
    """
    highest = versions.highest(replicas)
    answered = [each for each in replicas if each.error is None]
    doubtful = isinstance(highest, Manifest) and any(
        each.record is None or versions.version_id(each.record) != versions.version_id(highest)
        for each in answered
    )
    if doubtful or (changes and len(answered) < len(replicas)):
        return await with_new_tombstones(replicas, key)
    return list(replicas)


async def with_new_tombstones(
    replicas: Sequence[ReplicaState], key: str, since: float | None = None
) -> list[ReplicaState]:
    """Return the states of the replicas that answered with the tombstones that they have now.

    Or that they had at `since`, on the monotonic clock, or later.
    """
    since = time.monotonic() if since is None else since

    def is_known(replica: ReplicaState) -> bool:
        return breaker.away(replica.store) is None and tombstones.is_absent(replica.store, key, since=since)

    async def look(replica: ReplicaState) -> ReplicaState:
        if replica.error is not None:
            return replica
        return await state_or_error(replica.store, key, partial(add_tombstone, replica, key, since))

    if all(each.error is not None or is_known(each) for each in replicas):
        return list(replicas)
    return list(await asyncio.gather(*map(look, replicas)))


async def decide(
    replicas: Sequence[ReplicaState],
    key: str,
    decision: Callable[[Sequence[ReplicaState]], Awaitable[T]],
    query: Query = query,
) -> T:
    """Return the `decision` on what the replicas have; before it refuses, ask those that are known to be away.

    Absence that is proven is no refusal.
    """
    try:
        return await decision(replicas)
    except ObjectNotFoundError:
        raise
    except FsbackupError:
        asked = await insist(replicas, key, query)
        if asked is replicas:
            raise
    return await decision(asked)


async def look_twice(targets: ReplicaSet, first: Awaitable[T], again: Callable[[], Awaitable[T]]) -> T:
    """Return what `first` finds; where it finds nothing in a set of several stores, look `again`.

    The replicas did not answer at the same instant: a copy stored on one after its answer may have allowed the
    removal of another replica's copy before that one's answer.
    """
    try:
        return await first
    except ObjectNotFoundError:
        if len(targets.stores) == 1:
            raise
    return await again()


async def insist(replicas: Sequence[ReplicaState], key: str, query: Query = query) -> Sequence[ReplicaState]:
    """Return the states, now also of the stores that were not asked because they are known to be away.

    The same sequence where all were asked.
    """
    away = [each.store for each in replicas if is_known_away(each.error)]
    if not away:
        return replicas
    found = {each.backend: each for each in await survey(away, key, partial(query, insist=True))}
    return [found.get(each.backend, each) for each in replicas]


def is_known_away(error: Exception | None) -> bool:
    """Return whether this is the error of a store that was not asked, because it is known to be away."""
    return isinstance(error, TransientError) and error.away_since is not None


def fewest(
    targets: ReplicaSet, choose: Callable[[Sequence[ObjectStore]], ObjectStore | None], *, is_known: bool = False
) -> list[ObjectStore]:
    """Return the fewest stores that together prove what a reader gets, where they agree; `choose`'s comes first.

    A quorum knows of every version that was confirmed, and `min_copies` that have a version confirm it: the
    answers of all others change nothing. Empty where this needs a store that is not worth waiting for.

    Parameters
    ----------
    targets
        The set.
    choose
        Returns the store to read from out of the first group of the reading order.
    is_known
        A look found the version before: a quorum says whether another one was confirmed since.
    """
    least = 1 if is_known else targets.min_copies
    worth = [
        each for each in targets.stores if breaker.unanswered(each) is None and breaker.is_worth_waiting(each)
    ]
    groups = targets.by_group(worth)
    first = choose(groups[0]) if groups else None
    few: list[ObjectStore] = []
    for store in sorted(
        worth, key=lambda each: (each is not first, each.capabilities.is_shared)
    ):  # disks are free
        few.append(store)
        if len(few) >= least and targets.is_quorum([each.name for each in few]):
            return few
    return []


async def survey_to_read(
    targets: ReplicaSet,
    key: str,
    query: Query,
    few: Sequence[ObjectStore],
    agree: Callable[[Sequence[ReplicaState]], bool],
) -> list[ReplicaState]:
    """Ask a `few` stores, and return what they have if they `agree`, soon; else `survey_without_stragglers`."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + _FEW_TIMEOUT
    asked = {store: asyncio.create_task(query(store, key)) for store in few}
    waiting = set(asked.values())
    try:
        while waiting:
            timeout = max(0.0, deadline - clock())
            done, waiting = await asyncio.wait(waiting, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            answers = [task.result() for task in asked.values() if task.done()]
            if not done or not agree(answers):
                break
            if not waiting:
                return answers
    except BaseException:
        await cancel_and_wait(list(asked.values()))
        raise
    return await survey_without_stragglers(targets, key, query, asked)


async def survey_without_stragglers(
    targets: ReplicaSet,
    key: str,
    query: Query,
    asked: Mapping[ObjectStore, asyncio.Task[ReplicaState]] | None = None,
) -> list[ReplicaState]:
    """As `survey`, but once a store has returned a manifest do not wait long for the others.

    While a quorum could still answer, which proves that the newest version is known, the rest has the set's stall
    timeout to do so, else `STRAGGLER_TIMEOUT`. Beyond a quorum no reader of a manifest waits for a store that is
    known to be away, or was too slow for a reader a short while ago. A store that still owes a reader an answer is
    not asked again, and neither are those that were `asked` before.
    """
    clock = asyncio.get_running_loop().time
    started = clock()
    asked = asked or {}
    others = [store for store in targets.stores if store not in asked]
    skipped = {store: error for store in others if (error := breaker.unanswered(store)) is not None}
    tasks = {asyncio.create_task(query(store, key)): store for store in others if store not in skipped}
    tasks |= {task: store for store, task in asked.items()}
    waiting = set(tasks)
    patience = timeout = None
    while waiting:
        done, waiting = await asyncio.wait(waiting, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            break
        answers = [task.result() for task in tasks if task.done()]
        answered = clear_answers(answers)
        if patience is None and any(each.manifest for each in answers):
            patience = max(STRAGGLER_TIMEOUT, 3 * (clock() - started))
        if patience is not None:
            awaits_quorum = _awaits_quorum(targets, answered, [tasks[task].name for task in waiting])
            timeout = max(patience, targets.stall) if awaits_quorum else patience
            is_proven = targets.is_quorum(answered)
            if is_proven and not any(breaker.is_worth_waiting(tasks[task]) for task in waiting):
                break
    await cancel_and_wait([task for task in waiting if not breaker.leave(tasks[task], task)])
    found = {store: task.result() for task, store in tasks.items() if task not in waiting}
    return [
        found.get(store) or ReplicaState(store, error=skipped.get(store) or breaker.straggler_error(store, key))
        for store in targets.stores
    ]


@dataclass(frozen=True, slots=True)
class Answers:
    """What the stores have of a key that is to be changed.

    Parameters
    ----------
    replicas
        The state in every store. Those in `late` have an error, since nothing is known yet.
    late
        The queries of the stores that have not answered yet, by name.
    """

    replicas: list[ReplicaState]
    late: dict[str, asyncio.Task[ReplicaState]]


async def survey_for_change(targets: ReplicaSet, key: str, query: Query = query) -> Answers:
    """Ask every store, and return as soon as enough have answered: a quorum, and `min_copies`.

    A slower store is not waited for, and takes part when it answers. Where there is no quorum without the slower
    ones, they have the set's stall timeout. Where fewer than `min_copies` answer, stores that are known to be away
    are asked, too.
    """
    clock = asyncio.get_running_loop().time
    started = clock()
    tasks = {store.name: asyncio.create_task(query(store, key)) for store in targets.stores}
    try:
        deadline = math.inf
        while waiting := {name: task for name, task in tasks.items() if not task.done()}:
            answered = clear_answers(task.result() for task in tasks.values() if task.done())
            if len(answered) >= targets.min_copies:
                patience = _patience(targets, answered, waiting, clock() - started)
                deadline = min(deadline, clock() + patience)
            timeout = None if deadline == math.inf else max(0.0, deadline - clock())
            done, _ = await asyncio.wait(waiting.values(), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                break
        replicas = [
            task.result() if task.done() else ReplicaState(store, error=breaker.straggler_error(store, key))
            for store, task in zip(targets.stores, tasks.values(), strict=True)
        ]
        late = {name: task for name, task in tasks.items() if not task.done()}
        if len(clear_answers(replicas)) < targets.min_copies:
            replicas = list(await insist(replicas, key, query))
        return Answers(await settled(replicas, key, changes=True), late)
    except BaseException:
        await cancel_and_wait(list(tasks.values()))
        raise


def _patience(targets: ReplicaSet, answered: list[str], waiting: Iterable[str], elapsed: float) -> float:
    """Return the seconds for which a change still waits for the answers of `waiting`."""
    worth = [each.name for each in targets.stores if each.name in waiting and breaker.away(each) is None]
    if not worth:
        return 0.0
    short = max(_CHANGE_TIMEOUT, _CHANGE_FACTOR * elapsed)
    return max(short, targets.stall) if _awaits_quorum(targets, answered, worth) else short


def _awaits_quorum(targets: ReplicaSet, answered: Sequence[str], missing: Sequence[str]) -> bool:
    """Return whether there is no quorum yet, and there would be one with those that are missing."""
    return not targets.is_quorum(answered) and targets.is_quorum([*answered, *missing])
