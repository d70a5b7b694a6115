"""The source of an upload: a regular file, or a stream of unknown length; read in order and hashed on the way.

`open_source` returns a `FileSource`, or a `StreamSource`, of which the output of a command is one (`command.py`).
`PartBuffer` calls `next_part` until a part is `last`, and `reread` for replicas that lag behind. A file can always
be read again; a stream only as far as its `ReplayBuffer` has it (see `spool.py`).
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import logging
import os
import select
import stat
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, Protocol, TypeAlias, TypeVar, cast

from fsbackup.engine.hashing import Digest, ObjectHasher, content_hash
from fsbackup.errors import ConfigError, SourceChangedError, SourceError, SourceNotFoundError
from fsbackup.lazy import cached_property
from fsbackup.record import Manifest
from fsbackup.sizing import KIB, MIB
from fsbackup.stores.base import ObjectStat, ObjectStore, Part
from fsbackup.threads import in_daemon_thread

if TYPE_CHECKING:
    from fsbackup.buffers import Buffers
    from fsbackup.engine.command import Command
    from fsbackup.seen import Seen
    from fsbackup.stages import Stages

T = TypeVar("T")

#: What can be uploaded: the path of a file, FIFO or device, a binary stream, or a command whose output is meant.
SourceLike: TypeAlias = "str | os.PathLike[str] | BinaryIO | Command"

log = logging.getLogger("fsbackup.storage")

#: Seconds that a FIFO is waited for until something writes to it, and those after which that is said.
FIFO_TIMEOUT, _FIFO_SAID = 1800.0, 10.0
_FIFO_TICK = 0.5

#: A file of up to so many bytes is read when it is opened. Few, since no memory is reserved for it at that time.
_SMALL_FILE = 256 * KIB
#: A part of up to so many bytes is read into memory of its own, as stages take it.
_SHORT_PART = 256 * KIB


class ReplayBuffer(Protocol):
    """Bytes of a stream that can be read again: the temp file of a local replica, or a spool."""

    @property
    def replayable_bytes(self) -> int:
        """Number of bytes, from the start of the stream, that `reread` can return."""

    async def append(self, part: Part) -> None:
        """Add the next part."""

    async def reread(self, offset: int, length: int) -> bytes | None:
        """Return bytes of the stream, None when they are lost."""

    def close(self) -> None:
        """Release its resources."""


class TreePath(str):
    """The path of a file in a tree; the record keeps the permission bits of the `depth` directories above it."""

    depth = 0

    @classmethod
    def at(cls, path: str, depth: int) -> TreePath:
        """Return the path of a file that is `depth` directories below the root of its tree."""
        result = cls(path)
        result.depth = depth
        return result

    def directory_modes(self) -> list[int]:
        """Return the permission bits of those directories, outermost first."""
        parents = Path(self).parents[: self.depth]
        return [stat.S_IMODE(os.stat(parent).st_mode) for parent in reversed(parents)]


class Copyable(NamedTuple):
    """An object that a service may copy itself: its store, and what that said of it just now."""

    store: ObjectStore
    stat: ObjectStat


#: Raises `SourceError` when the bytes of a source are too few (or too many) to be stored.
CheckSize = Callable[[int], None]


class Source(ABC):
    """The bytes of one object, read part by part.

    Parameters
    ----------
    label
        Its name in messages: a path, or ``<stdin>``.
    size
        Bytes, None when unknown before the end.
    mtime_ns, mode
        Modification time and permission bits of the file; None for a stream.
    directories
        Permission bits of the directories between the root of a tree and the file, outermost first; None for a
        file that was not found in a tree.
    owner
        The numbers of the file's owner and group; None for a stream.
    """

    directories: list[int] | None = None
    owner: tuple[int, int] | None = None

    def __init__(self, label: str, *, size: int | None, mtime_ns: int | None, mode: int | None) -> None:
        self.label = label
        self.size = size
        self.mtime_ns = mtime_ns
        self.mode = mode
        #: What the object is a version of, for its manifest; None where nothing names it.
        self.series: str | None = None
        #: The version of another key that this is a copy of: the new manifest says the same of its bytes.
        self.copy_of: Manifest | None = None
        #: By the name of a backend: the object of these bytes that its service may copy (see `server_copy`).
        self.copyable: Mapping[str, Copyable] = {}
        #: Called with the number of bytes before the last part is handed on, where it was not known before.
        self.check_size: CheckSize | None = None
        self._hasher = ObjectHasher(size)
        self._offset = 0
        self._number = 0

    @property
    def most_bytes(self) -> int | None:
        """The most bytes that it can have; None when there is no telling."""
        return self.size

    @property
    def stages(self) -> Sequence[Mapping[str, Any]] | None:
        """What was done to the source's bytes, for the manifest, once it was read to its end; None for nothing."""
        return None

    @abstractmethod
    async def next_part(self, length: int, *, md5: bool) -> Part:
        """Read, hash and return the next part; `last` is set on the final one."""

    def ready_part(self) -> Part | None:
        """Return the next part if it was read already, else None; saves a switch to another thread."""
        return None

    def known_sha256(self) -> str | None:
        """Return the SHA-256 of the whole (hex) if it is known before anything is sent."""
        return None

    async def hash_ahead(self) -> str | None:
        """Return the SHA-256 of the whole (hex), read for it if need be; None for a stream of unknown length."""
        if self.size is None:
            return None
        return self.known_sha256() or await content_hash(self.reread, self.size)

    @abstractmethod
    async def reread(self, offset: int, length: int) -> bytes | memoryview | None:
        """Return bytes that were read before, or None when they cannot be read again."""

    @property
    @abstractmethod
    def replayable_bytes(self) -> int:
        """Number of bytes, from the start, that `reread` can return."""

    #: Whether a running read may be cancelled. Not for a file: its thread must end before the descriptor is
    #: closed.
    interruptible = False

    def matches(self, offset: int, data: bytes | memoryview) -> bool | None:
        """Return whether `data` are the bytes that were read at `offset`; None where their blocks do not say."""
        return self._hasher.matches(offset, data)

    def digest(self) -> Digest:
        """Return the digest of everything read so far."""
        return self._hasher.digest()

    def read_part(self, length: int, *, md5: bool) -> Part:
        """Read, hash and return the next part, as `next_part`; blocks."""
        raise NotImplementedError(f"{self.label} cannot be read in a thread")

    def hash_whole_only(self) -> None:
        """Hash no blocks from here on, for a source whose bytes are not what is stored; call it before reading."""
        if not self._offset:
            self._hasher = ObjectHasher(self.size, blocks=False)

    @property
    def bytes_read(self) -> int:
        """How many bytes were read so far."""
        return self._offset

    @property
    def sha256(self) -> str:
        """The SHA-256 (hex) of everything read so far."""
        return self._hasher.sha256

    def close(self) -> None:  # noqa: B027 - a stream belongs to the caller
        """Close what the source opened itself."""

    @cached_property
    def _buffers(self) -> Buffers:
        """The memory for the parts of a source that has several; imported for these alone."""
        from fsbackup.buffers import Buffers

        return Buffers()

    def _make_part(self, data: bytes | memoryview, *, last: bool, md5: bool) -> Part:
        """Hash `data` as the next part; runs in a worker thread."""
        if last and self.check_size is not None:
            self.check_size(self._offset + len(data))
        self._number += 1
        part = Part(self._number, self._offset, data, last)
        self._offset += len(data)
        self._hasher.update(data)
        if md5:
            _ = part.md5
        return part


