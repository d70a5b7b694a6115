"""How much a replica is asked for, by how quick it was."""

from __future__ import annotations

import pytest

from fsbackup.engine.pacing import AdaptiveWindow
from fsbackup.sizing import MIB

QUICK, SLOW = 800 * MIB, 8 * MIB  # bytes per second


def paced(
    *speeds: int, share: int = 32 * MIB, block: int = MIB, length: int | None = None
) -> list[tuple[int, int]]:
    """Return (MiB of a span, how many at once) to begin with and after spans of these speeds."""
    pace = AdaptiveWindow(share, block, length)
    steps = [(pace.chunk_size // MIB, pace.concurrency)]
    for speed in speeds:
        pace.on_success(pace.chunk_size, pace.chunk_size / speed)
        steps.append((pace.chunk_size // MIB, pace.concurrency))
    return steps


def test_a_quick_one_gets_longer_spans() -> None:
    assert paced(QUICK, QUICK, QUICK, QUICK) == [(8, 1), (16, 1), (32, 1), (32, 1), (32, 1)]


def test_another_gets_more_at_once() -> None:
    assert paced(SLOW * 5, SLOW * 5, SLOW * 5) == [(8, 1), (8, 2), (8, 4), (8, 4)]


def test_one_that_turns_slow_gets_more_and_shorter_ones_again() -> None:
    """A line that lets the first bytes through at once is one; its speed is that of the last few spans."""
    steps = paced(QUICK, QUICK, *[SLOW] * 12)
    assert steps[2] == (32, 1)
    assert steps[-1] == (8, 4)
    assert all(length * count <= 32 for length, count in steps)


@pytest.mark.parametrize(
    ("share", "block", "begin", "end"),
    [
        (64 * MIB, MIB, (8, 1), (32, 1)),
        (20 * MIB, MIB, (5, 1), (20, 1)),
        (2 * MIB, MIB, (1, 1), (2, 1)),
        (MIB // 2, MIB, (1, 1), (1, 1)),  # a block is never cut
        (32 * MIB, 16 * MIB, (16, 1), (32, 1)),
    ],
)
def test_the_share_of_memory_and_the_block_are_the_limits(
    share: int, block: int, begin: tuple[int, int], end: tuple[int, int]
) -> None:
    steps = paced(*[QUICK] * 6, share=share, block=block)
    assert (steps[0], steps[-1]) == (begin, end)


def test_a_length_that_is_given_stays() -> None:
    assert paced(SLOW, SLOW, SLOW, length=3 * MIB) == [(3, 1), (3, 2), (3, 4), (3, 4)]
    assert paced(QUICK, QUICK, length=3 * MIB) == [(3, 1)] * 3


def test_a_failure_is_a_new_beginning_at_the_speed_that_is_known() -> None:
    pace = AdaptiveWindow(32 * MIB, MIB, None)
    pace.on_success(8 * MIB, 0.01)
    pace.on_failure()
    assert (pace.chunk_size, pace.concurrency) == (8 * MIB, 1)
    assert pace.seconds(8 * MIB) == pytest.approx(0.01)
    assert AdaptiveWindow(32 * MIB, MIB, None).seconds(MIB) is None
