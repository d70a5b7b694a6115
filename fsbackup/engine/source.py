"""What is backed up: a regular file, or a stream of unknown length. Read once, in order, hashed on the way."""

from __future__ import annotations

import asyncio
import os
import select
import stat
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar, cast

from fsbackup.engine.hashing import Digest, ObjectHasher
from fsbackup.errors import SourceChangedError, SourceError, SourceNotFoundError
from fsbackup.sizing import KIB
from fsbackup.stores.base import Part

T = TypeVar("T")

#: Bytes up to which a file is read when it is opened. Few, since that is before it gets its share of the memory.
_SMALL = 256 * KIB


class ReplayBuffer(Protocol):
    """Something that keeps a stream's bytes: the temp file of a local replica, or a spool."""

    @property
    def replayable_bytes(self) -> int:
        """Bytes from the start that it has."""

    async def append(self, part: Part) -> None:
        """Take the next part."""

    async def reread(self, offset: int, length: int) -> bytes | None:
        """Return some of them, None when it lost them."""

    def close(self) -> None:
        """Release what it holds."""


class Source(ABC):
    """One object's bytes, handed out part by part.

    Parameters
    ----------
    label
        What to call it in messages: a path, or ``<stdin>``.
    size
        Bytes, None when unknown before the end.
    mtime_ns, mode
        Of the file; None for a stream.
    """

    def __init__(self, label: str, *, size: int | None, mtime_ns: int | None, mode: int | None) -> None:
        self.label = label
        self.size = size
        self.mtime_ns = mtime_ns
        self.mode = mode
        self._hasher = ObjectHasher(size)
        self._offset = 0
        self._number = 0

    @abstractmethod
    async def next_part(self, length: int, *, md5: bool) -> Part:
        """Read, hash and return the next part; the one that ends the object says `last`."""

    def ready_part(self) -> Part | None:
        """Return the next part if it has been read already, so that nobody needs to wait for it."""
        return None

    def known_sha256(self) -> str | None:
        """Return the SHA-256 of the whole when it is known before anything is sent."""
        return None

    @abstractmethod
    async def reread(self, offset: int, length: int) -> bytes | None:
        """Return bytes read before, or None when this source cannot go back."""

    @property
    @abstractmethod
    def replayable_bytes(self) -> int:
        """How many bytes from the start `reread` can return; a slow store may fall behind within them."""

    #: Whether a read can be given up: a thread that reads a file must end before the file is closed.
    interruptible = False

    def digest(self) -> Digest:
        """Return the digest of everything read so far."""
        return self._hasher.digest()

    def close(self) -> None:  # noqa: B027 - a stream belongs to the caller
        """Release what the source opened itself."""

    def _make_part(self, data: bytes, *, last: bool, md5: bool) -> Part:
        """Hash `data` as the next part; runs in a worker thread."""
        self._number += 1
        part = Part(self._number, self._offset, data, last)
        self._offset += len(data)
        self._hasher.update(data)
        if md5:
            _ = part.md5
        return part


