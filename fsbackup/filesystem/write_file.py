"""A file opened to write: it exists whole when it is closed, or not at all.

fsspec's buffer → `Pipe` → an upload that runs meanwhile on the I/O loop. `close` ends the pipe and waits for the
upload; `discard` fails the pipe, so that the upload aborts. A file that is dropped, or still open when the process
exits, is discarded with a `NotStoredWarning`; a dropped one is stored where the filesystem has `store_dropped`.
"""

from __future__ import annotations

import asyncio
import atexit
import dis
import io
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from concurrent.futures import Future, wait
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

from fsspec import AbstractFileSystem
from fsspec.asyn import AbstractAsyncStreamedFile
from fsspec.spec import AbstractBufferedFile

from fsbackup.errors import DiscardedError, FsbackupError, NotStoredWarning
from fsbackup.filesystem.pipe import Pipe
from fsbackup.loop import CANCEL_GRACE, Call, wait_until_done
from fsbackup.sizing import MIB
from fsbackup.threads import in_daemon_thread

log = logging.getLogger("fsbackup.storage")

#: Bytes of one write to the pipe.
BLOCK_SIZE = 4 * MIB
#: The instruction that a frame executes while an exception leaves its ``with`` block: the call of ``__exit__``.
_CALL_EXIT = dis.opmap["WITH_EXCEPT_START"]


