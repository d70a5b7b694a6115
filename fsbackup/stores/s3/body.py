"""The body of a PUT or UploadPart, sent in chunks so that progress and stalls are visible."""

from __future__ import annotations

import io
from collections.abc import Callable

#: Bytes passed to the transport at a time. The transport copies what it cannot send at once, so this bounds the
#: copy. One chunk must also leave within the timeout. Smaller chunks cost CPU: 128 KiB a tenth of an upload's.
CHUNK = 512 * 1024


class PartProgress:
    """Reports the progress of one part: each byte once, however often it is sent again.

    Parameters
    ----------
    on_progress
        Called with the number of new bytes, and with 0 while bytes are sent again.
    """

    def __init__(self, on_progress: Callable[[int], None]) -> None:
        self._on_progress = on_progress
        self._furthest = 0
        self.on_activity: Callable[[], None] = lambda: None

    def advance_to(self, position: int) -> None:
        """Report that the first `position` bytes have left."""
        self.on_activity()
        new = max(0, position - self._furthest)
        self._furthest += new
        self._on_progress(new)


class Body(io.BytesIO):
    """Bytes to send, without copying them.

    With plain ``bytes``, aiohttp would pass all of them to the transport at once: Python 3.11 copies the unsent
    rest, and no progress would be visible.
    """

    def __init__(self, data: bytes, progress: PartProgress) -> None:
        super().__init__(data)
        self._view = memoryview(data)
        self._progress = progress

    def read(self, size: int | None = -1, /) -> bytes | memoryview:  # type: ignore[override]  # aiohttp takes both
        """Return a view of the next chunk, at most `CHUNK` bytes, or all of the rest without `size`."""
        if size is None or size < 0:
            return super().read()
        start = self.tell()
        chunk = self._view[start : start + min(size, CHUNK)]
        if chunk:
            self._progress.advance_to(self.seek(start + len(chunk)))
        return chunk

    def getbuffer(self) -> memoryview:
        """Return a view of the bytes; the inherited method copies them first."""
        return memoryview(self._view)  # the caller releases it
