"""What a watcher hears of the bytes of one request."""

from __future__ import annotations

import asyncio

import pytest

from fsbackup.stores.s3.http.requests import Progress

KIB = 1024


@pytest.mark.parametrize(
    ("is_upload", "expected"),
    [(True, [300 * KIB, 0, 212 * KIB, 488 * KIB]), (False, [0, 300 * KIB, 0, 300 * KIB, 212 * KIB, 488 * KIB])],
)
async def test_bytes_of_two_attempts(is_upload: bool, expected: list[int]) -> None:
    """Of an upload each byte counts once, of a download those of the last attempt; nothing is said twice."""
    heard: list[int] = []
    progress = Progress(heard.append, is_upload=is_upload)
    progress.begin()
    progress.advance_to(300 * KIB)
    await asyncio.sleep(0)
    progress.flush()
    progress.begin()
    for position in (300 * KIB, 512 * KIB, 1000 * KIB):
        progress.advance_to(position)
        progress.flush()
    progress.flush()
    await asyncio.sleep(0)
    assert heard == expected


async def test_small_steps_wake_the_loop_seldom() -> None:
    """TLS sends 16 KiB at a time."""
    heard: list[int] = []
    progress = Progress(heard.append, is_upload=True)
    progress.begin()
    for step in range(1, 65):
        progress.advance_to(step * 16 * KIB)
        await asyncio.sleep(0)
    progress.flush()
    assert sum(heard) == 64 * 16 * KIB
    assert len(heard) <= 8


async def test_nothing_is_heard_after_the_end() -> None:
    """Also not what was scheduled before."""
    heard: list[int] = []
    progress = Progress(heard.append, is_upload=True)
    progress.begin()
    progress.advance_to(300 * KIB)
    progress.close()
    await asyncio.sleep(0)
    assert heard == []