class WriteFile(AbstractBufferedFile):  # type: ignore[misc]
    """A file opened to write, sent to all replicas as it grows and stored when it is closed.

    It is discarded when an exception leaves the ``with`` block that closes it, its own or a wrapper's. `close`
    stores it, also in an ``except`` or ``finally`` block.

    Parameters
    ----------
    start_upload
        Starts the upload of a pipe.
    store_dropped
        Store the file also when it is dropped without being closed.

    Raises
    ------
    FsbackupError
        From `write` or `close`: too few replicas confirmed it.
    """

    DEFAULT_BLOCK_SIZE = BLOCK_SIZE

    def __init__(
        self,
        fs: AbstractFileSystem,
        path: str,
        mode: str,
        start_upload: Callable[[Pipe], Call[None]],
        *,
        store_dropped: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(fs, path, mode, **options)
        self._store_dropped = store_dropped
        self._start_upload = start_upload
        self._pipe = Pipe()
        self._upload: Call[None] | None = None
        #: Neither stored nor discarded so far.
        self._pending = True
        self._discarded = False
        #: An exception that was being handled when the file was opened is no reason to discard it.
        self._handled = sys.exception()
        _open_files[id(self)] = self

    def _initiate_upload(self) -> None:
        self._upload = self._start_upload(self._pipe)
        # Not a bound method: the upload would keep alive a file that was dropped.
        self._upload.future.add_done_callback(partial(_fail_after, self._pipe))

    def _upload_chunk(self, final: bool = False) -> bool:  # noqa: ARG002 - `commit` ends the pipe
        self._pipe.write(self.buffer.getvalue())
        return True

    def close(self) -> None:
        """Store the file, unless an exception is leaving the ``with`` block that closes it.

        A file of a transaction is stored by `commit`, when the transaction ends.

        Raises
        ------
        DiscardedError
            When the file was discarded before.
        """
        self._close_after(exception_leaving_with_block(self._handled))

    def __exit__(self, *raised: Any) -> None:
        self._close_after(raised[1])

    def _close_after(self, error: BaseException | None) -> None:
        if error is not None and not self.closed:
            log.warning(
                "%s is not stored: %s was raised in its 'with' block", self.full_name, type(error).__name__
            )
            self.discard()
        elif error is None and self._discarded:
            raise _discarded_error(self.full_name)
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
        """Store the file; returns when enough replicas have confirmed it."""
        self._pending = False
        if self._upload is None:
            return
        self._pipe.end()
        self._upload.result()

    def discard(self) -> None:
        """Abort the upload and wait until nothing of it is left."""
        self.closed, self._pending, self._discarded = True, False, True
        self._pipe.fail(_discarded_error(self.full_name))
        upload, self._upload = self._upload, None
        if upload is not None:
            wait_until_done(upload.future)

    def __del__(self) -> None:
        if not self._is_stored_when_dropped() or not self._close_dropped():
            self.drop()

    def _is_stored_when_dropped(self) -> bool:
        """Tell whether `close` may be called now; while an exception is handled the file may be half of itself."""
        is_open = self.__dict__.get("_pending") and not self.closed  # `__init__` may have failed
        return bool(is_open and self._store_dropped and sys.exception() in (None, self._handled))

    def _close_dropped(self) -> bool:
        """Store the file; return False on the thread of a loop, where nobody may wait for it."""
        if asyncio._get_running_loop() is not None:
            return False
        try:
            self.close()
        except FsbackupError as error:
            warnings.warn(f"{self.full_name} is not stored: {error}", NotStoredWarning, stacklevel=3)
        return True

    def _dealloc_warn(self, wrapper: object) -> None:  # noqa: ARG002
        """Discard the file: `io` calls this when a wrapper was dropped, and `close` right after it."""
        if not self._is_stored_when_dropped():
            self.drop()

    def drop(self) -> None:
        """Discard a file that can no longer be closed, with a warning; its upload is aborted in the background."""
        if (message := self._abandon()) is not None:
            warnings.warn(message, NotStoredWarning, stacklevel=3)

    def _abandon(self) -> str | None:
        """Abort the upload without waiting; return the warning, None when the file was stored or discarded."""
        if not self.__dict__.get("_pending"):  # `__init__` may have failed
            return None
        why = "its transaction did not end" if self.closed else "it was never closed"
        self.closed, self._pending = True, False
        self._pipe.fail(_discarded_error(self.full_name))
        return f"{self.full_name} is not stored: {why} - write it in a block: with fs.open(path, 'wb') as file"


class AsyncWriteFile(AbstractAsyncStreamedFile):  # type: ignore[misc]
    """As `WriteFile`, for coroutines: `write` and `close` are awaited, while a thread waits for the upload.

    An exception that leaves the ``async with`` block discards it.

    Parameters
    ----------
    file
        What is written to.
    """

    def __init__(self, file: WriteFile) -> None:
        # Not fsspec's own: it would keep a second buffer.
        self._file = file
        self.fs, self.path, self.mode = file.fs, file.path, file.mode

    @property
    def closed(self) -> bool:
        """Whether it is stored or discarded."""
        return bool(self._file.closed)

    def tell(self) -> int:
        """Return the number of bytes written."""
        return int(self._file.tell())

    async def write(self, data: Any) -> int:
        """Write bytes; waits while the slowest replica that counts is too far behind."""
        return int(await in_daemon_thread(partial(self._file.write, data)))

    async def flush(self, force: bool = False) -> None:
        """Do nothing, as `close` stores it; with `force`, no more can be written."""
        await in_daemon_thread(partial(self._file.flush, force))

    async def close(self) -> None:
        """Store the file; see `WriteFile.close`."""
        await in_daemon_thread(self._file.close)

    async def discard(self) -> None:
        """Abort the upload and wait until nothing of it is left."""
        await in_daemon_thread(self._file.discard)

    async def __aexit__(self, *raised: Any) -> None:
        await in_daemon_thread(partial(self._file.__exit__, *raised))

    def __del__(self) -> None:
        """Leave it to the file: fsspec's calls `close`, whose coroutine nobody would await."""


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


def exception_leaving_with_block(ignored: BaseException | None) -> BaseException | None:
    """Return the exception that is leaving a ``with`` block of a caller right now, None when none is.

    A wrapper closes its file without passing on the exception: `io.TextIOWrapper`, gzip, pyarrow's streams,
    fsspec's `OpenFile`, pandas' handles. The frame of the ``with`` statement shows it. `sys.exception` alone does
    not: it is also set in an ``except`` block, where an explicit `close` stores the file.

    Parameters
    ----------
    ignored
        An exception that does not count.
    """
    error = sys.exception()
    if error is None or error is ignored:
        return None
    raising = {frame for frame, _ in traceback.walk_tb(error.__traceback__)}
    for frame, _ in traceback.walk_stack(sys._getframe()):
        if frame in raising and frame.f_code.co_code[frame.f_lasti] == _CALL_EXIT:
            return error
    return None


def _fail_after(pipe: Pipe, upload: Future[None]) -> None:
    """Fail the pipe of an upload that has ended: otherwise a writer would wait for room for ever."""
    error = upload.exception()
    ended = DiscardedError("the upload has ended", operation="write")
    pipe.fail(error if isinstance(error, Exception) else ended)


def _discarded_error(path: str) -> DiscardedError:
    return DiscardedError(
        "file was discarded; nothing of it is stored", operation="write", key=path, hint="write it again"
    )


#: All open files by `id`: fsspec compares files by path, so that two of one path would be one entry.
_open_files: WeakValueDictionary[int, WriteFile] = WeakValueDictionary()


@atexit.register
def _discard_at_exit() -> None:
    """Discard the files that are still open, and wait until nothing of their uploads is left."""
    files = list(_open_files.values())
    messages = [message for file in files if (message := file._abandon()) is not None]
    wait([file._upload.future for file in files if file._upload is not None], timeout=CANCEL_GRACE)
    for message in messages:
        warnings.warn(message, NotStoredWarning, stacklevel=2)


def _forget_after_fork() -> None:
    """Leave the open files to the parent: in a forked child they are neither stored nor warned of."""
    for file in list(_open_files.values()):
        file._pending = False


os.register_at_fork(after_in_child=_forget_after_fork)
