"""`LocalWriter`: the asynchronous side of writing one file. `AtomicFile` does the blocking work in threads.

Every call of the file is a `Job` of the store's `Workers`. When a job sends no heartbeat for `timeout` seconds,
its caller gets an error and the job is abandoned; it cleans up when the disk returns.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from fsbackup.aio import IdleTimeoutError, shield
from fsbackup.errors import FsbackupError, IntegrityError
from fsbackup.events import log
from fsbackup.stores.base import ObjectStat, ObjectWriter, Part, WritePlan
from fsbackup.stores.local.atomic_file import AtomicFile
from fsbackup.stores.local.directory import SafeDirectory, lstat_object, object_stat
from fsbackup.stores.local.errors import translate_errors
from fsbackup.stores.names import split_name
from fsbackup.threads import Job, Workers

T = TypeVar("T")


class LocalWriter(ObjectWriter):
    """Writes parts at their offsets into a temp file beside the target.

    An object of one part touches the disk only in `commit`: opening, writing, fsync and rename are one call in one
    thread, which decides the number of small files per second.
    """

    concurrency = 2
    can_reread = True

    def __init__(
        self,
        base: SafeDirectory,
        workers: Workers,
        name: str,
        plan: WritePlan,
        on_progress: Callable[[int], None],
        *,
        backend: str,
        timeout: float,
    ) -> None:
        self._base, self._workers = base, workers
        self._name, self._plan, self._on_progress = name, plan, on_progress
        self._backend, self._timeout = backend, timeout
        self._file = AtomicFile(base, name, plan)
        self._only_part: Part | None = None
        self._written_parts: set[int] = set()
        self._size: int | None = None
        self._jobs: set[Job[Any]] = set()
        self._disk_hangs = False

    async def write(self, part: Part) -> None:
        if part.last:
            self._size = part.offset + len(part.data)
        if part.last and part.number == 1:
            self._only_part = part
            return
        on_progress = self._thread_safe_progress()
        await self._run(lambda: self._file.write(part.offset, part.data, on_progress))
        self._written_parts.add(part.number)

    async def commit(self, metadata: Mapping[str, str] | None = None) -> ObjectStat:  # noqa: ARG002 - kept nowhere
        if self._size is None:
            with translate_errors(self._backend, "write", self._name):
                raise IntegrityError("commit without the last part")
        size, only_part, on_progress = self._size, self._only_part, self._thread_safe_progress()

        def finish() -> os.stat_result:
            if only_part is not None:
                self._file.write(0, only_part.data, on_progress)
            return self._file.commit(size)

        return object_stat(self._name, await self._run(finish))

    def revoke(self) -> bool:
        return self._file.revoke()

    async def can_roll_back(self) -> bool:
        return self._file.committed is not None and await self._run(self._file.can_roll_back)

    async def rollback(self) -> None:
        if self._file.committed is not None:
            await self._run(self._file.roll_back)

    async def release(self) -> None:
        if self._file.committed is None or self._disk_hangs or not self._plan.keep_replaced:
            return
        try:
            await self._run(self._file.release)
        except FsbackupError as error:
            log.warning("what %r was before may stay as a temp file: %s", self._name, error)

    async def abort(self) -> None:
        if self._file.committed:
            return
        self._file.cancel()
        for job in self._jobs:
            job.cancel()
        self._submit(self._file.abort)
        await shield(self._wait_for_jobs())

    async def _wait_for_jobs(self) -> None:
        # A disk that hung once is not waited for again; the last call to return cleans up.
        await asyncio.wait([job.future for job in self._jobs], timeout=0 if self._disk_hangs else self._timeout)
        if self._jobs:
            log.warning("%s: the disk hangs, a temp file of %r may remain", self._backend, self._name)

    async def reread(self, offset: int, length: int) -> bytes | None:
        if self._only_part is not None:
            data = bytes(self._only_part.data[offset : offset + length])
        elif self._is_written(offset, length):
            try:
                data = await self._run(lambda: self._read(offset, length))
            except FsbackupError:
                return None
        else:
            return None
        return data if len(data) == length else None

    def _is_written(self, offset: int, length: int) -> bool:
        """Tell whether a whole range was written; a hole between parts would read as zeros."""
        size = self._plan.part_size
        return all(n + 1 in self._written_parts for n in range(offset // size, -(-(offset + length) // size)))

    def _read(self, offset: int, length: int) -> bytes:
        committed = self._file.committed
        if committed is None:
            return self._file.read(offset, length)
        return _read_committed(self._base, self._name, committed, offset, length)

    def _thread_safe_progress(self) -> Callable[[int], None]:
        loop, on_progress = asyncio.get_running_loop(), self._on_progress

        def report(count: int) -> None:
            loop.call_soon_threadsafe(on_progress, count)

        return report

    async def _run(self, call: Callable[[], T]) -> T:
        job = self._submit(call)
        with translate_errors(self._backend, "write", self._name):
            try:
                return await job.result(self._timeout)
            except IdleTimeoutError:
                self._disk_hangs = True
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
            is_same_file = os.path.samestat(os.fstat(fd), committed)
            return os.pread(fd, length, offset) if is_same_file else b""
        finally:
            os.close(fd)