class FileSource(Source):
    """A regular file; one that changes while it is read is an error, whatever was read of it."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._descriptor = descriptor
        self._before = os.fstat(descriptor)
        super().__init__(
            str(path),
            size=self._before.st_size,
            mtime_ns=self._before.st_mtime_ns,
            mode=stat.S_IMODE(self._before.st_mode),
        )
        # A small file is read in the same trip to a worker thread that opens it: most of its cost is the trips.
        small = self._before.st_size <= _SMALL
        self._ready = self._next(_SMALL, md5=True) if small else None

    @property
    def replayable_bytes(self) -> int:
        return self._before.st_size

    async def next_part(self, length: int, *, md5: bool) -> Part:
        ready = self.ready_part()
        return ready if ready is not None else await asyncio.to_thread(self._next, length, md5)

    def ready_part(self) -> Part | None:
        part, self._ready = self._ready, None
        return part

    def known_sha256(self) -> str | None:
        return self.digest().sha256 if self._ready is not None else None

    async def reread(self, offset: int, length: int) -> bytes | None:
        return await asyncio.to_thread(self._pread, offset, length)

    def close(self) -> None:
        os.close(self._descriptor)

    def _next(self, length: int, md5: bool) -> Part:
        assert self.size is not None
        wanted = min(length, self.size - self._offset)
        data = self._pread(self._offset, wanted)
        last = self._offset + len(data) >= self.size
        if len(data) < wanted or (last and not self._unchanged()):
            raise self._changed()
        return self._make_part(data, last=last, md5=md5)

    def _pread(self, offset: int, length: int) -> bytes:
        """Read exactly `length` bytes where the file still has them (one `pread` stops at 2 GiB)."""
        pieces = []
        try:
            while length and (piece := os.pread(self._descriptor, length, offset)):
                pieces.append(piece)
                offset, length = offset + len(piece), length - len(piece)
        except OSError as error:
            raise SourceError(f"{self.label}: cannot be read: {error.strerror}") from error
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _unchanged(self) -> bool:
        now, before = os.fstat(self._descriptor), self._before
        grown = os.pread(self._descriptor, 1, before.st_size)
        return not grown and (now.st_size, now.st_mtime_ns) == (before.st_size, before.st_mtime_ns)

    def _changed(self) -> SourceChangedError:
        return SourceChangedError(
            f"{self.label}: changed while it was read, nothing of it was stored",
            hint="back up a finished file or a snapshot, or pipe the data in with 'put -'",
        )


class StreamSource(Source):
    """A stream such as stdin or a pipe.

    It is read in a daemon thread of its own, so that a producer that never finishes cannot keep a
    cancelled process alive.

    Parameters
    ----------
    stream, label
        What to read, and what to call it in messages.
    allow_empty
        Whether it may end before its first byte. Otherwise that is a `SourceError`: at the other end of a pipe
        it is what a command looks like that could not even start.
    """

    interruptible = True

    def __init__(self, stream: BinaryIO, label: str = "<stream>", *, allow_empty: bool = False) -> None:
        super().__init__(label, size=None, mtime_ns=None, mode=None)
        self._stream = stream
        self._allow_empty = allow_empty
        self._ahead = b""
        #: Where bytes can be had again: set by the upload when a local temp file or a spool holds them.
        self.replay: ReplayBuffer | None = None

    @property
    def replayable_bytes(self) -> int:
        return self.replay.replayable_bytes if self.replay else 0

    async def next_part(self, length: int, *, md5: bool) -> Part:
        part = await _in_daemon_thread(lambda: self._next(length, md5))
        if self.replay is not None:
            await self.replay.append(part)
        return part

    async def reread(self, offset: int, length: int) -> bytes | None:
        return await self.replay.reread(offset, length) if self.replay else None

    def close(self) -> None:
        if self.replay is not None:
            self.replay.close()

    def _next(self, length: int, md5: bool) -> Part:
        data = self._ahead + self._read(length - len(self._ahead))
        self._ahead = self._read(1) if len(data) == length else b""
        if not data and not self._allow_empty:
            raise self._empty()
        return self._make_part(data, last=not self._ahead, md5=md5)

    def _empty(self) -> SourceError:
        return SourceError(
            f"{self.label}: ended without a single byte, nothing was stored",
            hint="look whether the command that writes it failed; put --allow-empty (in Python allow_empty=True)"
            " stores an empty object",
        )

    def _read(self, length: int) -> bytes:
        """Read until `length` bytes or the end; a pipe hands out far less per call."""
        pieces = []
        try:
            while length and (piece := self._read_some(length)):
                pieces.append(piece)
                length -= len(piece)
        except (OSError, ValueError) as error:
            raise SourceError(f"{self.label}: cannot be read: {error}") from error
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _read_some(self, length: int) -> bytes:
        """Read once, waiting where the stream does not: a non-blocking one says None for "nothing yet"."""
        while (piece := self._stream.read(length)) is None:
            select.select([self._stream], [], [])
        return piece


def open_source(source: str | os.PathLike[str] | BinaryIO, *, allow_empty: bool = False) -> Source:
    """Open a path or a binary stream.

    Parameters
    ----------
    allow_empty
        Whether a stream may have no byte (see `StreamSource`); a regular file always may.

    Raises
    ------
    ValueError
        For a directory (jobs back up directories) or a text stream.
    SourceNotFoundError, SourceError
        When the file is not there or cannot be read.
    """
    if hasattr(source, "read"):
        if hasattr(source, "encoding"):
            raise ValueError("a stream to back up must be binary, this one is text: pass its .buffer")
        label = str(getattr(source, "name", "<stream>"))
        return StreamSource(cast(BinaryIO, source), label, allow_empty=allow_empty)
    path = Path(os.fspath(cast(os.PathLike[str], source)))
    try:
        return _open_file(path, allow_empty)
    except FileNotFoundError as error:
        raise SourceNotFoundError(f"{path}: no such file") from error
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}") from error


def _open_file(path: Path, allow_empty: bool) -> Source:
    kind = os.stat(path).st_mode
    if stat.S_ISDIR(kind):
        raise ValueError(f"{path} is a directory where a file is meant; a job backs up a directory")
    if not stat.S_ISREG(kind):
        return _OwnedStream(path, allow_empty)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return FileSource(path, descriptor)
    except BaseException:
        os.close(descriptor)
        raise


class _OwnedStream(StreamSource):
    """A FIFO or device given by path, opened in the reading thread: opening a FIFO waits for its writer."""

    def __init__(self, path: Path, allow_empty: bool) -> None:
        self._path = path
        self._opened: BinaryIO | None = None
        #: A read that was given up still holds the file's lock, and closing it would wait for that read.
        self._busy = False
        super().__init__(cast(BinaryIO, None), str(path), allow_empty=allow_empty)

    def _read(self, length: int) -> bytes:
        if self._opened is None:
            self._opened = self._stream = open(self._path, "rb")  # noqa: SIM115
        self._busy = True
        data = super()._read(length)
        self._busy = False
        return data

    def close(self) -> None:
        super().close()
        if self._opened is not None and not self._busy:
            self._opened.close()


async def _in_daemon_thread(work: Callable[[], T]) -> T:
    """Run `work` in a thread that does not hold up the interpreter's exit."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    def main() -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - handed to the waiting task
            loop.call_soon_threadsafe(settle, None, error)
        else:
            loop.call_soon_threadsafe(settle, result, None)

    threading.Thread(target=main, name="fsbackup-stream", daemon=True).start()
    return await done
