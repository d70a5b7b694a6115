"""Coroutines side by side: nothing runs on behind a failure, and everybody cleans up in peace."""

from __future__ import annotations

import asyncio

import pytest

from fsbackup.aio import run_all


class Worker:
    """Works for ever unless it fails, and takes several steps to clean up."""

    def __init__(self, *, steps: int, error: Exception | None = None) -> None:
        self.steps = steps
        self.error = error
        self.clean = False

    async def work(self) -> None:
        """Work, and clean up on the way out."""
        try:
            await asyncio.sleep(0)
            if self.error is not None:
                raise self.error
            await asyncio.Event().wait()
        finally:
            for _ in range(self.steps):
                await asyncio.sleep(0)
            self.clean = True


@pytest.mark.parametrize("steps", [(0, 0), (0, 20), (20, 0), (20, 5)])
def test_a_cancel_lets_every_one_clean_up(steps: tuple[int, int]) -> None:
    """The first to be done with it must not cut the others short."""
    workers = [Worker(steps=each) for each in steps]

    async def main() -> None:
        task = asyncio.create_task(run_all([worker.work() for worker in workers]))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert all(worker.clean for worker in workers)

    asyncio.run(main())


def test_a_failure_ends_the_others_first() -> None:
    """Its error is raised when all have cleaned up."""
    workers = [Worker(steps=20), Worker(steps=0, error=OSError("broken")), Worker(steps=10)]

    async def main() -> None:
        with pytest.raises(OSError, match="broken"):
            await run_all([worker.work() for worker in workers])
        assert all(worker.clean for worker in workers)

    asyncio.run(main())


def test_all_of_nothing_is_done_at_once() -> None:
    """And one alone needs no task."""
    asyncio.run(run_all([]))
    with pytest.raises(OSError, match="broken"):
        asyncio.run(run_all([Worker(steps=0, error=OSError("broken")).work()]))
