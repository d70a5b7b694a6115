"""A file opened to read, and its read-ahead.

`ReadFile` (seek, buffer, position: fsspec's) → `ReadAhead` (which range, and when) → the `read` function that
`ReadMethods.open_version` passes: it runs on the I/O loop and returns proven bytes of the one version.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

from fsspec import AbstractFileSystem
from fsspec.asyn import AbstractAsyncStreamedFile
from fsspec.caching import BaseCache
from fsspec.spec import AbstractBufferedFile

from fsbackup.filesystem.versions import Version
from fsbackup.loop import get_loop, run, wait_for_result
from fsbackup.sizing import MIB

#: The most bytes that one request reads ahead; s3fs reads 50 MiB.
MAX_WINDOW = 16 * MIB
#: Windows: the reader waits for one while the next is fetched.
_MAX_WINDOWS = 2


class ReadRange(Protocol):
    """Returns the bytes of the opened version from `start` up to `end`."""

    async def __call__(self, start: int, end: int, *, add_to_cache: bool) -> bytes: ...


class ReadFile(AbstractBufferedFile):  # type: ignore[misc]
    """A file opened to read: all its bytes are proven, and of the version that was the newest when it was opened.

    Parameters
    ----------
    fs
        Opens the path again where the file is unpickled.
    version
        What was opened.
    read
        Reads it.

    Raises
    ------
    IntegrityError, NoHealthyReplicaError
        From reads: no replica gave proven bytes, or the object was replaced.
    """

    DEFAULT_BLOCK_SIZE = MAX_WINDOW

    def __init__(
        self,
        fs: AbstractFileSystem,
        version: Version,
        read: ReadRange,
        *,
        cache_type: str = "ahead",
        **options: Any,
    ) -> None:
        self._read = read
        options["size"] = version.size
        read_ahead = cache_type == ReadAhead.name
        super().__init__(fs, version.path, "rb", cache_type="none" if read_ahead else cache_type, **options)
        if read_ahead:
            manifest = version.reader.manifest
            unit = manifest.block_size if manifest else MIB
            self.cache = ReadAhead(
                self.blocksize, self._fetch_range, self.size, start_fetch=self._start_fetch, unit=unit
            )
        self.details = version.info()
        #: Arguments of `open` in a process that unpickles this file: the same version, or an error.
        self.kwargs = {"sha256": self.details["sha256"]}

    def _fetch_range(self, start: int, end: int) -> bytes:
        return run(self._read(start, end, add_to_cache=True))

    def _start_fetch(self, start: int, end: int) -> Future[bytes]:
        # A sequential reader does not return to these blocks: in the cache they would only evict others.
        return asyncio.run_coroutine_threadsafe(self._read(start, end, add_to_cache=False), get_loop())


class AsyncReadFile(AbstractAsyncStreamedFile):  # type: ignore[misc]
    """As `ReadFile`, for coroutines: `read` and `close` are awaited, and nothing is read ahead.

    Parameters
    ----------
    fs, version
        As for `ReadFile`.
    read
        Returns the bytes from one offset up to another.
    """

    def __init__(
        self, fs: AbstractFileSystem, version: Version, read: Callable[[int, int], Coroutine[Any, Any, bytes]]
    ) -> None:
        super().__init__(fs, version.path, "rb", cache_type="none", size=version.size)
        self._read = read
        self.details = version.info()

    async def _fetch_range(self, start: int, end: int) -> bytes:
        return await self._read(start, end)


@dataclass(frozen=True, slots=True)
class _Window:
    start: int
    end: int
    data: Future[bytes]


class ReadAhead(BaseCache):  # type: ignore[misc]
    """Keeps the bytes around the last read, and fetches the next ones while the reader works on these.

    A read that does not begin where the last one ended fetches its own blocks only. After two consecutive reads
    the next bytes are fetched ahead: at most twice as many as were read without a gap so far, and at most two
    windows.

    Parameters
    ----------
    blocksize
        Bytes of a window, at most.
    fetcher
        Returns a range.
    size
        Bytes of the file.
    start_fetch
        Starts to fetch a range.
    unit
        Bytes of a block that is proven at once: windows end where a block does.
    """

    name = "ahead"

    def __init__(
        self,
        blocksize: int,
        fetcher: Callable[[int, int], bytes],
        size: int,
        *,
        start_fetch: Callable[[int, int], Future[bytes]],
        unit: int,
    ) -> None:
        super().__init__(blocksize, fetcher, size)
        self._start_fetch, self._unit = start_fetch, unit
        #: The bytes fetched last, and their offset.
        self._buffer, self._offset = b"", 0
        #: Where the last read ended, and how many bytes were read up to there without a gap.
        self._position, self._sequential = 0, 0
        self._windows: deque[_Window] = deque()
        self._pid = os.getpid()

    def _log_stats(self) -> str:
        return ""

    def _fetch(self, start: int | None, stop: int | None) -> bytes:
        low, high = start or 0, self.size if stop is None else min(stop, self.size)
        if low >= high:
            return b""
        if low < self._offset or high > self._buffer_end:
            return self._fetch_missing(low, high)
        self._record_read(low, high)
        return self._buffer[low - self._offset : high - self._offset]

    def _fetch_missing(self, low: int, high: int) -> bytes:
        """Return bytes of which at least some are not in the buffer."""
        sequential = low == self._position > 0
        if not sequential:
            self.close()
        pieces = [self._buffer[low - self._offset :]] if self._offset <= low < self._buffer_end else []
        at = low + sum(map(len, pieces))
        while at < high:
            if sequential:
                self._start_windows(at, high)
            pieces.append(self._fetch_next(at, high)[: high - at])
            at += len(pieces[-1])
        self._record_read(low, high)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _fetch_next(self, at: int, high: int) -> bytes:
        """Return the bytes from `at` up to `high` or the end of the window, and keep them in the buffer."""
        if self._windows:
            data = wait_for_result(self._windows.popleft().data)
        else:
            long = high - at > self.blocksize
            data = self.fetcher(at, high if long else self._block_end(high))
        fits = len(data) <= self.blocksize + self._unit
        self._buffer, self._offset = (data, at) if fits else (b"", at)
        return data

    def _start_windows(self, at: int, high: int) -> None:
        """Start to fetch all windows from `at` on that this read or the next one needs."""
        if self._windows and (self._windows[0].start != at or self._pid != os.getpid()):
            self.close()
        ahead = min(2 * self._sequential, _MAX_WINDOWS * self.blocksize)
        until = min(max(high, at + ahead), self.size)
        start = self._windows[-1].end if self._windows else at
        while start < until and len(self._windows) < _MAX_WINDOWS:
            end = self._window_end(start)
            self._windows.append(_Window(start, end, self._start_fetch(start, end)))
            start = end

    def _window_end(self, start: int) -> int:
        """Return the end of a window: the next multiple of its length, which is a power of two of blocks.

        A service keeps objects in pieces of some power of two, and may have to decode each piece that is touched.
        """
        blocks = max(1, min(self._sequential, self.blocksize) // self._unit)
        length = self._unit << (blocks.bit_length() - 1)
        return int(min((start // length + 1) * length, self.size))

    def _block_end(self, end: int) -> int:
        rounded: int = min(-(-end // self._unit) * self._unit, self.size)
        return rounded

    @property
    def _buffer_end(self) -> int:
        return self._offset + len(self._buffer)

    def _record_read(self, low: int, high: int) -> None:
        self._sequential = self._sequential + high - low if low == self._position else high - low
        self._position = high

    def close(self) -> None:
        """Cancel the windows on their way; a forked child leaves those to its parent."""
        windows, self._windows = self._windows, deque()
        if self._pid == os.getpid():
            for window in windows:
                window.data.cancel()
        self._pid = os.getpid()
