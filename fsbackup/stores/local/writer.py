"""An object on its way onto a disk."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any, TypeVar

from fsbackup.aio import shield
from fsbackup.errors import FsbackupError, IntegrityError
from fsbackup.events import log
from fsbackup.stores.base import ObjectStat, ObjectWriter, Part, WritePlan
from fsbackup.stores.local.atomic_file import AtomicFile
from fsbackup.stores.local.directory import SafeDirectory, lstat_object, split_name
from fsbackup.stores.local.errors import translate_errors
from fsbackup.threads import IdleTimeoutError, Job, Workers

T = TypeVar("T")


class LocalWriter(ObjectWriter):
    """Writes parts at their offsets into a temp file beside the target.

    An object of one part touches the disk only in `commit`: opening, writing, fsync and rename are one call in
    one thread, which is what the number of small files per second depends on.
    """

    concurrency = 2
    can_reread = True

    def __init__(
        self,
        base: SafeDirectory,
        workers: Workers,
        name: str,
        plan: WritePlan,
        moved: Callable[[int], None],
        *,
        backend: str,
        timeout: float,
    ) -> None:
        self._base, self._workers = base, workers
        self._name, self._plan, self._moved = name, plan, moved
        self._backend, self._timeout = backend, timeout
        self._file = AtomicFile(base, name, plan)
        self._whole: Part | None = None
        self._parts: set[int] = set()
        self._size: int | None = None
        self._jobs: set[Job[Any]] = set()
        self._silent = False

    async def write(self, part: Part) -> None:
        if part.last:
            self._size = part.offset + len(part.data)
        if part.last and part.number == 1:
            self._whole = part
            return
        moved = self._moved_from_thread()
        await self._run(lambda: self._file.write(part.offset, part.data, moved))
        self._parts.add(part.number)

    async def commit(self) -> ObjectStat:
        if self._size is None:
            with translate_errors(self._backend, "write", self._name):
                raise IntegrityError("the last part was never written")
        size, whole, moved = self._size, self._whole, self._moved_from_thread()

        def finish() -> os.stat_result:
            if whole is not None:
                self._file.write(0, whole.data, moved)
            return self._file.commit(size)

        return object_stat(self._name, await self._run(finish))

    async def abort(self) -> None:
        if self._file.committed:
            return
        self._file.cancel()
        for job in self._jobs:
            job.cancel()
        self._submit(self._file.abort)
        await shield(self._wait_for_jobs())

    async def _wait_for_jobs(self) -> None:
        # A disk that hung is not waited for again; whichever call comes back last cleans up.
        await asyncio.wait([job.future for job in self._jobs], timeout=0 if self._silent else self._timeout)
        if self._jobs:
            log.warning("%s: the disk hangs, the temp file of %r may stay behind", self._backend, self._name)

    async def reread(self, offset: int, length: int) -> bytes | None:
        if self._whole is not None:
            data = self._whole.data[offset : offset + length]
        elif self._has(offset, length):
            try:
                data = await self._run(lambda: self._read(offset, length))
            except FsbackupError:
                return None
        else:
            return None
        return data if len(data) == length else None

    def _has(self, offset: int, length: int) -> bool:
        """Tell whether all of a range was written: a hole between parts would read as zeros."""
        size = self._plan.part_size
        return all(n + 1 in self._parts for n in range(offset // size, -(-(offset + length) // size)))

    def _read(self, offset: int, length: int) -> bytes:
        committed = self._file.committed
        if committed is None:
            return self._file.read(offset, length)
        return _read_committed(self._base, self._name, committed, offset, length)

    def _moved_from_thread(self) -> Callable[[int], None]:
        loop, moved = asyncio.get_running_loop(), self._moved

        def report(count: int) -> None:
            loop.call_soon_threadsafe(moved, count)

        return report

    async def _run(self, call: Callable[[], T]) -> T:
        job = self._submit(call)
        with translate_errors(self._backend, "write", self._name):
            try:
                return await job.result(self._timeout)
            except IdleTimeoutError:
                self._silent = True
                raise

    def _submit(self, call: Callable[[], T]) -> Job[T]:
        job = self._workers.submit(call)
        self._jobs.add(job)
        job.future.add_done_callback(lambda _: self._jobs.discard(job))
        return job


def _read_committed(base: SafeDirectory, name: str, committed: os.stat_result, offset: int, length: int) -> bytes:
    segments = split_name(name)
    with base.opened(segments[:-1]) as directory:
        lstat_object(directory, segments)
        fd = os.open(segments[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
        try:
            same = os.path.samestat(os.fstat(fd), committed)
            return os.pread(fd, length, offset) if same else b""
        finally:
            os.close(fd)


def object_stat(name: str, found: os.stat_result) -> ObjectStat:
    """Return what the disk says of an object.

    The ETag tells versions of one size apart: a manifest that remembers it is not taken for another version's
    when a crash came between a file and its manifest. Copies that keep the mtime keep it.
    """
    return ObjectStat(name, found.st_size, found.st_mtime, etag=f"{found.st_size:x}-{found.st_mtime_ns:x}")
