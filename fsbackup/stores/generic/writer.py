"""An object on its way into any fsspec filesystem: a temp file beside it, read back, then renamed."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Literal, TypeVar

from fsbackup import keys
from fsbackup.aio import shield
from fsbackup.errors import BackendError, ConflictError, FsbackupError, IntegrityError
from fsbackup.events import log
from fsbackup.sizing import MIB
from fsbackup.stores.base import ObjectStat, ObjectWriter, Part, WritePlan, file_mode
from fsbackup.stores.generic import files
from fsbackup.stores.generic.connection import SessionPool
from fsbackup.threads import heartbeat

T = TypeVar("T")

Confirm = Literal["checksum", "size"]

#: Bytes written or read back between two signs of life.
_SLICE = MIB
#: Bytes read back in one turn of the thread; the backend's other operations get theirs in between.
_CHECK_SLICE = 8 * MIB


class GenericWriter(ObjectWriter):
    """Streams the parts in their order into one file handle, in the connection's thread."""

    concurrency = 1

    def __init__(
        self,
        connection: SessionPool,
        path: str,
        name: str,
        plan: WritePlan,
        moved: Callable[[int], None],
        confirm: Confirm,
    ) -> None:
        self._connection, self._session = connection, connection.session
        self._path, self._name = path, name
        self._plan, self._moved, self._confirm = plan, moved, confirm
        self._directory = path.rpartition("/")[0]
        self._temp = f"{self._directory}/.{secrets.token_hex(16)}{keys.TEMP_SUFFIX}"
        self._handle: Any = None
        self._hash = hashlib.sha256()
        self._size = 0
        self._touched = self._stopped = self._committed = False

    async def write(self, part: Part) -> None:
        if part.offset != self._size:
            raise ValueError(f"part {part.number} of {self._name!r} came out of its order")
        loop = asyncio.get_running_loop()

        def report(count: int) -> None:
            loop.call_soon_threadsafe(self._moved, count)

        if not self._touched:
            self._touched = True
            await self._call(self._open, again=True)  # nothing is sent yet, so a dead connection costs nothing
        await self._call(lambda _: self._write(part.data, report))

    def _write(self, data: bytes, moved: Callable[[int], None]) -> None:
        self._hash.update(data)
        for start in range(0, len(data), _SLICE):
            self._check()
            piece = data[start : start + _SLICE]
            _send(self._handle, piece, drain=start + _SLICE >= len(data))
            self._size += len(piece)
            heartbeat()
            moved(len(piece))

    def _open(self, filesystem: Any) -> None:
        self._check()
        for known in (True, False):
            if self._directory and not (known and self._directory in self._session.directories):
                files.make_directory(filesystem, self._directory)
                self._session.directories.add(self._directory)
            # Somebody may have removed a directory that was there a moment ago.
            with suppress(FileNotFoundError):
                self._handle = filesystem.open(self._temp, "wb")
                _restrict(self._handle, file_mode(self._plan.mode))
                return
        raise BackendError("its directory cannot be made")

    async def commit(self) -> ObjectStat:
        await self._call(self._finish)
        if self._confirm == "checksum":
            await self._compare()
        return await self._call(self._publish)

    def _finish(self, filesystem: Any) -> None:
        handle, self._handle = self._handle, None
        handle.close()
        planned = self._size if self._plan.size is None else self._plan.size
        stored = files.file_info(filesystem, self._temp)
        size = None if stored is None else stored["size"]
        if not size == self._size == planned:
            raise IntegrityError(f"{size} bytes were stored where {planned} were to be")

    async def _compare(self) -> None:
        read_back = hashlib.sha256()
        for start in range(0, self._size, _CHECK_SLICE):
            end = min(start + _CHECK_SLICE, self._size)
            read_back.update(await self._call(partial(files.read, path=self._temp, start=start, end=end)))
        if read_back.digest() != self._hash.digest():
            raise IntegrityError("what was stored is not what was sent")

    def _publish(self, filesystem: Any) -> ObjectStat:
        there = files.info(filesystem, self._path)
        if there is not None and there["type"] != "file":
            raise ConflictError("there is a directory of this name, which an object cannot replace")
        if there is not None and self._plan.create_only:
            raise ConflictError("the key exists, and replacing it was not asked for")
        self._check()
        files.move(filesystem, self._temp, self._path)
        self._committed = True
        return self._stored(filesystem)

    def _stored(self, filesystem: Any) -> ObjectStat:
        stored = files.file_info(filesystem, self._path)
        if stored is None:
            raise BackendError("it is not there after it was stored")
        return ObjectStat(self._name, self._size, files.modified(stored))

    def _check(self) -> None:
        if self._stopped:
            raise BackendError("the write was stopped")

    async def abort(self) -> None:
        self._stopped = True
        if self._touched and not self._committed:
            await shield(self._throw_away())

    async def _throw_away(self) -> None:
        try:
            # Its thread is the connection's only one: when this runs, nothing else of the write does.
            await self._connection.call("write", self._name, self._discard)
        except FsbackupError as error:
            log.warning("%s: a temp file may stay behind", error)

    def _discard(self, filesystem: Any) -> None:
        if self._committed:
            return
        handle, self._handle = self._handle, None
        if handle is not None and not self._session.abandoned:
            with suppress(Exception):  # it goes away in any case
                handle.close()
        files.remove(filesystem, self._temp)

    async def _call(self, call: Callable[[Any], T], *, again: bool = False) -> T:
        return await self._connection.call("write", self._name, call, session=self._session, again=again)


def _send(handle: Any, data: bytes, *, drain: bool) -> None:
    """Write to a handle; over SFTP without a round trip per 32 KiB, and waiting for all answers with `drain`."""
    if not hasattr(handle, "set_pipelined"):
        handle.write(data)
        return
    kept = 1 if drain else 0
    handle.set_pipelined(True)
    handle.write(data[: len(data) - kept])
    if drain:
        # The last byte, sent the old way, collects the answers, among them the errors, of all before it.
        handle.set_pipelined(False)
        handle.write(data[-kept:])


def _restrict(handle: Any, mode: int) -> None:
    """Set the permission bits before there is anything to read, where the protocol has them."""
    if hasattr(handle, "chmod"):
        with suppress(OSError):  # the server does not let us; who may log in may read then
            handle.chmod(mode)