class FileSource(Source):
    """A regular file. A change of size or mtime while it is read is a `SourceChangedError`.

    Parameters
    ----------
    path, descriptor
        The file, opened.
    may_grow
        Take what the file had when it was opened, where it has only grown since: read once more at the end, these
        bytes must be the same.
    seen
        Knows the content of files that have not changed since they were last read, and gets that of this one.
    """

    def __init__(self, path: str, descriptor: int, *, may_grow: bool = False, seen: Seen | None = None) -> None:
        self._may_grow = may_grow
        self._seen = seen
        self._descriptor = descriptor
        self._before = os.fstat(descriptor)
        super().__init__(
            path,
            size=self._before.st_size,
            mtime_ns=self._before.st_mtime_ns,
            mode=stat.S_IMODE(self._before.st_mode),
        )
        self.owner = self._before.st_uid, self._before.st_gid
        self._known = seen.sha256(self._before) if seen else None
        self._ready: Part | None = None
        #: All bytes of a small file, which is closed then.
        self._content: bytes | None = None
        # A small file is read in the call that opens it: switching threads is most of its cost.
        if self._known is None and self._before.st_size <= _SMALL_FILE:
            self._ready = self.read_part(_SMALL_FILE, md5=True)
            self._content = bytes(self._ready.data)
            os.close(descriptor)

    @property
    def replayable_bytes(self) -> int:
        return self._before.st_size

    async def next_part(self, length: int, *, md5: bool) -> Part:
        ready = self.ready_part()
        return ready if ready is not None else await asyncio.to_thread(self.read_part, length, md5=md5)

    def ready_part(self) -> Part | None:
        part, self._ready = self._ready, None
        return part

    def known_sha256(self) -> str | None:
        return self.digest().sha256 if self._ready is not None else self._known

    async def hash_ahead(self) -> str | None:
        sha256 = await super().hash_ahead()
        if (
            self._content is None
            and self._seen is not None
            and sha256 is not None
            and await asyncio.to_thread(self._unchanged)
        ):
            self._seen.remember(self._before, sha256)
        return sha256

    async def reread(self, offset: int, length: int) -> bytes | memoryview | None:
        if self._content is not None:
            return self._content[offset : offset + length]
        return await asyncio.to_thread(self._read_at, offset, length)

    def close(self) -> None:
        if self._content is None:
            os.close(self._descriptor)

    def read_part(self, length: int, *, md5: bool) -> Part:
        if (ready := self.ready_part()) is not None:
            return ready
        assert self.size is not None
        wanted = min(length, self.size - self._offset)
        data = self._read_at(self._offset, wanted)
        last = self._offset + len(data) >= self.size
        if len(data) < wanted:
            raise self._changed()
        part = self._make_part(data, last=last, md5=md5)
        if last and not (is_unchanged := self._unchanged()) and not (self._may_grow and self._has_only_grown()):
            raise self._changed()
        if last and is_unchanged and self._seen is not None:
            self._seen.remember(self._before, self.sha256)
        return part

    def _pread(self, offset: int, length: int) -> bytes:
        """Read `length` bytes, fewer only at the end of the file (one `pread` returns at most 2 GiB)."""
        pieces = []
        with self._read_errors():
            while length and (piece := os.pread(self._descriptor, length, offset)):
                pieces.append(piece)
                offset, length = offset + len(piece), length - len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _read_at(self, offset: int, length: int) -> bytes | memoryview:
        """Read `length` bytes, fewer only at the end of the file; into memory of parts where these are several."""
        if length <= _SHORT_PART or length == self.size:
            return self._pread(offset, length)
        view, filled = self._buffers.take(length), 0
        with self._read_errors():
            while filled < length:
                count = os.preadv(self._descriptor, [view[filled:]], offset + filled)
                if not count:
                    break
                filled += count
        return view[:filled]

    @contextmanager
    def _read_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise SourceError(f"{self.label}: cannot be read: {error.strerror}") from error

    def _unchanged(self) -> bool:
        now, before = os.fstat(self._descriptor), self._before
        has_grown = os.pread(self._descriptor, 1, before.st_size)
        return not has_grown and (now.st_size, now.st_mtime_ns) == (before.st_size, before.st_mtime_ns)

    def _has_only_grown(self) -> bool:
        """Return whether the bytes that were read are still there, with more behind them."""
        size, again = self._before.st_size, hashlib.sha256()
        if os.fstat(self._descriptor).st_size <= size:
            return False
        for offset in range(0, size, MIB):
            again.update(self._pread(offset, min(MIB, size - offset)))
        if again.hexdigest() != self.sha256:
            return False
        log.info("%s: grew while it was read; what it had when it was opened is stored", self.label)
        return True

    def _changed(self) -> SourceChangedError:
        return SourceChangedError(
            f"{self.label}: changed while it was read, nothing was stored",
            hint="back up a finished file or a snapshot, or run what writes it with `put --command`",
        )


