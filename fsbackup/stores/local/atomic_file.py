"""One file that appears under its name in one step.

The protocol of a write, and what a crash leaves:

1. `SafeDirectory.make` creates missing directories and fsyncs each parent.
2. A temp file is created beside the target; its bytes are written at their offsets.
3. `commit` checks the size, sets mode and mtime and fsyncs the file. A crash up to here leaves the old object and
   a temp file, which `find_temp_files` finds.
4. The temp file is renamed to the target, then the directory is fsynced. A crash leaves the old or the new object.
   With `keep_replaced` the old file has got a second name before, that of a temp file, which `roll_back` renames
   over the target, and `release` removes. A crash leaves it as in 3. Where there are no hard links, none is kept.

All functions block and may be called from several threads. Whatever ends a write before the rename (an error, a
full disk, `cancel` from another thread) removes the temp file and the directories created for it. The last call
still running does that when it returns, so that nothing is created after the clean-up.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache

from fsbackup.errors import BackendError, ConflictError, IntegrityError, OutOfSpaceError
from fsbackup.events import log
from fsbackup.sizing import MIB
from fsbackup.stores.base import WritePlan
from fsbackup.stores.local.directory import (
    SafeDirectory,
    case_error,
    display_name,
    fsync_directory,
    is_of_another_case,
    lstat_entry,
    tells_case_apart,
)
from fsbackup.stores.names import permissions, split_name, temp_name
from fsbackup.stores.page_cache import write_at
from fsbackup.threads import heartbeat

#: Bytes after which written data is flushed and dropped from the page cache: the last fsync of a huge file is
#: short, and a copy that is not read again displaces nothing from memory. A file of so many is written past the
#: cache, where that can be.
_FLUSH = 32 * MIB
#: Of offset, length and memory of what a disk takes past the page cache; a filesystem that wants more refuses it.
_ALIGNMENT = 4096
#: Bytes between two looks for a cancellation, and two reports of progress.
_SLICE = 16 * MIB

_RENAME_NOREPLACE = 1
#: Errors of filesystems without hard links (FAT, some network and FUSE ones) or without an exclusive rename.
_UNSUPPORTED = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EMLINK})


class WriteCancelledError(BackendError):
    """The write was cancelled; nothing of it stays."""


class AtomicFile:
    """A file being written; nothing has its name before `commit`."""

    def __init__(self, base: SafeDirectory, name: str, plan: WritePlan) -> None:
        self._base = base
        self._segments = split_name(name)
        self._plan = plan
        self._lock = threading.Lock()
        self._running_calls = 0
        self._cancelled = False
        self._failure: BaseException | None = None
        self._directory = self._file = -1
        #: Another descriptor of the file, for writes past the page cache.
        self._direct = -1
        self._existing_levels = len(self._segments)  # directories that this write did not create
        self._temp = self._kept = b""
        self._publishing = False
        self._unflushed = self._written = 0
        self.committed: os.stat_result | None = None

    def write(self, offset: int, data: bytes | memoryview, on_progress: Callable[[int], None]) -> None:
        """Write bytes at an offset; calls `on_progress` with the number of bytes after each slice."""
        with self._call():
            view = memoryview(data)
            while view:
                count = self._write_direct(view[:_SLICE], offset) if isinstance(data, memoryview) else 0
                if not count:
                    count = write_at(self._file, view[:_SLICE], offset)
                    self._count_unflushed(count)
                view, offset = view[count:], offset + count
                self._count(count)
                on_progress(count)
                self._check_cancelled()

    def _write_direct(self, view: memoryview, offset: int) -> int:
        """Write past the page cache, which saves a copy of the bytes; return how many, 0 where that cannot be.

        What follows the last whole block, and all that the filesystem refuses, goes the usual way.
        """
        length = len(view) - len(view) % _ALIGNMENT
        if self._direct < 0 or not length or offset % _ALIGNMENT:
            return 0
        try:
            return os.pwrite(self._direct, view[:length], offset)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return 0

    def _count(self, count: int) -> None:
        heartbeat()
        with self._lock:
            self._written += count

    def _count_unflushed(self, count: int) -> None:
        with self._lock:
            self._unflushed += count
            flush = self._unflushed >= _FLUSH
            if flush:
                self._unflushed = 0
        if flush:
            os.fdatasync(self._file)
            self._drop_from_page_cache()
            heartbeat()

    def _drop_from_page_cache(self) -> None:
        with suppress(OSError):  # it is only advice
            os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_DONTNEED)

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes written before; fewer than `length` where the file ends."""
        with self._call():
            return os.pread(self._file, length, offset)

    def commit(self, size: int) -> os.stat_result:
        """Give the file, of `size` bytes, its name, and return its `stat`."""
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
            raise IntegrityError(f"{stored} bytes were stored instead of {planned}")

    def _finish_content(self) -> None:
        set_attributes(self._base, self._file, self._plan.mode, self._plan.mtime_ns)
        os.fsync(self._file)
        if self._written >= _FLUSH:
            self._drop_from_page_cache()
        heartbeat()

    def _check_target(self) -> None:
        existing = lstat_entry(self._directory, self._segments)
        if existing is not None and not stat.S_ISREG(existing.st_mode):
            raise ConflictError(
                f"{display_name(self._segments)!r} is a directory or special file, which an object cannot replace",
                hint="remove or rename one of the two",
            )

    def _rename(self) -> None:
        self._check_cancelled()
        if self._plan.keep_replaced:
            self._kept = link_temp(self._directory, self._segments[-1])
        self._publishing = True  # before the last look: see `revoke`
        self._check_cancelled()
        try:
            publish(self._directory, self._temp, self._segments, create_only=self._plan.create_only)
        except ConflictError:
            raise
        except FileExistsError as error:
            raise ConflictError("the key exists, and the write is create-only") from error
        except FileNotFoundError as error:
            raise BackendError("another program removed the temp file during the write") from error
        self._temp = b""

    def can_roll_back(self) -> bool:
        """Return whether the file is there, and what it replaced was kept."""
        with self._base.opened(self._segments[:-1]) as directory:
            return bool(self._kept) and self._is_current(directory)

    def roll_back(self) -> None:
        """Put back what was replaced, durably, unless another file has the name by now."""
        with self._base.opened(self._segments[:-1]) as directory:
            if self._kept and self._is_current(directory):
                rename_over(directory, self._kept, self._segments[-1])
                self._kept = b""
                fsync_directory(directory)

    def _is_current(self, directory: int) -> bool:
        found = lstat_entry(directory, self._segments)
        return found is not None and self.committed is not None and os.path.samestat(found, self.committed)

    def release(self) -> None:
        """Remove what was kept."""
        if self._kept:
            with self._base.opened(self._segments[:-1]) as directory, suppress(FileNotFoundError):
                os.unlink(self._kept, dir_fd=directory)
            self._kept = b""

    def cancel(self) -> None:
        """Cancel the write, unless its rename has begun. Returns at once, also when the disk hangs."""
        self._cancelled = True

    def revoke(self) -> bool:
        """Cancel the write, and return whether its rename has not begun, and never will. Returns at once.

        The one who renames says so before he looks for a cancellation, and this looks after it has cancelled: one
        of the two has seen the other, without a lock that a call on a hanging disk might hold.
        """
        self._cancelled = True
        return not self._publishing

    def _fail(self, error: BaseException) -> None:
        """Cancel because of an error; concurrent calls then raise the same error."""
        self._failure = self._failure or error
        self._cancelled = True

    def _check_cancelled(self) -> None:
        if self._cancelled:
            raise self._failure or WriteCancelledError("the write was cancelled")

    def abort(self) -> None:
        """Cancel, and clean up now unless a running call will."""
        self.cancel()
        with self._lock:
            if not self._running_calls:
                self._clean_up()

    @contextmanager
    def _call(self) -> Iterator[None]:
        with self._lock:
            self._check_cancelled()
            if self._file < 0:
                self._open()
            self._running_calls += 1
        try:
            yield
        except BaseException as error:
            self._fail(error)
            raise
        finally:
            with self._lock:
                self._running_calls -= 1
                if not self._running_calls and (self._cancelled or self.committed):
                    self._clean_up()

    def _open(self) -> None:
        try:
            self._open_temp()
            self._check_space()
        except BaseException as error:
            self._fail(error)
            self._clean_up()
            raise

    def _open_temp(self) -> None:
        temp = temp_name().encode()
        self._directory, self._file, self._existing_levels = self._base.create_file(self._segments[:-1], temp)
        self._temp = temp
        if self._plan.size is not None and self._plan.size >= _FLUSH:
            self._direct = open_direct(self._directory, temp)

    def _check_space(self) -> None:
        disk = os.fstatvfs(self._directory)
        free = disk.f_bavail * disk.f_frsize
        if self._plan.size is not None and disk.f_blocks and self._plan.size > free:
            raise OutOfSpaceError(
                f"the object has {self._plan.size} bytes, the disk has {free} free",
                hint="free space on it, or shorten its retention",
            )

    def _clean_up(self) -> None:
        """Close the files and remove what was not renamed. The caller holds the lock; no other call is running."""
        self._temp = self._unlinked(self._temp)
        if not self.committed:
            self._kept = self._unlinked(self._kept)
        for fd in (self._file, self._direct, self._directory):
            if fd >= 0:
                os.close(fd)
        self._file = self._direct = self._directory = -1
        self._cancelled = True
        if not self.committed:
            self._base.prune(self._segments[:-1], keep=self._existing_levels)

    def _unlinked(self, temp: bytes) -> bytes:
        """Remove a temp file, if there is one; return the name of none."""
        try:
            if temp:
                os.unlink(temp, dir_fd=self._directory)
        except FileNotFoundError:
            pass
        except OSError as error:
            log.warning("cannot remove a temp file below %s: %s", self._base.path, error)
        return b""


