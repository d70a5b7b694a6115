"""Memory that parts are read into: used again, and never while something still refers to a part of it."""

from __future__ import annotations

import asyncio
import ctypes
import mmap
from collections.abc import Callable
from pathlib import Path

import pytest

from fsbackup import Command
from fsbackup.buffers import Buffers
from fsbackup.engine.open_source import open_source

PART = 1 << 20


def address(view: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(view))


def test_memory_that_nothing_refers_to_is_used_again() -> None:
    buffers = Buffers()
    used = {address(buffers.take(PART)) for _ in range(5)}
    assert len(used) == 1
    assert used.pop() % mmap.PAGESIZE == 0


def test_a_shorter_part_has_its_own_length() -> None:
    buffers = Buffers()
    first = address(buffers.take(PART))
    last = buffers.take(100)
    assert (address(last), len(last)) == (first, 100)


def test_memory_too_small_is_not_used() -> None:
    buffers = Buffers()
    buffers.take(100)
    assert len(buffers.take(PART)) == PART


def test_a_slice_that_is_still_sent_keeps_its_bytes() -> None:
    """A thread that was given up has a view of a part that everybody else has let go."""
    buffers = Buffers()
    slow = memoryview(buffers.take(PART))[10:20]
    slow[:] = b"x" * 10
    for _ in range(3):
        buffers.take(PART)[:] = bytes(PART)
    assert slow == b"x" * 10


def as_file(path: Path) -> str:
    return str(path)


def as_command(path: Path) -> Command:
    return Command(["cat", str(path)])


@pytest.mark.parametrize("given", [as_file, as_command])
def test_the_parts_of_a_source_that_are_kept_differ(
    tmp_path: Path, given: Callable[[Path], str | Command]
) -> None:
    """Whoever keeps all parts has all the bytes; of those that are let go the memory is the next one's."""
    path = tmp_path / "file"
    path.write_bytes(b"".join(bytes([number]) * PART for number in range(4)) + b"end")
    kept = open_source(given(path))
    parts = [asyncio.run(kept.next_part(PART, md5=True)) for _ in range(5)]
    assert b"".join(part.data for part in parts) == path.read_bytes()
    assert [part.last for part in parts] == [False] * 4 + [True]
    kept.close()
    dropped = open_source(given(path))
    assert len({address(memoryview(dropped.read_part(PART, md5=False).data)) for _ in range(4)}) == 1
    dropped.close()


async def test_what_is_read_again_takes_no_memory_beside_that_of_the_parts(tmp_path: Path) -> None:
    """For a replica that lags: nothing keeps the parts that the others have, and their memory is there."""
    path = tmp_path / "file"
    path.write_bytes(b"a" * PART + b"b" * PART + b"end")
    source = open_source(path)
    first = address(memoryview(source.read_part(PART, md5=False).data))
    source.read_part(PART, md5=False)
    again = memoryview(await source.reread(0, PART) or b"")
    assert (address(again), bytes(again)) == (first, b"a" * PART)
    source.close()
