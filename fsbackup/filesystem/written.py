"""Files opened to write: each appears whole when it is closed, or not at all."""

from __future__ import annotations

import atexit
import io
import logging
import os
import sys
import warnings
from concurrent.futures import Future, wait
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from fsspec.spec import AbstractBufferedFile

from fsbackup.errors import DiscardedError, NotStoredWarning
from fsbackup.filesystem.pipe import Pipe
from fsbackup.filesystem.unwinding import unwinding
from fsbackup.loop import CANCEL_GRACE, Call, wait_until_done
from fsbackup.sizing import MIB

if TYPE_CHECKING:
    from fsbackup.filesystem.filesystem import FsbackupFileSystem

log = logging.getLogger("fsbackup.storage")

#: Bytes of a piece that is written.
BLOCK_SIZE = 4 * MIB


class WriteFile(AbstractBufferedFile):  # type: ignore[misc]
    """A file opened to write, sent to all replicas as it grows and stored when it is closed.

    It is discarded when an exception leaves the ``with`` block that closes it, its own or a wrapper's. `close`
    stores it, also in an ``except`` or ``finally`` block. If it is dropped without being closed, nothing is stored
    and a `NotStoredWarning` says so.

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
        #: Neither stored nor discarded so far.
        self._pending = True
        self._discarded = False
        #: What was being handled when the file was opened has nothing to do with how it is closed.
        self._handled = sys.exception()
        _opened[id(self)] = self

    def _initiate_upload(self) -> None:
        self._upload = self.fs.start_upload(self.path, self._pipe, create_only=self.mode == "xb")
        # Not a method: the upload must not keep a file that nobody else has any more.
        self._upload.future.add_done_callback(partial(_ended, self._pipe))

    def _upload_chunk(self, final: bool = False) -> bool:  # noqa: ARG002 - `close` says whether it may be stored
        self._pipe.write(self.buffer.getvalue())
        return True

    def close(self) -> None:
        """Store the file, unless an exception leaves a ``with`` block with it (or it is part of a transaction).

        Raises
        ------
        DiscardedError
            When it was discarded before.
        """
        self._leave(unwinding(self._handled))

    def __exit__(self, *raised: Any) -> None:
        self._leave(raised[1])

    def _leave(self, error: BaseException | None) -> None:
        if error is not None and not self.closed:
            log.warning("%s is not stored: its block was left by %s", self.full_name, type(error).__name__)
            self.discard()
        elif error is None and self._discarded:
            raise _discarded(self.full_name)
        elif not self.closed:
            self._store()

    def _store(self) -> None:
        try:
            super().close()
        except BaseException:
            self.discard()
            raise
        if self.autocommit:
            self.commit()

    def commit(self) -> None:
        """Store what was written; returns when enough replicas have confirmed it."""
        self._pending = False
        if self._upload is None:
            return
        self._pipe.end()
        self._upload.result()

    def discard(self) -> None:
        """Throw away what was written; nothing of it stays anywhere."""
        self.closed, self._pending, self._discarded = True, False, True
        self._pipe.fail(_discarded(self.full_name))
        upload, self._upload = self._upload, None
        if upload is not None:
            wait_until_done(upload.future)

    def __del__(self) -> None:
        self.drop()

    def _dealloc_warn(self, wrapper: object) -> None:  # noqa: ARG002
        """Hear from a wrapper of Python's `io` that it was dropped; what it does next is to close this file."""
        self.drop()

    def drop(self) -> None:
        """Give up a file that nobody can close any more, and warn of it; its upload is aborted meanwhile."""
        if (lost := self._give_up()) is not None:
            warnings.warn(lost, NotStoredWarning, stacklevel=3)

    def _give_up(self) -> str | None:
        """Let the upload end; return what is lost by it, None when nothing is."""
        if not self.__dict__.get("_pending"):  # it may not even have been opened
            return None
        why = "its transaction did not end" if self.closed else "it was never closed"
        self.closed, self._pending = True, False
        self._pipe.fail(_discarded(self.full_name))
        return f"{self.full_name} is not stored: {why} - write it in a block: with fs.open(path, 'wb') as file"


class CompressedFile(io.BufferedWriter):
    """A compressor over a `WriteFile`, closed together with it: compressors leave their file open.

    Parameters
    ----------
    compressor
        Writes to `file`.
    """

    def __init__(self, compressor: Any, file: WriteFile) -> None:
        super().__init__(compressor)
        self._file = file

    def close(self) -> None:
        """Store the file; see `WriteFile.close`."""
        try:
            super().close()
        except BaseException:
            self._file.discard()
            raise
        self._file.close()

    def __del__(self) -> None:
        self._file.drop()

    def _dealloc_warn(self, wrapper: object) -> None:  # noqa: ARG002
        self._file.drop()


def _ended(pipe: Pipe, upload: Future[None]) -> None:
    error = upload.exception()
    # Whoever still writes must hear of it instead of waiting for room.
    pipe.fail(error if isinstance(error, Exception) else DiscardedError("the upload has ended", operation="write"))


def _discarded(path: str) -> DiscardedError:
    return DiscardedError(
        "was discarded, and nothing of it is stored", operation="write", key=path, hint="write it again"
    )


#: All that are open. By identity: fsspec's files are equal by what their names lead to.
_opened: WeakValueDictionary[int, WriteFile] = WeakValueDictionary()


@atexit.register
def _at_exit() -> None:
    """Give up what is still open, and wait until nothing of it is left."""
    files = list(_opened.values())
    losses = [lost for file in files if (lost := file._give_up()) is not None]
    wait([file._upload.future for file in files if file._upload is not None], timeout=CANCEL_GRACE)
    for lost in losses:
        warnings.warn(lost, NotStoredWarning, stacklevel=2)


def _after_fork() -> None:
    """In a child all that are open are its parent's."""
    for file in list(_opened.values()):
        file._pending = False


os.register_at_fork(after_in_child=_after_fork)
