"""Replay buffers of a stream: where a replica that lags behind the others reads its bytes again."""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading

from fsbackup.engine.replica_upload import ReplicaUpload
from fsbackup.engine.replicas import Spool
from fsbackup.errors import SourceError
from fsbackup.stores.base import Part
from fsbackup.stores.page_cache import write_at


class ReplicaReplay:
    """The temp file of a local replica, which has the bytes that were sent to it."""

    def __init__(self, upload: ReplicaUpload, part_size: int) -> None:
        self._upload = upload
        #: Parts that are written concurrently may end out of order: so many of the bytes sent may follow a gap.
        self._in_flight = upload.writer.concurrency * part_size

    @property
    def replayable_bytes(self) -> int:
        return 0 if self._upload.aborted else max(0, self._upload.bytes_sent - self._in_flight)

    async def append(self, part: Part) -> None:
        """Do nothing: the replica's own upload writes the part."""

    async def reread(self, offset: int, length: int) -> bytes | None:
        return await self._upload.writer.reread(offset, length)

    def close(self) -> None:
        """Do nothing: the temp file belongs to the replica's writer."""


class SpoolFile:
    """An unnamed temp file for the first `max_bytes` of a stream; the system removes it also after a crash."""

    def __init__(self, spool: Spool) -> None:
        try:
            # Unbuffered, so that `close` writes nothing and cannot fail.
            self._file = tempfile.TemporaryFile(dir=spool.directory, buffering=0)  # noqa: SIM115 - closed by the source
        except OSError as error:
            raise SourceError(
                f"spool {spool.directory}: cannot create a file: {error.strerror}", hint="check spool.dir"
            ) from error
        self._max_bytes = spool.max_bytes
        #: A cancelled write goes on in its thread: `close` waits for it, since its descriptor could be reused.
        self._lock = threading.Lock()
        self.replayable_bytes = 0

    async def append(self, part: Part) -> None:
        """Append `part` if it follows the bytes stored so far and fits; else it stays in memory while needed."""
        if self.replayable_bytes == part.offset and part.offset + len(part.data) <= self._max_bytes:
            await asyncio.to_thread(self._write, part.data)

    def _write(self, data: bytes | memoryview) -> None:
        offset = self.replayable_bytes
        try:
            with self._lock:
                offset += write_at(self._file.fileno(), data, offset)
        except OSError:
            self._max_bytes = 0  # do not fail the upload: slow replicas now slow the stream instead
        else:
            self.replayable_bytes = offset

    async def reread(self, offset: int, length: int) -> bytes | None:
        return await asyncio.to_thread(os.pread, self._file.fileno(), length, offset)

    def close(self) -> None:
        with self._lock:
            self._file.close()
