"""One file on its way under its name: temp file, bytes at offsets, fsync, rename, fsync of the directory.

Blocking, and safe to use from several threads. Whatever ends it before the rename (an error, a full disk,
`stop` from another thread) removes the temp file and the directories made for it; the last call that is still
running does so on its way out, so that nothing is created behind a cleanup.
"""

from __future__ import annotations

import os
import secrets
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from fsbackup import keys
from fsbackup.errors import BackendError, ConflictError, IntegrityError, OutOfSpaceError
from fsbackup.events import log
from fsbackup.sizing import MIB
from fsbackup.stores.base import WritePlan, file_mode
from fsbackup.stores.local import publish
from fsbackup.stores.local.directory import (
    ATTEMPTS,
    SafeDirectory,
    display_name,
    fsync_directory,
    lstat_entry,
    split_name,
)
from fsbackup.threads import heartbeat

#: Bytes after which what was written is flushed and dropped from the page cache: the last fsync of a huge file is
#: a short one, and a copy that nobody is about to read pushes nothing out of memory that somebody needs.
_FLUSH = 32 * MIB
#: Bytes per system call: progress is seen, and a stop is heeded, between two of them.
_SLICE = 16 * MIB
_TEMP = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW


class WriteCancelledError(BackendError):
    """The write was given up; nothing of it stays."""


class AtomicFile:
    """A file being written; nothing has its name before `commit`."""

    def __init__(self, base: SafeDirectory, name: str, plan: WritePlan) -> None:
        self._base = base
        self._segments = split_name(name)
        self._plan = plan
        self._lock = threading.Lock()
        self._running = 0
        self._stopped = False
        self._failure: BaseException | None = None
        self._directory = self._file = -1
        self._existing = len(self._segments)  # levels of directories that are not ours to remove
        self._temp = b""
        self._unflushed = self._written = 0
        self.committed: os.stat_result | None = None

    def write(self, offset: int, data: bytes, moved: Callable[[int], None]) -> None:
        """Write bytes at an offset; calls `moved` with the number of bytes after each slice."""
        with self._call():
            view = memoryview(data)
            while view:
                done = os.pwrite(self._file, view[:_SLICE], offset)
                view, offset = view[done:], offset + done
                self._account(done)
                moved(done)
                self._check_cancelled()

    def _account(self, done: int) -> None:
        heartbeat()
        with self._lock:
            self._written += done
            self._unflushed += done
            flush = self._unflushed >= _FLUSH
            if flush:
                self._unflushed = 0
        if flush:
            os.fdatasync(self._file)
            self._forget()
            heartbeat()

    def _forget(self) -> None:
        with suppress(OSError):  # it is only a hint
            os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_DONTNEED)

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes written before; fewer than `length` where the file ends."""
        with self._call():
            return os.pread(self._file, length, offset)

    def commit(self, size: int) -> os.stat_result:
        """Give the file, of `size` bytes, its name, and return what the disk says of it."""
        with self._call():
            self._check_size(size)
            self._finish_content()
            self._check_target()
            self._rename()
            fsync_directory(self._directory)
            self.committed = os.fstat(self._file)
            return self.committed

    def _check_size(self, size: int) -> None:
        stored = os.fstat(self._file).st_size
        planned = size if self._plan.size is None else self._plan.size
        if not size == stored == self._written == planned:
            raise IntegrityError(f"{stored} bytes were stored where {planned} were to be")

    def _finish_content(self) -> None:
        os.fchmod(self._file, file_mode(self._plan.mode))
        if (mtime := self._plan.mtime_ns) is not None:
            os.utime(self._file, ns=(mtime, mtime))
        os.fsync(self._file)
        if self._written >= _FLUSH:
            self._forget()
        heartbeat()

    def _check_target(self) -> None:
        there = lstat_entry(self._directory, self._segments)
        if there is not None and not stat.S_ISREG(there.st_mode):
            raise ConflictError(
                f"{display_name(self._segments)!r} is a directory or special file, which no object replaces",
                hint="remove or rename one of the two",
            )

    def _rename(self) -> None:
        self._check_cancelled()
        rename = publish.create if self._plan.create_only else publish.replace
        try:
            rename(self._directory, self._temp, self._segments[-1])
        except FileExistsError as error:
            raise ConflictError("the key exists, and replacing it was not asked for") from error
        except FileNotFoundError as error:
            raise BackendError("the temp file was removed by somebody else while it was written") from error
        self._temp = b""

    def cancel(self) -> None:
        """Give the write up, unless its rename has begun. Returns at once, whatever the disk does."""
        self._stopped = True

    def _fail(self, error: BaseException) -> None:
        """Stop because of an error; the calls that run beside report it too, not that they were stopped."""
        self._failure = self._failure or error
        self._stopped = True

    def _check_cancelled(self) -> None:
        if self._stopped:
            raise self._failure or WriteCancelledError("the write was stopped")

    def abort(self) -> None:
        """Stop, and clean up now unless a running call will."""
        self.cancel()
        with self._lock:
            if not self._running:
                self._clean()

    @contextmanager
    def _call(self) -> Iterator[None]:
        with self._lock:
            self._check_cancelled()
            if self._file < 0:
                self._open()
            self._running += 1
        try:
            yield
        except BaseException as error:
            self._fail(error)
            raise
        finally:
            with self._lock:
                self._running -= 1
                if not self._running and (self._stopped or self.committed):
                    self._clean()

    def _open(self) -> None:
        try:
            self._open_temp()
            self._check_space()
        except BaseException as error:
            self._fail(error)
            self._clean()
            raise

    def _open_temp(self) -> None:
        temp = f".{secrets.token_hex(16)}{keys.TEMP_SUFFIX}".encode()
        for _ in range(ATTEMPTS):
            self._directory, self._existing = self._base.make(self._segments[:-1])
            try:
                self._file = os.open(temp, _TEMP, 0o600, dir_fd=self._directory)
            except FileNotFoundError:  # a racing remove pruned the directory: make it again
                os.close(self._directory)
                self._directory = -1
            else:
                self._temp = temp
                return
        raise BackendError("its directory keeps vanishing")

    def _check_space(self) -> None:
        room = os.fstatvfs(self._directory)
        free = room.f_bavail * room.f_frsize
        if self._plan.size is not None and room.f_blocks and self._plan.size > free:
            raise OutOfSpaceError(
                f"{self._plan.size} bytes do not fit into the {free} that are free",
                hint="free space on it, or shorten its retention",
            )

    def _clean(self) -> None:
        """Close, and remove what was not renamed. Called with the lock held and no call running."""
        if self._temp:
            self._unlink_temp()
        for fd in (self._file, self._directory):
            if fd >= 0:
                os.close(fd)
        self._file = self._directory = -1
        self._stopped = True
        if not self.committed:
            self._base.prune(self._segments[:-1], keep=self._existing)

    def _unlink_temp(self) -> None:
        try:
            os.unlink(self._temp, dir_fd=self._directory)
        except FileNotFoundError:
            pass
        except OSError as error:
            log.warning("a temp file stays behind below %s: %s", self._base.path, error)
        self._temp = b""
