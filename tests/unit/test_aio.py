"""Concurrent coroutines: no task outlives a failure, clean-up is not interrupted, and idle blocks end."""

from __future__ import annotations

import asyncio

import pytest

from fsbackup.aio import IdleTimeout, IdleTimeoutError, run_all


class Worker:
    """Runs for ever unless it fails, and takes several steps to clean up."""

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
def test_every_task_cleans_up_after_a_cancellation(steps: tuple[int, int]) -> None:
    """The first task that has cleaned up must not interrupt the others."""
    workers = [Worker(steps=each) for each in steps]

    async def main() -> None:
        task = asyncio.create_task(run_all([worker.work() for worker in workers]))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert all(worker.clean for worker in workers)

    asyncio.run(main())


def test_a_failure_is_raised_after_the_others_ended() -> None:
    """The error is raised when all tasks have cleaned up."""
    workers = [Worker(steps=20), Worker(steps=0, error=OSError("broken")), Worker(steps=10)]

    async def main() -> None:
        with pytest.raises(OSError, match="broken"):
            await run_all([worker.work() for worker in workers])
        assert all(worker.clean for worker in workers)

    asyncio.run(main())


def test_none_and_one() -> None:
    """No coroutine is done at once; one alone runs without a task."""
    asyncio.run(run_all([]))
    with pytest.raises(OSError, match="broken"):
        asyncio.run(run_all([Worker(steps=0, error=OSError("broken")).work()]))


def test_an_idle_block_ends() -> None:
    """Without activity for the time given, the block is cancelled and raises the timeout's own error."""

    async def main() -> None:
        with pytest.raises(IdleTimeoutError, match=r"0\.05 s"), IdleTimeout(0.05):
            await asyncio.sleep(10)
        await asyncio.sleep(0)  # the task itself is not cancelled

    asyncio.run(main())


def test_blocks_of_one_loop_end_each_at_its_own_time() -> None:
    """Whichever began first; one that has ended by itself disturbs no other."""

    async def idle(seconds: float, work: float) -> str:
        try:
            with IdleTimeout(seconds):
                await asyncio.sleep(work)
        except IdleTimeoutError:
            return f"{seconds}"
        return "done"

    async def main() -> list[str]:
        ended: list[str] = []

        async def note(seconds: float, work: float) -> None:
            ended.append(await idle(seconds, work))

        await asyncio.gather(note(10, 0.15), note(0.1, 10), note(0.05, 10), note(0.05, 0))
        return ended

    assert asyncio.run(main()) == ["done", "0.05", "0.1", "done"]


@pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
def test_activity_keeps_a_block_alive(shared: bool) -> None:
    """A block may take any time while something moves: by `touch`, or by a clock that several blocks share."""

    async def main() -> None:
        last = asyncio.get_running_loop().time()
        with IdleTimeout(1.0, (lambda: last) if shared else None) as idle:
            for _ in range(6):
                await asyncio.sleep(0.2)
                last = asyncio.get_running_loop().time()
                idle.touch()
        with pytest.raises(IdleTimeoutError), IdleTimeout(0.05, lambda: last):
            await asyncio.sleep(10)
        idle.touch()  # too late, and harmless

    asyncio.run(main())


@pytest.mark.parametrize("error", [TimeoutError("from the disk"), asyncio.CancelledError()])
def test_other_errors_of_a_block_pass(error: BaseException) -> None:
    """A `TimeoutError` of the block, or a cancellation from outside, is not taken for the idle timeout."""

    async def main() -> None:
        with pytest.raises(type(error)) as caught, IdleTimeout(10):
            raise error
        assert not isinstance(caught.value, IdleTimeoutError)

    asyncio.run(main())
