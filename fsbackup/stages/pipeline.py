"""Runs stages, each in a thread of its own, with a bounded pipe behind each.

A stage is a function of a reader and a writer. It reads until it gets ``b""``, writes what it makes, and returns;
an exception is a failure of the whole: whoever reads from a pipe or writes to one gets it, also from the pipe that
the first stage reads. What waits in a pipe is at most `_ROOM` bytes and two pieces.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from fsbackup.sizing import KIB, MIB

#: Bytes that a stage works on at a time: they stay in the processor's cache, and below what is mapped one by one.
CHUNK = 256 * KIB
#: Bytes that may wait between two stages: enough that neither waits for the other at each piece.
_ROOM = MIB


class Reader(Protocol):
    """What a stage reads from."""

    def read(self, length: int = -1, /) -> bytes:
        """Return up to `length` bytes, fewer also in the middle; ``b""`` only at the end."""


class Writer(Protocol):
    """What a stage writes to."""

    def write(self, data: bytes, /) -> int:
        """Take all of `data`, and return their number."""

    def flush(self) -> None:
        """Do nothing: libraries call it."""


Stage = Callable[[Reader, Writer], None]


class Slices:
    """Pieces of any length, read in the lengths that are asked for.

    Parameters
    ----------
    take
        Returns the next piece, ``b""`` at the end.
    """

    def __init__(self, take: Callable[[], bytes]) -> None:
        self._take = take
        self._piece = b""
        self._offset = 0

    def read(self, length: int = -1, /) -> bytes:
        """Return up to `length` bytes of one piece; a piece that fits is not copied."""
        if self._offset >= len(self._piece):
            self._piece, self._offset = self._take(), 0
        start, self._offset = self._offset, len(self._piece) if length < 0 else self._offset + length
        return self._piece[start : self._offset]


class AbandonedError(Exception):
    """The other end of a pipe has ended early; never shown to anybody."""


class Pipe:
    """Bytes from one thread to another. The writer waits while it is full, the reader while it is empty.

    Small pieces are handed over together: age writes 8 KiB at a time, and to wake the other thread for each took a
    third of the processor.
    """

    def __init__(self) -> None:
        #: What was written since the last handover, and its size in bytes; touched by the writer alone.
        self._gathered: list[bytes] = []
        self._gathered_bytes = 0
        self._pieces: deque[bytes] = deque()
        self._waiting = 0
        self._changed = threading.Condition()
        self._is_ended = False
        self._error: BaseException | None = None
        #: Touched by the reader alone.
        self._slices = Slices(self._next)

    def write(self, data: bytes, /) -> int:
        """Take `data`.

        Raises
        ------
        Exception
            What ended the pipe (see `fail`).
        """
        if self._error is not None:
            raise self._error
        if data:
            self._gathered.append(bytes(data))
            self._gathered_bytes += len(data)
        if self._gathered_bytes >= CHUNK:
            self._hand_over()
        return len(data)

    def flush(self) -> None:
        """Do nothing: `end` hands over what is left."""

    def end(self) -> None:
        """Say that nothing more is written.

        Raises
        ------
        Exception
            What ended the pipe (see `fail`).
        """
        self._hand_over()
        with self._changed:
            self._is_ended = True
            self._changed.notify_all()

    def _hand_over(self) -> None:
        gathered, self._gathered, self._gathered_bytes = self._gathered, [], 0
        piece = gathered[0] if len(gathered) == 1 else b"".join(gathered)
        with self._changed:
            self._changed.wait_for(lambda: self._error is not None or self._waiting < _ROOM)
            if self._error is not None:
                raise self._error
            if piece:
                self._pieces.append(piece)
                self._waiting += len(piece)
                self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """End the pipe with an error for both sides; of several errors the first one counts."""
        with self._changed:
            self._error = self._error or error
            self._pieces.clear()
            self._waiting = 0
            self._changed.notify_all()

    def read(self, length: int = -1, /) -> bytes:
        """Return the next bytes, at most `length`; ``b""`` at the end.

        Raises
        ------
        Exception
            What ended the pipe (see `fail`).
        """
        return self._slices.read(length)

    def _next(self) -> bytes:
        with self._changed:
            self._changed.wait_for(lambda: self._error is not None or self._pieces or self._is_ended)
            if self._error is not None:
                raise self._error
            if not self._pieces:
                return b""
            piece = self._pieces.popleft()
            self._waiting -= len(piece)
            self._changed.notify_all()
            return piece


class Pipeline:
    """Stages one behind the other, from `source` to whoever calls `read`.

    Parameters
    ----------
    source
        Where the first stage reads.
    stages
        At least one.
    on_idle
        Called once after `close`, when no thread uses `source` any more.
    """

    def __init__(
        self, source: Reader, stages: Sequence[Stage], on_idle: Callable[[], None] = lambda: None
    ) -> None:
        self._source = source
        self._stages = stages
        self._on_idle = on_idle
        self._pipes = [Pipe() for _ in stages]
        self._threads: list[threading.Thread] = []
        self._error: BaseException | None = None
        self._lock = threading.Lock()
        self._is_closed = self._is_reading = False

    def read(self, length: int) -> bytes:
        """Return the next bytes of the last stage, fewer than `length` also in the middle; ``b""`` at the end.

        Raises
        ------
        Exception
            What a stage, or reading the source, failed with.
        """
        self.start()
        return self._pipes[-1].read(length)

    def join(self) -> None:
        """Wait until all threads have ended."""
        for thread in self._threads:
            thread.join()

    def close(self) -> None:
        """End all stages, as soon as they read or write again; does not wait for them."""
        with self._lock:
            was_closed, self._is_closed = self._is_closed, True
            is_idle = not self._is_reading
        self._fail(AbandonedError())
        if is_idle and not was_closed:
            self._on_idle()

    def start(self) -> None:
        """Start the threads, unless they run or the pipeline is closed."""
        with self._lock:
            if self._threads or self._is_closed:
                return
            self._is_reading = True
            readers = [self._source, *self._pipes]
            for at, stage in enumerate(self._stages):
                arguments = (stage, readers[at], self._pipes[at], at)
                # A daemon: a source that never ends must not keep a cancelled process alive.
                name = f"fsbackup-{getattr(stage, '__name__', 'stage')}"
                self._threads.append(threading.Thread(target=self._run, args=arguments, name=name, daemon=True))
            for thread in self._threads:
                thread.start()

    def _run(self, stage: Stage, reader: Reader, pipe: Pipe, at: int) -> None:
        watched = _Watched(reader)
        try:
            stage(watched, pipe)
            pipe.end()
        except BaseException as error:  # noqa: BLE001 - raised where the pipe is read
            # A library wraps what its reader raises in an error of its own, which says less.
            self._fail(watched.error or error)
        finally:
            if at == 0:
                self._end_reading()

    def _end_reading(self) -> None:
        with self._lock:
            self._is_reading = False
            is_closed = self._is_closed
        if is_closed:
            self._on_idle()

    def _fail(self, error: BaseException) -> None:
        """End everything with the first error: later ones only follow from it."""
        with self._lock:
            self._error = self._error or error
        source = [self._source] if isinstance(self._source, Pipe) else []
        for pipe in (*source, *self._pipes):
            pipe.fail(self._error)


class _Watched:
    """A reader that keeps the exception that it raised."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.error: BaseException | None = None

    def read(self, length: int = -1, /) -> bytes:
        try:
            return self._reader.read(length)
        except BaseException as error:
            self.error = error
            raise
