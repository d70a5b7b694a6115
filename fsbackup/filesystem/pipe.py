"""A bounded pipe from a writer in one thread to an upload in another; only `end` makes its content complete."""

from __future__ import annotations

import threading
from collections import deque
from typing import BinaryIO, cast

from fsbackup.loop import POLL_INTERVAL
from fsbackup.sizing import MIB

#: Bytes that may wait in the pipe; it overshoots by one write.
_CAPACITY = 16 * MIB


class Pipe:
    """A stream that `upload` reads from."""

    name = "<fsbackup file>"

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._pieces: deque[memoryview] = deque()
        self._buffered = 0
        self._ended = False
        self._error: Exception | None = None

    def as_stream(self) -> BinaryIO:
        """Return the pipe as the stream of an upload, which only calls `read`."""
        return cast(BinaryIO, self)

    def write(self, data: bytes) -> None:
        """Add `data`, waiting for room; raises the error given to `fail`."""
        with self._changed:
            while not self._changed.wait_for(lambda: self._buffered < _CAPACITY or self._error, POLL_INTERVAL):
                pass  # a wait in slices lets Ctrl-C through
            if self._error is not None:
                raise self._error
            if data:
                self._pieces.append(memoryview(data))
                self._buffered += len(data)
            self._changed.notify_all()

    def end(self) -> None:
        """Mark the content as complete: `read` returns b"" after it."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def fail(self, error: Exception) -> None:
        """Make all further reads and writes raise `error`; the first error counts."""
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()

    def read(self, length: int) -> bytes:
        """Return up to `length` bytes, b"" at the end; waits for the writer."""
        with self._changed:
            self._changed.wait_for(lambda: self._pieces or self._ended or self._error)
            if self._error is not None:
                raise OSError(str(self._error)) from self._error
            if not self._pieces:
                return b""
            piece = self._pieces.popleft()
            data, rest = piece[:length], piece[length:]
            if rest:
                self._pieces.appendleft(rest)
            self._buffered -= len(data)
            self._changed.notify_all()
            return bytes(data)
