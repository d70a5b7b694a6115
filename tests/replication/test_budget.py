"""The memory budget of a batch: never overdrawn, and all of it is returned."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from fsbackup import ReplicatedStorage
from fsbackup.engine.replicas import MemoryBudget
from tests.replication.memory import MemoryStore, PartCount, backend
from tests.replication.rig import content
from tests.replication.uploads import PART

TOTAL = 100


async def assert_all_free(budget: MemoryBudget) -> None:
    """Check that the whole budget is free."""
    async with asyncio.timeout(5), budget.reserve(TOTAL):
        pass


def test_reservations_never_exceed_the_total() -> None:
    """Four hundred tasks of random sizes, a third of them cancelled at random moments, never overdraw it."""
    pick = random.Random(7)

    async def main() -> int:
        budget, held, most, ended = MemoryBudget(TOTAL), 0, 0, 0

        async def hold(amount: int, moments: int) -> None:
            nonlocal held, most, ended
            async with budget.reserve(amount):
                held += min(max(amount, 1), TOTAL)
                most = max(most, held)
                try:
                    for _ in range(moments):
                        await asyncio.sleep(0)
                finally:
                    held -= min(max(amount, 1), TOTAL)
            ended += 1

        tasks = [asyncio.create_task(hold(pick.randrange(0, 150), pick.randrange(5))) for _ in range(400)]
        doomed = pick.sample(tasks, 130)
        while not all(task.done() for task in tasks):
            if doomed:
                doomed.pop().cancel()
            await asyncio.sleep(0)
        assert ended >= 270
        await assert_all_free(budget)
        return most

    assert TOTAL // 2 < asyncio.run(main()) <= TOTAL


@pytest.mark.parametrize("turn", ["waiting", "just handed out"])
def test_a_cancelled_waiter_gives_back(turn: str) -> None:
    """A waiter cancelled before its grant, or at the moment of it, blocks nobody behind it."""

    async def main() -> None:
        budget = MemoryBudget(TOTAL)
        release = asyncio.Event()

        async def hold(amount: int) -> None:
            async with budget.reserve(amount):
                await release.wait()

        first = asyncio.create_task(hold(TOTAL))
        await asyncio.sleep(0)
        waiter, behind = asyncio.create_task(hold(80)), asyncio.create_task(hold(30))
        await asyncio.sleep(0)
        if turn == "waiting":
            waiter.cancel()
            await asyncio.sleep(0)
            release.set()
        else:
            first.cancel()  # gives back when it runs next, and the waiter is cancelled before it can
            first.add_done_callback(lambda _: waiter.cancel())
            release.set()
        async with asyncio.timeout(5):
            await asyncio.gather(first, waiter, behind, return_exceptions=True)
        assert not behind.cancelled()
        await assert_all_free(budget)

    asyncio.run(main())


def test_a_batch_keeps_to_its_memory(tmp_path: Path, count: PartCount) -> None:
    """Twenty files of twenty parts each at once: the parts alive fit the budget, not twenty times it."""
    items = []
    for number in range(20):
        path = tmp_path / str(number)
        path.write_bytes(content(20 * PART, seed=number))
        items.append((path, f"key/{number}"))
    stores = [MemoryStore("one", workers=4), MemoryStore("two", workers=2)]
    slots = 24
    store = ReplicatedStorage([backend(each) for each in stores], part_size=PART, memory=slots * PART)
    assert all(store.replicate_many(items))
    assert len(stores[0].stored) == 2 * len(items)
    assert count.most <= slots + 2  # and what two threads are letting go of
