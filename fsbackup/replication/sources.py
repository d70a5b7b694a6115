"""The sources of a batch, opened in threads: several small files in one call, which is most of what one costs."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from fsbackup.engine.source import Source
from fsbackup.errors import FsbackupError
from fsbackup.sizing import KIB
from fsbackup.threads import Workers

if TYPE_CHECKING:
    from fsbackup.replication.batch import BatchItem

#: Threads that open sources.
openers = Workers("source", 8)
#: Files opened in one call at most, and the bytes of them after which there are enough. Few: no memory is reserved
#: for what is read of a small file when it is opened.
_TOGETHER, _ENOUGH = 6, 128 * KIB

#: A source, or why there is none.
Opened: TypeAlias = "Source | FsbackupError | ValueError"


class Sources:
    """Hands out items with their sources, in their order or nearly so.

    Parameters
    ----------
    items
        Each is opened once.
    open_source
        Opens the source of an item; called in a thread.
    workers
        How many ask for items: towards the end each finds one, so that none has several left while others idle.
    """

    def __init__(
        self, items: Iterable[BatchItem], open_source: Callable[[BatchItem], Source], workers: int
    ) -> None:
        self._waiting = deque(items)
        self._open_source = open_source
        self._workers = workers
        #: A thread adds to them; whoever takes one closes it.
        self._opened: deque[tuple[BatchItem, Opened]] = deque()
        self._is_closed = False

    async def take(self) -> tuple[BatchItem, Opened] | None:
        """Return the next item and its source, or the error of opening it; None when there are no more."""
        while self._waiting and not self._opened:
            together = max(1, min(_TOGETHER, len(self._waiting) // (2 * self._workers)))
            some = [self._waiting.popleft() for _ in range(together)]
            opened = await openers.submit(partial(self._open, some)).future
            self._waiting.extendleft(reversed(some[opened:]))
        return self._opened.popleft() if self._opened else None

    def close(self) -> None:
        """Close the sources that nobody took, and those that are being opened."""
        self._is_closed = True
        while self._opened:
            source = self._opened.popleft()[1]
            if isinstance(source, Source):
                source.close()

    def _open(self, items: list[BatchItem]) -> int:
        """Open the first of `items`, and more while they are small files; return how many. Blocks."""
        count = size = 0
        for item in items:
            if count and (size >= _ENOUGH or not isinstance(item.source, str | os.PathLike)):
                break
            opened = self._try(item)
            count += 1
            self._opened.append((item, opened))
            if isinstance(opened, Source):
                size += _ENOUGH if opened.most_bytes is None else opened.most_bytes
        if self._is_closed:
            self.close()
        return count

    def _try(self, item: BatchItem) -> Opened:
        try:
            return self._open_source(item)
        except (FsbackupError, ValueError) as error:
            return error
