"""Bytes on their way from a writer in one thread to an upload in another; only who ends it makes it an object."""

from __future__ import annotations

import threading
from collections import deque
from typing import BinaryIO, cast

from fsbackup.loop import POLL_INTERVAL
from fsbackup.sizing import MIB

#: Bytes that may wait to be read.
_ROOM = 16 * MIB


class Pipe:
    """A stream that `upload` reads from."""

    name = "<fsbackup file>"

    def __init__(self) -> None:
        self._change = threading.Condition()
        self._pieces: deque[memoryview] = deque()
        self._held = 0
        self._ended = False
        self._broken: Exception | None = None

    def as_stream(self) -> BinaryIO:
        """Return it as what an upload reads: of a stream it only uses `read`."""
        return cast(BinaryIO, self)

    def write(self, data: bytes) -> None:
        """Hand on `data`, when there is room for it; raises what `breaks` was given."""
        with self._change:
            while not self._change.wait_for(lambda: self._held < _ROOM or self._broken, POLL_INTERVAL):
                pass
            if self._broken is not None:
                raise self._broken
            if data:
                self._pieces.append(memoryview(data))
                self._held += len(data)
            self._change.notify_all()

    def end(self) -> None:
        """Say that this was all."""
        with self._change:
            self._ended = True
            self._change.notify_all()

    def fail(self, error: Exception) -> None:
        """Let reads and writes fail with `error` from now on; a pipe that was read to its end stays as it is."""
        with self._change:
            self._broken = self._broken or error
            self._change.notify_all()

    def read(self, length: int) -> bytes:
        """Return up to `length` bytes, b"" at the end; waits for the writer."""
        with self._change:
            self._change.wait_for(lambda: self._pieces or self._ended or self._broken)
            if self._broken is not None:
                raise OSError(str(self._broken)) from self._broken
            if not self._pieces:
                return b""
            piece = self._pieces.popleft()
            taken, rest = piece[:length], piece[length:]
            if rest:
                self._pieces.appendleft(rest)
            self._held -= len(taken)
            self._change.notify_all()
            return bytes(taken)
