"""Reading ahead: who reads from front to back finds the next bytes there; who jumps about pays for nothing."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from fsspec.caching import BaseCache

from fsbackup.loop import wait_for_result

#: The one that is waited for, and the one that comes meanwhile.
_WINDOWS = 2

Fetch = Callable[[int, int], bytes]
Start = Callable[[int, int], Future[bytes]]


@dataclass(frozen=True, slots=True)
class _Window:
    start: int
    end: int
    data: Future[bytes]


class ReadAhead(BaseCache):  # type: ignore[misc]
    """Keeps the bytes around the last read, and fetches those after them while the reader is busy with these.

    A read that does not begin where the last one ended costs its own blocks and no more. Once two have followed
    each other, what comes next is fetched before it is asked for: at most twice as much as was read without a gap
    so far, and at most two windows.

    Parameters
    ----------
    blocksize
        Bytes of a window, at most: what is asked for at a time.
    fetcher
        Gives a range, and waits for it.
    size
        The file's, bytes.
    start
        Begins to fetch a range.
    unit
        Bytes of what is proven at once: windows end where such a block does.
    """

    name = "ahead"

    def __init__(self, blocksize: int, fetcher: Fetch, size: int, *, start: Start, unit: int) -> None:
        super().__init__(blocksize, fetcher, size)
        self._begin, self._unit = start, unit
        #: What was read last: its bytes, and where they begin.
        self._kept, self._at = b"", 0
        #: Where the last read ended, and how much was read up to there without a gap.
        self._last, self._run = 0, 0
        self._windows: deque[_Window] = deque()
        self._pid = os.getpid()

    def _log_stats(self) -> str:
        return ""

    def _fetch(self, start: int | None, stop: int | None) -> bytes:
        low, high = start or 0, self.size if stop is None else min(stop, self.size)
        if low >= high:
            return b""
        offset = low - self._at
        if offset < 0 or high - self._at > len(self._kept):
            return self._more(low, high)
        self._note(low, high)
        return self._kept[offset : high - self._at]

    def _more(self, low: int, high: int) -> bytes:
        """Return bytes that are not all kept."""
        follows = low == self._last > 0
        if not follows:
            self.close()
        pieces = [self._kept[low - self._at :]] if self._at <= low < self._end else []
        at = low + sum(map(len, pieces))
        while at < high:
            if follows:
                self._top_up(at, high)
            pieces.append(self._next(at, high)[: high - at])
            at += len(pieces[-1])
        self._note(low, high)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _next(self, at: int, high: int) -> bytes:
        """Return the bytes from `at`, up to `high` or to the end of what is fetched with them."""
        if self._windows:
            data = wait_for_result(self._windows.popleft().data)
        else:
            long = high - at > self.blocksize
            data = self.fetcher(at, high if long else self._up(high))
        self._kept, self._at = (data, at) if len(data) <= self.blocksize + self._unit else (b"", at)
        return data

    def _top_up(self, at: int, high: int) -> None:
        """Ask for all windows from `at` on that are wanted by now."""
        if self._windows and (self._windows[0].start != at or self._pid != os.getpid()):
            self.close()
        until = min(max(high, at + min(2 * self._run, _WINDOWS * self.blocksize)), self.size)
        begin = self._windows[-1].end if self._windows else at
        while begin < until and len(self._windows) < _WINDOWS:
            end = self._stop(begin)
            self._windows.append(_Window(begin, end, self._begin(begin, end)))
            begin = end

    def _stop(self, begin: int) -> int:
        """Return the end of a window that begins there: a multiple of its length, or of what comes close to that.

        A service keeps objects in pieces of some power of two, and may have to unpack each that is touched.
        """
        blocks = max(1, min(self._run, self.blocksize) // self._unit)
        length = self._unit << (blocks.bit_length() - 1)
        return int(min((begin // length + 1) * length, self.size))

    def _up(self, end: int) -> int:
        whole: int = min(-(-end // self._unit) * self._unit, self.size)
        return whole

    @property
    def _end(self) -> int:
        return self._at + len(self._kept)

    def _note(self, low: int, high: int) -> None:
        self._run = self._run + high - low if low == self._last else high - low
        self._last = high

    def close(self) -> None:
        """Give up what is on its way; a forked child leaves that to its parent."""
        windows, self._windows = self._windows, deque()
        if self._pid == os.getpid():
            for window in windows:
                window.data.cancel()
        self._pid = os.getpid()
