"""How long the fastest replica waits for a slow one before it goes on without it, in simulated time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from fsbackup.engine.parts import LAG_TIMEOUT, LONGEST_WAIT, Consumer, PartBuffer
from fsbackup.engine.source import BytesSource
from tests.simulation.loop import Clock, SimLoop

PARTS, SLOTS, SIZE = 40, 4, 100
#: Seconds of one part at a store that keeps pace, and at one that crawls.
PACE, CRAWL = LAG_TIMEOUT / 4, LAG_TIMEOUT * 2


class _Source(BytesSource):
    rereads = 0

    async def reread(self, offset: int, length: int) -> bytes | memoryview:
        self.rereads += 1
        return await super().reread(offset, length)


async def _consume(parts: PartBuffer, consumer: Consumer, each: float, pauses: Mapping[int, float]) -> float:
    """Take all parts, `each` second for one and longer for some; return when it has ended."""
    while (part := await parts.take(consumer)) is not None:
        await asyncio.sleep(pauses.get(part.number, each))
        parts.release(part)
    parts.close(consumer)
    return asyncio.get_running_loop().time()


def _run(each: float, pauses: Mapping[int, float] | None = None) -> tuple[float, int]:
    """Return when the fastest has ended, and how many parts were read again for the slow one."""
    clock = Clock()
    source = _Source(bytes(PARTS * SIZE), "data")
    parts = PartBuffer(source, SIZE, slots=SLOTS)
    loop = SimLoop(clock, lambda timeout: clock.advance(timeout or 0.0))

    async def both() -> float:
        fast, slow = parts.add_consumer(), parts.add_consumer()
        ends = await asyncio.gather(_consume(parts, fast, 0.0, {}), _consume(parts, slow, each, pauses or {}))
        return ends[0]

    try:
        return loop.run_until_complete(both()), source.rereads
    finally:
        loop.close()


@pytest.mark.parametrize("pause", [2 * LAG_TIMEOUT, LONGEST_WAIT * 0.9])
def test_a_replica_that_keeps_pace_may_pause(pause: float) -> None:
    """A pause in the middle, longer than a crawling replica is waited for, has nothing read again."""
    assert _run(PACE, {PARTS // 2: pause})[1] == 0


def test_a_replica_that_stops_after_keeping_pace_is_not_waited_for_longer() -> None:
    """However long it had kept pace before, it costs the fastest no more than the longest wait."""
    ends, rereads = _run(PACE, {PARTS // 2: 1000.0})
    assert rereads > 0
    assert ends < PARTS * PACE + LONGEST_WAIT


@pytest.mark.parametrize("pauses", [{}, {2: 1000.0}], ids=["crawls", "hangs"])
def test_a_replica_that_never_keeps_pace_is_waited_for_once(pauses: Mapping[int, float]) -> None:
    """One that crawls or hangs from the start costs the fastest little more than one short wait."""
    ends, rereads = _run(CRAWL, pauses)
    assert rereads > 0
    assert ends < 2 * LAG_TIMEOUT


def test_a_replica_whose_pace_breaks_down_is_left_behind() -> None:
    """What it was granted while it kept pace is used up by waits that are each too long."""
    slow = dict.fromkeys(range(PARTS // 2, PARTS), CRAWL)
    ends, rereads = _run(PACE, slow)
    assert rereads > 0
    assert ends < PARTS * PACE + 2 * LONGEST_WAIT
