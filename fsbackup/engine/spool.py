"""Where a stream's bytes can be had again for a replica that falls behind the others."""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading

from fsbackup.engine.replica_upload import ReplicaUpload
from fsbackup.engine.replicas import Spool
from fsbackup.errors import SourceError
from fsbackup.stores.base import Part


class ReplicaReplay:
    """The temp file of a local replica: it holds what was sent to it."""

    def __init__(self, lane: ReplicaUpload, part_size: int) -> None:
        self._lane = lane
        #: Parts under way may end out of order, so that the last bytes sent are not yet the last in a row.
        self._unsure = lane.writer.concurrency * part_size

    @property
    def replayable_bytes(self) -> int:
        return 0 if self._lane.aborted else max(0, self._lane.bytes_sent - self._unsure)

    async def append(self, part: Part) -> None:
        """Nothing to do: the replica writes for itself."""

    async def reread(self, offset: int, length: int) -> bytes | None:
        return await self._lane.writer.reread(offset, length)

    def close(self) -> None:
        """Nothing to do: the temp file belongs to the replica."""


class SpoolFile:
    """An unnamed temp file that takes a stream's first `max_bytes`; the system removes it whatever happens."""

    def __init__(self, spool: Spool) -> None:
        try:
            # Without a buffer, closing it has nothing left to write and so nothing to fail at.
            self._file = tempfile.TemporaryFile(dir=spool.directory, buffering=0)  # noqa: SIM115 - closed by the source
        except OSError as error:
            raise SourceError(f"spool {spool.directory}: {error.strerror}", hint="check spool.dir") from error
        self._room = spool.max_bytes
        #: A write that was given up goes on in its thread, and must not meet another file under a closed number.
        self._in_use = threading.Lock()
        self.replayable_bytes = 0

    async def append(self, part: Part) -> None:
        """Append `part` while there is room for all of it; what does not fit stays in memory as long as needed."""
        if self.replayable_bytes == part.offset and part.offset + len(part.data) <= self._room:
            await asyncio.to_thread(self._write, part.data)

    def _write(self, data: bytes) -> None:
        view, at = memoryview(data), self.replayable_bytes
        try:
            with self._in_use:
                while view:
                    written = os.pwrite(self._file.fileno(), view, at)
                    view, at = view[written:], at + written
        except OSError:
            self._room = 0  # a full spool is no reason to fail the backup: slow replicas slow the stream
        else:
            self.replayable_bytes = at

    async def reread(self, offset: int, length: int) -> bytes | None:
        return await asyncio.to_thread(os.pread, self._file.fileno(), length, offset)

    def close(self) -> None:
        with self._in_use:
            self._file.close()
