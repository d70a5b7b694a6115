"""`GenericWriter`: writes a temp file beside the target, reads it back, then renames it.

A crash before the rename leaves the old object and the temp file, which `GenericStore.orphans` finds. Whether the
rename is atomic depends on the protocol.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Literal, TypeVar

from blake3 import blake3

from fsbackup.aio import shield
from fsbackup.errors import BackendError, ConflictError, FsbackupError, IntegrityError
from fsbackup.events import log
from fsbackup.sizing import MIB
from fsbackup.stores.base import ObjectStat, ObjectWriter, Part, WritePlan
from fsbackup.stores.generic import files
from fsbackup.stores.generic.connection import SessionPool
from fsbackup.stores.names import permissions, temp_name
from fsbackup.threads import heartbeat

T = TypeVar("T")

Confirm = Literal["checksum", "size"]

#: Bytes written between two heartbeats.
_SLICE = MIB
#: Bytes read back per call in the thread; other operations of the backend run between two calls.
_READ_BACK_SLICE = 8 * MIB


class GenericWriter(ObjectWriter):
    """Streams the parts in order into one file handle, in the thread of the session it started with."""

    concurrency = 1

    def __init__(
        self,
        pool: SessionPool,
        path: str,
        name: str,
        plan: WritePlan,
        on_progress: Callable[[int], None],
        confirm: Confirm,
    ) -> None:
        self._pool, self._session = pool, pool.session
        self._path, self._name = path, name
        self._plan, self._on_progress, self._confirm = plan, on_progress, confirm
        self._directory = path.rpartition("/")[0]
        self._temp = f"{self._directory}/{temp_name()}"
        self._handle: Any = None
        self._hash = blake3()
        self._size = 0
        self._started = self._cancelled = self._publishing = self._committed = False

    async def write(self, part: Part) -> None:
        if part.offset != self._size:
            raise ValueError(f"part {part.number} of {self._name!r} is out of order")
        loop = asyncio.get_running_loop()

        def report(count: int) -> None:
            loop.call_soon_threadsafe(self._on_progress, count)

        if not self._started:
            self._started = True
            await self._call(self._open, retry=True)  # nothing is sent yet, so the call may be repeated
        await self._call(lambda _: self._write(part.data, report))

    def _write(self, data: bytes | memoryview, on_progress: Callable[[int], None]) -> None:
        if self._confirm == "checksum":
            self._hash.update(data)
        for start in range(0, len(data), _SLICE):
            self._check_cancelled()
            slice_ = bytes(data[start : start + _SLICE])  # a file object need not take a view
            _send(self._handle, slice_, drain=start + _SLICE >= len(data))
            self._size += len(slice_)
            heartbeat()
            on_progress(len(slice_))

    def _open(self, filesystem: Any) -> None:
        self._check_cancelled()
        for use_cache in (True, False):
            if self._directory and not (use_cache and self._directory in self._session.directories):
                files.make_directory(filesystem, self._directory)
                self._session.directories.add(self._directory)
            # Another writer may have removed a directory in the session's cache.
            with suppress(FileNotFoundError):
                self._handle = filesystem.open(self._temp, "wb")
                _set_mode(self._handle, permissions(self._plan.mode))
                return
        raise BackendError("the directory of the object cannot be created")

    async def commit(self, metadata: Mapping[str, str] | None = None) -> ObjectStat:  # noqa: ARG002 - kept nowhere
        await self._call(self._finish)
        if self._confirm == "checksum":
            await self._check_content()
        return await self._call(self._publish)

    def _finish(self, filesystem: Any) -> None:
        handle, self._handle = self._handle, None
        handle.close()
        planned = self._size if self._plan.size is None else self._plan.size
        stored = files.file_info(filesystem, self._temp)
        size = None if stored is None else stored["size"]
        if not size == self._size == planned:
            raise IntegrityError(f"{size} bytes were stored instead of {planned}")

    async def _check_content(self) -> None:
        read_back = blake3()
        for start in range(0, self._size, _READ_BACK_SLICE):
            end = min(start + _READ_BACK_SLICE, self._size)
            read_back.update(await self._call(partial(files.read, path=self._temp, start=start, end=end)))
        if read_back.digest() != self._hash.digest():
            raise IntegrityError("the bytes read back differ from the bytes sent")

    def _publish(self, filesystem: Any) -> ObjectStat:
        existing = files.info(filesystem, self._path)
        if existing is not None and existing["type"] != "file":
            raise ConflictError(
                "a directory has this name, and an object cannot replace it",
                hint="remove or rename one of the two",
            )
        if existing is not None and files.is_of_another_case(filesystem, self._path, self._name):
            raise ConflictError(
                f"{self._name!r} is there under a name that differs only by case, and the server does not tell "
                "the two apart",
                hint="use a server that does, or a directory of its own for one of the two",
            )
        if existing is not None and self._plan.create_only:
            raise ConflictError("the key exists, and the write is create-only")
        self._publishing = True  # before the last look: `revoke` cancels, and then looks at this
        self._check_cancelled()
        files.move(filesystem, self._temp, self._path)
        self._committed = True
        return self._stored(filesystem)

    def _stored(self, filesystem: Any) -> ObjectStat:
        stored = files.file_info(filesystem, self._path)
        if stored is None:
            raise BackendError("the object is missing after it was stored")
        return ObjectStat(self._name, self._size, files.modified(stored))

    def _check_cancelled(self) -> None:
        if self._cancelled:
            raise BackendError("the write was cancelled")

    def revoke(self) -> bool:
        self._cancelled = True
        return not self._publishing

    async def abort(self) -> None:
        self._cancelled = True
        if self._started and not self._committed:
            await shield(self._clean_up())

    async def _clean_up(self) -> None:
        try:
            # The session has one thread, so no other call of this write runs at the same time.
            await self._pool.call("write", self._name, self._remove_temp)
        except FsbackupError as error:
            log.warning("a temp file may remain: %s", error)

    def _remove_temp(self, filesystem: Any) -> None:
        if self._committed:
            return
        handle, self._handle = self._handle, None
        if handle is not None and not self._session.abandoned:
            with suppress(Exception):  # the temp file is removed in any case
                handle.close()
        with suppress(FileNotFoundError):
            filesystem.rm_file(self._temp)

    async def _call(self, call: Callable[[Any], T], *, retry: bool = False) -> T:
        return await self._pool.call("write", self._name, call, session=self._session, retry=retry)


def _send(handle: Any, data: bytes, *, drain: bool) -> None:
    """Write to a handle. Over SFTP, requests are pipelined; `drain` waits for all responses."""
    if not hasattr(handle, "set_pipelined"):
        handle.write(data)
        return
    last = 1 if drain else 0
    handle.set_pipelined(True)
    handle.write(data[: len(data) - last])
    if drain:
        # The last byte, sent without pipelining, collects the responses, and so the errors, of all before it.
        handle.set_pipelined(False)
        handle.write(data[-last:])


def _set_mode(handle: Any, mode: int) -> None:
    """Set the permission bits of a file that is still empty, where the protocol has them."""
    if hasattr(handle, "chmod"):
        with suppress(OSError):  # the server refuses it; then every user of the server may read
            handle.chmod(mode)
