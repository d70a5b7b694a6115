"""Memory that is read into again."""

from __future__ import annotations

import io

from fsbackup.stores.base import Buffers


def test_what_is_given_back_is_read_into_again() -> None:
    source, buffers = io.BytesIO(b"one, two, four"), Buffers()
    first, second = (buffers.read(source.readinto, 5) for _ in range(2))
    assert (bytes(first), bytes(second)) == (b"one, ", b"two, "), "memory that is in use stays as it is"
    assert isinstance(first, memoryview)
    memory = first.obj
    buffers.give_back([first, b"from elsewhere"])
    third = buffers.read(source.readinto, Buffers.SIZE)
    assert (bytes(third), bytes(second)) == (b"four", b"two, ")
    assert isinstance(third, memoryview)
    assert third.obj is memory
    assert bytes(buffers.read(source.readinto, 5)) == b""