class BytesSource(Source):
    """Bytes in memory, possibly none."""

    def __init__(self, data: bytes, label: str) -> None:
        super().__init__(label, size=len(data), mtime_ns=None, mode=None)
        self._data = data

    @property
    def replayable_bytes(self) -> int:
        return len(self._data)

    async def next_part(self, length: int, *, md5: bool) -> Part:
        data = self._slice(self._offset, length)
        last = self._offset + len(data) == len(self._data)
        return await asyncio.to_thread(self._make_part, data, last=last, md5=md5)

    async def reread(self, offset: int, length: int) -> bytes | memoryview:
        return self._slice(offset, length)

    def _slice(self, offset: int, length: int) -> bytes | memoryview:
        """Return `length` bytes, fewer only at the end, without a copy."""
        is_whole = not offset and length >= len(self._data)
        return self._data if is_whole else memoryview(self._data)[offset : offset + length]


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
        if length <= _SHORT_PART:
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


def open_source(
    source: SourceLike,
    *,
    allow_empty: bool = False,
    may_grow: bool = False,
    series: str | None = None,
    check_size: CheckSize | None = None,
    seen: Seen | None = None,
    stages: Stages | None = None,
) -> Source:
    """Open a path, a binary stream or a command.

    Parameters
    ----------
    allow_empty
        Whether a stream may be empty (see `StreamSource`); a regular file may always be.
    may_grow
        Whether a file may grow while it is read (see `FileSource`).
    series
        What the object is a version of, for its manifest.
    check_size
        Refuses a size: that of a file here, that of a stream before its last part is handed on.
    seen
        Knows what was read before of files (see `FileSource`); None: a file is read whatever is known of it.
    stages
        What is done to the bytes; `check_size` and `allow_empty` concern those before.

    Raises
    ------
    ConfigError
        When a package or a key that the stages need is missing.
    ValueError
        For a directory (jobs back up directories) or a text stream.
    SourceNotFoundError, SourceError
        When the file does not exist or cannot be read, or has a size that is refused.
    """
    opened = _open(source, allow_empty, may_grow, seen)
    opened.check_size = check_size
    try:
        if check_size is not None and opened.size is not None:
            check_size(opened.size)
        if stages is not None:
            from fsbackup.engine.staged import StagedSource

            assert isinstance(opened, FileSource | StreamSource)
            opened = StagedSource(opened, stages)
    except (SourceError, ConfigError):
        opened.close()
        raise
    opened.series = series
    return opened


