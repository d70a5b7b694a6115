"""The source of an upload: a regular file, bytes, or a stream; read in order and hashed on the way.

`open_source` returns a `FileSource`, a `StreamSource` (the output of a command is one), or the `StagedSource` that
stages make of either. `BytesSource`, for what fsbackup has in memory itself, is in this file.

`PartBuffer` calls `next_part` until a part is `last`, and `reread` for replicas that lag behind. A file can always
be read again; a stream only as far as its `ReplayBuffer` has it (see `spool.py`).
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from fsbackup.engine.hashing import Digest, ObjectHasher, content_hash
from fsbackup.lazy import cached_property
from fsbackup.record import Manifest
from fsbackup.sizing import KIB
from fsbackup.stores.base import ObjectStat, ObjectStore, Part

if TYPE_CHECKING:
    from fsbackup.buffers import Buffers

#: A part of up to so many bytes is read into memory of its own, as stages take it.
SHORT_PART = 256 * KIB


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
