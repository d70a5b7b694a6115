"""`LocalStore`: plain files below a base directory, under their own names."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar, cast

from fsbackup.errors import BackendUnavailableError, ConfigError, FsbackupError
from fsbackup.sizing import MIB, READ_PIECE
from fsbackup.stores.base import (
    DEFAULT_TIMEOUT,
    BackendInfo,
    Capabilities,
    ObjectStat,
    ObjectStore,
    Orphan,
    PassedOver,
    WritePlan,
)
from fsbackup.stores.local.directory import SafeDirectory, fsync_directory, lstat_object, object_stat
from fsbackup.stores.local.errors import translate_errors
from fsbackup.stores.local.listing import DirectoryListing, find_temp_files
from fsbackup.stores.local.lock import try_lock
from fsbackup.stores.local.writer import LocalWriter
from fsbackup.stores.names import NameFilter, check_temp, split_name
from fsbackup.threads import Workers, heartbeat

if TYPE_CHECKING:
    from fsbackup.buffers import Buffers

T = TypeVar("T")

_ACCESS_HINT = (
    "check that the user who runs this may read, write and enter the directory, and enter all directories above it"
)
#: Enough for the small files of a batch to share the disk's flushes.
_THREADS = 16
#: Bytes per system call.
_SLICE = 16 * MIB
#: Seconds between two attempts to get a lock that another process holds; a commit takes a few milliseconds.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.002, 0.05
_READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK


class LocalStore(ObjectStore):
    """Objects as files below `base_path`.

    Parameters
    ----------
    base_path
        The directory; a relative one is taken from the current directory now, ``~`` is expanded.
    name
        The backend's name.
    create
        Whether a missing base directory counts as an empty backend, which the first write creates. With False a
        missing one raises `BackendUnavailableError`: right for a disk that may not be mounted, when the base is a
        directory on that disk and not the mount point itself.
    timeout
        Longest time in seconds without a byte moved by the disk.
    page_size
        Objects of a listing that one call into a thread collects.

    Notes
    -----
    Symbolic links below the base are never followed: reading, writing or removing through a link raises
    `AccessDeniedError`, and so does a listing that contains a link to outside the base. Sockets, FIFOs and devices
    are not objects and are never opened.
    """

    capabilities = Capabilities(conditional_create=True, locks=True, keeps_replaced=True)

    def __init__(
        self,
        base_path: str | os.PathLike[str],
        *,
        name: str = "local",
        create: bool = True,
        timeout: float = DEFAULT_TIMEOUT,
        page_size: int = 1000,
    ) -> None:
        super().__init__(name, timeout=timeout)
        self._base = SafeDirectory(_absolute(base_path), create=create)
        self._page_size = page_size
        self._workers = Workers(name, _THREADS)
        self._filesystem: Any = None

    @property
    def location(self) -> str:
        return self._base.path

    def place_id(self) -> tuple[int, int] | None:
        return self._base.place

    def keep_place(self, place: tuple[int, int] | None) -> None:
        self._base.kept = place

    @property
    def filesystem(self) -> Any:
        if self._filesystem is None:
            # Imported here because object I/O does not need fsspec, and its import takes longer than a small
            # backup.
            from fsspec.implementations.local import LocalFileSystem

            self._filesystem = LocalFileSystem(skip_instance_cache=True)
        return self._filesystem

    async def stat(self, name: str) -> ObjectStat | None:
        found = await self._run("stat", name, lambda: _stat(self._base, name))
        return None if found is None else object_stat(name, found)

    async def read(
        self,
        name: str,
        start: int = 0,
        end: int | None = None,
        *,
        on_progress: Callable[[int], None] | None = None,  # noqa: ARG002 - a range arrives in one call
    ) -> bytes:
        return await self._run("read", name, lambda: b"".join(_read(self._base, name, start, end)))

    async def read_buffers(
        self,
        name: str,
        start: int,
        end: int,
        *,
        on_progress: Callable[[int], None] | None = None,  # noqa: ARG002 - as in `read`
        buffers: Buffers | None = None,
    ) -> list[bytes]:
        return await self._run("read", name, lambda: _read(self._base, name, start, end, buffers))

    def writer(self, name: str, plan: WritePlan, on_progress: Callable[[int], None]) -> LocalWriter:
        return LocalWriter(
            self._base, self._workers, name, plan, on_progress, backend=self.name, timeout=self.timeout
        )

    def list(self, prefix: str = "", start_after: str = "") -> AsyncIterator[ObjectStat]:
        return self.list_counting(prefix, start_after, PassedOver())

    async def list_counting(
        self, prefix: str, start_after: str, passed_over: PassedOver
    ) -> AsyncIterator[ObjectStat]:
        found = DirectoryListing(self._base, NameFilter.for_listing(prefix, start_after), passed_over).run()
        while page := await self._run("list", prefix, lambda: list(islice(found, self._page_size))):
            for item in page:
                yield item

    async def remove(self, name: str) -> None:
        await self._run("remove", name, lambda: _remove(self._base, name))

    @asynccontextmanager
    async def locked(self, name: str) -> AsyncIterator[None]:
        file = await self._lock(name)
        try:
            yield
        finally:
            os.close(file)  # never blocks: nothing was written to it

    async def _lock(self, name: str) -> int:
        clock = asyncio.get_running_loop().time
        deadline, pause = clock() + self.timeout, _FIRST_PAUSE
        while (file := await self._try_lock(name)) is None:
            if clock() > deadline:
                raise BackendUnavailableError(
                    f"another process has held the lock on it for {self.timeout:g} s",
                    backend=self.name,
                    operation="write",
                    key=name,
                    hint="look for a hanging process that uses this directory",
                )
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        return file

    async def _try_lock(self, name: str) -> int | None:
        job = self._workers.submit(lambda: try_lock(self._base, name))
        with translate_errors(self.name, "write", name):
            try:
                return await job.result(self.timeout)
            except BaseException:
                job.cancel()
                job.future.add_done_callback(_unlock_late)  # a call that runs may still get the lock
                raise

    async def orphans(self, older_than: float) -> AsyncIterator[Orphan]:
        found = find_temp_files(self._base, older_than)
        while page := await self._run("list", "", lambda: list(islice(found, self._page_size))):
            for orphan in page:
                yield orphan

    async def delete_orphan(self, orphan: Orphan) -> None:
        name = check_temp(orphan)
        await self._run("remove", name, lambda: _remove(self._base, name))

    async def info(self) -> BackendInfo:
        info = BackendInfo(keeps_versions=False, access=_ACCESS_HINT)
        try:
            free, total = await self._run("examine", "", lambda: _disk_space(self._base))
        except FsbackupError as error:
            return replace(info, unknown={"free": error.message})
        return replace(info, free=free, total=total)

    async def _run(self, operation: str, name: str, call: Callable[[], T]) -> T:
        with translate_errors(self.name, operation, name):
            return await self._workers.run(call, self.timeout)


def _unlock_late(locking: asyncio.Future[int | None]) -> None:
    file = None if locking.cancelled() or locking.exception() else locking.result()
    if file is not None:
        os.close(file)


def _absolute(path: str | os.PathLike[str]) -> str:
    text = os.fspath(path)
    if not text or "\0" in text:
        raise ConfigError(f"{text!r} cannot be the base path of a local backend", hint="set a directory")
    return os.path.abspath(os.path.expanduser(text))


def _stat(base: SafeDirectory, name: str) -> os.stat_result | None:
    segments = split_name(name)
    try:
        with base.opened(segments[:-1]) as directory:
            return lstat_object(directory, segments, base.apart)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _read(
    base: SafeDirectory, name: str, start: int, end: int | None, buffers: Buffers | None = None
) -> list[bytes]:
    fd, pieces = _open(base, name), list[bytes]()
    try:
        size = os.fstat(fd).st_size
        stop = size if end is None else min(end, size)
        while start < stop and (piece := _read_piece(fd, start, stop - start, buffers)):
            heartbeat()
            pieces.append(piece)
            start += len(piece)
        return pieces
    finally:
        os.close(fd)


def _read_piece(fd: int, start: int, length: int, buffers: Buffers | None) -> bytes:
    if buffers is None:
        return os.pread(fd, min(length, _SLICE), start)
    view = buffers.take(min(length, READ_PIECE))
    return cast(bytes, view[: os.preadv(fd, [view], start)])  # to all who get it


def _open(base: SafeDirectory, name: str) -> int:
    segments = split_name(name)
    try:
        with base.opened(segments[:-1]) as directory:
            if lstat_object(directory, segments, base.apart) is None:
                raise FileNotFoundError
            return os.open(segments[-1], _READ_FLAGS, dir_fd=directory)
    except NotADirectoryError as error:
        raise FileNotFoundError from error


def _remove(base: SafeDirectory, name: str) -> None:
    segments = split_name(name)
    try:
        with base.opened(segments[:-1]) as directory:
            if lstat_object(directory, segments) is None:
                return
            os.unlink(segments[-1], dir_fd=directory)
            fsync_directory(directory)
    except (FileNotFoundError, NotADirectoryError):
        return
    base.prune(segments[:-1])


def _disk_space(base: SafeDirectory) -> tuple[int, int]:
    """Return the free and the total bytes of the disk; free excludes what only root may use."""
    with base.opened([]) as directory:
        disk = os.statvfs(directory)
    return disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
