"""`FileSource`: a regular file, which can always be read again."""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fsbackup.engine.source import SHORT_PART, Source
from fsbackup.errors import SourceChangedError, SourceError
from fsbackup.events import log
from fsbackup.sizing import KIB, MIB
from fsbackup.stores.base import Part

if TYPE_CHECKING:
    from fsbackup.seen import Seen


#: A file of up to so many bytes is read when it is opened. Few, since no memory is reserved for it at that time.
_SMALL_FILE = 256 * KIB


class FileSource(Source):
    """A regular file. A change of size or mtime while it is read is a `SourceChangedError`.

    Parameters
    ----------
    path, descriptor
        The file, opened; it is closed with this, and when this raises. What is no regular file has taken its
        place: a `SourceChangedError`.
    may_grow
        Take what the file had when it was opened, where it has only grown since: read once more at the end, these
        bytes must be the same.
    seen
        Knows the content of files that have not changed since they were last read, and gets that of this one.
    """

    def __init__(self, path: str, descriptor: int, *, may_grow: bool = False, seen: Seen | None = None) -> None:
        self._may_grow = may_grow
        self._seen = seen
        #: -1 once it is closed: the number may then be that of another file.
        self._descriptor = descriptor
        self._ready: Part | None = None
        #: All bytes of a small file, which is closed then.
        self._content: bytes | None = None
        try:
            self._before = self._look(path)
            super().__init__(
                path,
                size=self._before.st_size,
                mtime_ns=self._before.st_mtime_ns,
                mode=stat.S_IMODE(self._before.st_mode),
            )
            self.owner = self._before.st_uid, self._before.st_gid
            self._known = seen.sha256(self._before) if seen else None
            if self._known is None and self._before.st_size <= _SMALL_FILE:
                self._read_small()
        except BaseException:
            self.close()
            raise

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
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

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
        if length <= SHORT_PART or length == self.size:
            return self._pread(offset, length)
        view, filled = self._buffers.take(length), 0
        with self._read_errors():
            while filled < length:
                count = os.preadv(self._descriptor, [view[filled:]], offset + filled)
                if not count:
                    break
                filled += count
        return view[:filled]

    def _read_small(self) -> None:
        """Read a small file in the call that opens it: switching threads is most of its cost."""
        self._ready = self.read_part(_SMALL_FILE, md5=True)
        self._content = bytes(self._ready.data)
        self.close()

    def _look(self, path: str) -> os.stat_result:
        """Return the status of the file that was opened."""
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise SourceChangedError(
                f"{path}: was replaced while it was opened, by what is no regular file; nothing was stored",
                hint="see what the path is now, and back it up again",
            )
        # It is opened without waiting (see `open_source`); its bytes may have to be waited for.
        os.set_blocking(self._descriptor, True)
        return status

    def _status(self) -> os.stat_result:
        with self._read_errors():
            return os.fstat(self._descriptor)

    @contextmanager
    def _read_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise SourceError(f"{self.label}: cannot be read: {error.strerror}") from error

    def _unchanged(self) -> bool:
        now, before = self._status(), self._before
        has_grown = self._pread(before.st_size, 1)
        return not has_grown and (now.st_size, now.st_mtime_ns) == (before.st_size, before.st_mtime_ns)

    def _has_only_grown(self) -> bool:
        """Return whether the bytes that were read are still there, with more behind them."""
        size, again = self._before.st_size, hashlib.sha256()
        if self._status().st_size <= size:
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
