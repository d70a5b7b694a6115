"""Memory for the bytes of one object, used again: the system zeroes fresh pages, which takes as long as a read."""

from __future__ import annotations

import ctypes
import mmap
import weakref


class Buffers:
    """The memory of the parts of one object; each begins at a page, so that a disk can take it without a copy."""

    def __init__(self) -> None:
        self._free: list[mmap.mmap] = []

    def take(self, length: int) -> memoryview:
        """Return `length` bytes of any content; they come back when nothing refers to them or a slice any more.

        So a thread that was given up, and still sends or writes them, never sees those of another part.
        """
        memory = self._pop(length) or mmap.mmap(-1, length, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        owner = (ctypes.c_char * length).from_buffer(memory)
        weakref.finalize(owner, self._free.append, memory).atexit = False
        return memoryview(owner).cast("B")

    def _pop(self, length: int) -> mmap.mmap | None:
        """Return a free buffer that is large enough, None without one."""
        try:
            memory = self._free.pop()
        except IndexError:  # also where another thread took the last one
            return None
        return memory if len(memory) >= length else None