def open_direct(directory: int, name: bytes) -> int:
    """Open a file for writes past the page cache; -1 where the system or the filesystem has none."""
    try:
        return os.open(name, os.O_WRONLY | os.O_DIRECT | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except (AttributeError, OSError):
        return -1


def set_attributes(base: SafeDirectory, file: int, mode: int | None, mtime_ns: int | None) -> None:
    """Give a new file permission bits and modification time of its source, where the filesystem has them."""
    base.try_to_set("mode of a file", lambda: os.fchmod(file, permissions(mode)))
    if mtime_ns is not None:
        base.try_to_set("modification time of a file", lambda: os.utime(file, ns=(mtime_ns, mtime_ns)))


def publish(directory: int, temp: bytes, segments: list[bytes], *, create_only: bool) -> None:
    """Rename `temp` to the last of `segments` within one directory, replacing a file of this very name.

    Raises
    ------
    FileExistsError
        When the name exists, and the write is create-only.
    ConflictError
        When a name that differs only by case exists, and the disk does not tell the two apart.
    """
    name = segments[-1]
    if tells_case_apart(directory, temp):
        return (rename_new if create_only else rename_over)(directory, temp, name)
    try:
        return rename_new(directory, temp, name)
    except FileExistsError:
        if is_of_another_case(directory, name):
            raise case_error(segments) from None
        if create_only:
            raise
    return rename_over(directory, temp, name)


def link_temp(directory: int, name: bytes) -> bytes:
    """Give a file a second name, that of a temp file, and return it; empty where there can be none."""
    temp = temp_name().encode()
    try:
        os.link(name, temp, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return b""
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        return b""
    return temp


def rename_over(directory: int, temp: bytes, target: bytes) -> None:
    """Rename `temp` to `target` within one directory, replacing an existing file."""
    os.replace(temp, target, src_dir_fd=directory, dst_dir_fd=directory)


def rename_new(directory: int, temp: bytes, target: bytes) -> None:
    """Rename `temp` to `target` within one directory, atomically, unless the name exists.

    Raises
    ------
    FileExistsError
        When the name exists. `temp` is still there then.
    """
    for rename in (_by_rename, _by_link):
        try:
            return rename(directory, temp, target)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
    return _by_stat(directory, temp, target)


def _by_rename(directory: int, temp: bytes, target: bytes) -> None:
    rename = _renameat2()
    if rename is None:
        raise OSError(errno.ENOSYS, "the C library has no renameat2")
    if rename(directory, temp, directory, target, _RENAME_NOREPLACE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@lru_cache(maxsize=1)
def _renameat2() -> Callable[[int, bytes, int, bytes, int], int] | None:
    """Return the C library's renameat2, which Python does not offer; None where there is no such function."""
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is not None:
        function.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
        function.restype = ctypes.c_int
    return function


def _by_link(directory: int, temp: bytes, target: bytes) -> None:
    os.link(temp, target, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
    os.unlink(temp, dir_fd=directory)


def _by_stat(directory: int, temp: bytes, target: bytes) -> None:
    """The last resort on filesystems with neither of the above; not atomic against other programs."""
    try:
        os.stat(target, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return rename_over(directory, temp, target)
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
