"""Open files: one to read, pinned to its version; one to write, which appears whole or not at all."""

from __future__ import annotations

import io
import logging
import sys
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from fsspec.spec import AbstractBufferedFile

from fsbackup.filesystem.pipe import Pipe
from fsbackup.loop import Call, wait_until_done
from fsbackup.sizing import MIB

if TYPE_CHECKING:
    from fsbackup.filesystem.filesystem import FsbackupFileSystem

log = logging.getLogger("fsbackup.storage")

#: Bytes of a piece that is written.
BLOCK_SIZE = 4 * MIB


class DiscardedError(Exception):
    """The file was closed because of an error, so that nothing of it may be stored."""


class WriteFile(AbstractBufferedFile):  # type: ignore[misc]
    """A file opened to write, sent to all replicas as it grows and stored when it is closed.

    It is discarded, and never stored, when it is closed by an exception (also where only an enclosing ``with`` or
    ``finally`` closes it), and when it is dropped without being closed.

    Raises
    ------
    FsbackupError
        From `write` or `close`: too few replicas took it.
    """

    DEFAULT_BLOCK_SIZE = BLOCK_SIZE

    def __init__(self, fs: FsbackupFileSystem, path: str, mode: str, **options: Any) -> None:
        super().__init__(fs, path, mode, **options)
        self._pipe = Pipe()
        self._upload: Call[None] | None = None
        #: What was being handled when the file was opened has nothing to do with how it is closed.
        self._handled = sys.exception()

    def _initiate_upload(self) -> None:
        self._upload = self.fs.start_upload(self.path, self._pipe, create_only=self.mode == "xb")
        self._upload.future.add_done_callback(self._ended)

    def _ended(self, upload: Future[None]) -> None:
        error = upload.exception()
        # Whoever still writes must hear of it instead of waiting for room.
        self._pipe.fail(error if isinstance(error, Exception) else DiscardedError("the upload has ended"))

    def _upload_chunk(self, final: bool = False) -> bool:  # noqa: ARG002 - `close` says whether it may be stored
        self._pipe.write(self.buffer.getvalue())
        return True

    def close(self) -> None:
        """Store the file, unless an exception is what closes it (or it is part of a transaction)."""
        if self.closed:
            return
        error = sys.exception()
        if error is not None and error is not self._handled:
            log.warning("%s is not stored: it was closed by %s", self.full_name, type(error).__name__)
            self.discard()
            return
        try:
            super().close()
        except BaseException:
            self.discard()
            raise
        if self.autocommit:
            self.commit()

    def commit(self) -> None:
        """Store what was written; returns when enough replicas have confirmed it."""
        if self._upload is None:
            return
        self._pipe.end()
        self._upload.result()

    def discard(self) -> None:
        """Throw away what was written; nothing of it stays anywhere."""
        self.closed = True
        self._pipe.fail(DiscardedError(f"{self.full_name} was discarded"))
        upload, self._upload = self._upload, None
        if upload is not None:
            wait_until_done(upload.future)

    def __exit__(self, *raised: object) -> None:
        if raised[0] is not None and not self.closed:
            self.discard()
        self.close()

    def __del__(self) -> None:
        if not self.closed:
            log.warning("%s is not stored: it was dropped without being closed", self.full_name)
            self.closed = True
            self._pipe.fail(DiscardedError(f"{self.full_name} was dropped"))


def refuse(mode: str) -> None:
    """Raise for a mode that would change an object in place.

    Raises
    ------
    io.UnsupportedOperation
        For ``"ab"``, ``"r+b"`` and the like: an object is replaced whole or not at all.
    """
    if mode not in ("rb", "wb", "xb"):
        raise io.UnsupportedOperation(f"mode {mode!r}: an object is written whole; open it with 'wb' or 'xb'")
