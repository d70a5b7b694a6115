"""The adaptive window: chunk size and concurrency by the measured speed."""

from __future__ import annotations

import pytest

from fsbackup.engine.pacing import AdaptiveWindow
from fsbackup.sizing import MIB

FAST, SLOW = 800 * MIB, 8 * MIB  # bytes per second


def steps_of(
    *speeds: int, share: int = 32 * MIB, block: int = MIB, chunk_size: int | None = None
) -> list[tuple[int, int]]:
    """Return (MiB per chunk, concurrency) at first and after chunks of these speeds."""
    window = AdaptiveWindow(share, block, chunk_size)
    steps = [(window.chunk_size // MIB, window.concurrency)]
    for speed in speeds:
        window.on_success(window.chunk_size, window.chunk_size / speed)
        steps.append((window.chunk_size // MIB, window.concurrency))
    return steps


def test_a_fast_replica_gets_larger_chunks() -> None:
    assert steps_of(FAST, FAST, FAST, FAST) == [(8, 1), (16, 1), (32, 1), (32, 1), (32, 1)]


def test_a_slower_replica_gets_more_concurrency() -> None:
    assert steps_of(SLOW * 5, SLOW * 5, SLOW * 5) == [(8, 1), (8, 2), (8, 4), (8, 4)]


def test_a_replica_that_becomes_slow_gets_more_and_smaller_chunks_again() -> None:
    """As behind traffic shaping with an initial burst; the speed is that of the last few chunks."""
    steps = steps_of(FAST, FAST, *[SLOW] * 12)
    assert steps[2] == (32, 1)
    assert steps[-1] == (8, 4)
    assert all(length * count <= 32 for length, count in steps)


@pytest.mark.parametrize(
    ("share", "block", "first", "last"),
    [
        (64 * MIB, MIB, (8, 1), (32, 1)),
        (20 * MIB, MIB, (5, 1), (20, 1)),
        (2 * MIB, MIB, (1, 1), (2, 1)),
        (MIB // 2, MIB, (1, 1), (1, 1)),  # a block is never split
        (32 * MIB, 16 * MIB, (16, 1), (32, 1)),
    ],
)
def test_the_share_of_memory_and_the_block_size_are_the_limits(
    share: int, block: int, first: tuple[int, int], last: tuple[int, int]
) -> None:
    steps = steps_of(*[FAST] * 6, share=share, block=block)
    assert (steps[0], steps[-1]) == (first, last)


def test_a_given_chunk_size_stays() -> None:
    assert steps_of(SLOW, SLOW, SLOW, chunk_size=3 * MIB) == [(3, 1), (3, 2), (3, 4), (3, 4)]
    assert steps_of(FAST, FAST, chunk_size=3 * MIB) == [(3, 1)] * 3


def test_a_failure_starts_again_and_keeps_the_speed() -> None:
    window = AdaptiveWindow(32 * MIB, MIB, None)
    window.on_success(8 * MIB, 0.01)
    window.on_failure()
    assert (window.chunk_size, window.concurrency) == (8 * MIB, 1)
    assert window.seconds(8 * MIB) == pytest.approx(0.01)
    assert AdaptiveWindow(32 * MIB, MIB, None).seconds(MIB) is None
