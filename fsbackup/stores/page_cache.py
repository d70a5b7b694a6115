"""Writes through the page cache."""

from __future__ import annotations

import os

from fsbackup.sizing import KIB

#: Bytes of one system call. For a longer one Linux makes large folios, of memory that a virtual machine may have
#: given back to its host: to get that again takes several times as long as the copy.
_PIECE = 256 * KIB


def write_at(descriptor: int, data: bytes | memoryview, offset: int) -> int:
    """Write all of `data` at an offset, and return its length.

    Raises
    ------
    OSError
        When the system refuses it; some of it may have been written.
    """
    view = memoryview(data)
    while view:
        count = os.pwrite(descriptor, view[:_PIECE], offset)
        view, offset = view[count:], offset + count
    return len(data)