def _open(source: SourceLike, allow_empty: bool, may_grow: bool, seen: Seen | None) -> Source:
    if hasattr(source, "open_source"):
        return cast("Command", source).open_source(allow_empty=allow_empty)
    if hasattr(source, "read"):
        if hasattr(source, "encoding"):
            raise ValueError("the stream is opened in text mode: pass a binary stream, such as its .buffer")
        label = str(getattr(source, "name", "<stream>"))
        return StreamSource(cast(BinaryIO, source), label, allow_empty=allow_empty)
    path = _plain_path(os.path.expanduser(cast(os.PathLike[str], source)))
    try:
        directories = source.directory_modes() if isinstance(source, TreePath) else []
        opened = _open_file(path, allow_empty, may_grow, seen)
        opened.directories = directories or None
        return opened
    except FileNotFoundError as error:
        raise SourceNotFoundError(f"{path}: no such file") from error
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}") from error


def _plain_path(path: str) -> str:
    """Return the path as `Path` has it, which takes longer than to read a small file."""
    return path if os.path.normpath(path) == path else str(Path(path))


def _open_file(path: str, allow_empty: bool, may_grow: bool, seen: Seen | None) -> Source:
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise ValueError(f"{path} is a directory: pass a file, or back up the directory with a job")
    if not stat.S_ISREG(mode):
        return _PathStream(path, allow_empty)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return FileSource(path, descriptor, may_grow=may_grow, seen=seen)
    except BaseException:
        os.close(descriptor)
        raise


class _PathStream(StreamSource):
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
        piece = super()._read_piece(length)
        self._is_reading = False
        return piece

    def _open(self) -> BinaryIO:
        descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
                self._wait_for_writer(descriptor)
            os.set_blocking(descriptor, True)
        except BaseException:
            os.close(descriptor)
            raise
        return open(descriptor, "rb")

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
