"""`StreamSource`: a stream of unknown length, such as a pipe; `PathStream`: a FIFO or device."""

from __future__ import annotations

import itertools
import os
import select
import stat
import time
from collections.abc import Iterator
from typing import BinaryIO, cast

from fsbackup.engine.source import SHORT_PART, ReplayBuffer, Source
from fsbackup.errors import SourceError
from fsbackup.events import log
from fsbackup.stores.base import Part
from fsbackup.threads import in_daemon_thread

#: Seconds that a FIFO is waited for until something writes to it, and those after which that is said.
FIFO_TIMEOUT, _FIFO_SAID = 1800.0, 10.0
_FIFO_TICK = 0.5


class StreamSource(Source):
    """A stream such as stdin or a pipe.

    Each read runs in a daemon thread, so that a producer that never ends does not keep a cancelled process alive.

    Parameters
    ----------
    stream, label
        What to read, and its name in messages.
    allow_empty
        Store an empty object when the stream ends before its first byte. By default that is a `SourceError`: a
        pipe from a command that failed to start looks the same.
    """

    interruptible = True
    #: The most bytes that are read after a part, to see that it was not the last; a stream may wait for all.
    _look_ahead = 1

    def __init__(self, stream: BinaryIO, label: str = "<stream>", *, allow_empty: bool = False) -> None:
        super().__init__(label, size=None, mtime_ns=None, mode=None)
        self._stream = stream
        self._allow_empty = allow_empty
        #: What was read after the part before, which shows that that part was not the last.
        self._ahead = b""
        #: Where bytes can be read again; set by the upload when there is a local replica or a spool.
        self.replay: ReplayBuffer | None = None

    @property
    def replayable_bytes(self) -> int:
        return self.replay.replayable_bytes if self.replay else 0

    async def next_part(self, length: int, *, md5: bool) -> Part:
        part = await in_daemon_thread(lambda: self.read_part(length, md5=md5))
        if self.replay is not None:
            await self.replay.append(part)
        return part

    async def reread(self, offset: int, length: int) -> bytes | None:
        return await self.replay.reread(offset, length) if self.replay else None

    def close(self) -> None:
        if self.replay is not None:
            self.replay.close()

    def read_part(self, length: int, *, md5: bool) -> Part:
        data = self._read(length)
        if len(data) == length and not self._ahead:
            self._ahead = self._read_piece(min(length, self._look_ahead))
        if not data and not self._allow_empty:
            raise self._empty()
        return self._make_part(data, last=not self._ahead, md5=md5)

    def _empty(self) -> SourceError:
        return SourceError(
            f"{self.label}: empty stream, nothing was stored",
            hint="check whether the command that writes it failed, or allow an empty object with put --allow-empty"
            " (allow_empty=True in Python)",
        )

    def _read(self, length: int) -> bytes | memoryview:
        """Return `length` bytes, fewer only at the end of the stream; one read of a pipe returns far less."""
        pieces = self._read_pieces(length)
        first = next(pieces, b"")
        second = next(pieces, b"")
        if not second:
            return first
        if length <= SHORT_PART:
            return b"".join((first, second, *pieces))
        view, filled = self._buffers.take(length), 0
        for piece in itertools.chain((first, second), pieces):
            view[filled : filled + len(piece)] = piece
            filled += len(piece)
        return view[:filled]

    def _read_pieces(self, length: int) -> Iterator[bytes]:
        """Yield what is left of `length` bytes as it arrives, what was read ahead first."""
        if self._ahead:
            piece, self._ahead = self._ahead[:length], self._ahead[length:]
            length -= len(piece)
            yield piece
        while length and (piece := self._read_piece(length)):
            length -= len(piece)
            yield piece

    def _read_piece(self, length: int) -> bytes:
        """Read once, up to `length` bytes; b"" only at the end, behind which nothing is read."""
        try:
            # A non-blocking stream returns None while it has no data.
            while (piece := self._stream.read(length)) is None:
                poll = select.poll()  # unlike `select.select` for any descriptor, not just the first 1,024
                poll.register(self._stream, select.POLLIN)
                poll.poll()
        except (OSError, ValueError) as error:
            raise SourceError(f"{self.label}: cannot be read: {error}") from error
        return piece


class PathStream(StreamSource):
    """A FIFO or device given by path. A FIFO is waited for: its first byte has to come within `FIFO_TIMEOUT`."""

    def __init__(self, path: str, allow_empty: bool) -> None:
        self._path = path
        self._opened: BinaryIO | None = None
        self._is_closed = False
        #: Whether a read is running. A cancelled one still holds the file object's lock, and `close` would block.
        self._is_reading = False
        super().__init__(cast(BinaryIO, None), path, allow_empty=allow_empty)

    def _read_piece(self, length: int) -> bytes:
        if self._opened is None:
            self._opened = self._stream = self._open()
        self._is_reading = True
        try:
            return super()._read_piece(length)
        finally:
            self._is_reading = False

    def _open(self) -> BinaryIO:
        try:
            return open(self._path, "rb", opener=self._open_descriptor)
        except SourceError:
            raise
        except OSError as error:
            raise SourceError(
                f"{self.label}: cannot be read: {error.strerror}",
                hint="pass a file, or a FIFO or device that can be read; a socket cannot be",
            ) from error

    def _open_descriptor(self, path: str, flags: int) -> int:
        descriptor = os.open(path, flags | os.O_NONBLOCK)
        try:
            if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
                self._wait_for_writer(descriptor)
            os.set_blocking(descriptor, True)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _wait_for_writer(self, descriptor: int) -> None:
        """Wait for the first byte, or for the end of a writer without one; before any writer there is no end."""
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        started, is_said = time.monotonic(), False
        while not poll.poll(_FIFO_TICK * 1000):
            waited = time.monotonic() - started
            if self._is_closed or waited > FIFO_TIMEOUT:
                raise SourceError(
                    f"{self.label}: nothing was written to this FIFO for {waited:.0f} seconds",
                    hint="start the program that writes to it, or let fsbackup run it: put --command",
                )
            if waited > _FIFO_SAID and not is_said:
                log.warning("%s: waiting for a program that writes to this FIFO", self.label)
                is_said = True

    def close(self) -> None:
        super().close()
        self._is_closed = True
        if self._opened is not None and not self._is_reading:
            self._opened.close()
