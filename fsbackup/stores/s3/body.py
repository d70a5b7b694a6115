"""A part's bytes on their way out, handed over in chunks so that progress and stalls can be seen."""

from __future__ import annotations

import io
from collections.abc import Callable

#: Bytes handed to the transport at a time: what it cannot send at once it copies, so this bounds that copy. It is
#: also what must leave within the silence allowed. Smaller chunks cost time: 128 KiB a tenth of an upload's CPU.
CHUNK = 512 * 1024


class PartProgress:
    """Tells upwards how far a part has got: each byte once, however often it has to be sent again.

    Parameters
    ----------
    moved
        Called with the number of new bytes, and with 0 as a sign of life while bytes are repeated.
    """

    def __init__(self, on_progress: Callable[[int], None]) -> None:
        self._on_progress = on_progress
        self._furthest = 0
        self.on_activity: Callable[[], None] = lambda: None

    def advance_to(self, position: int) -> None:
        """Note that the first `position` bytes have left."""
        self.on_activity()
        new = max(0, position - self._furthest)
        self._furthest += new
        self._on_progress(new)


class Body(io.BytesIO):
    """Bytes to send, shared with everybody else who holds them, and handed on without a copy.

    Given plain ``bytes``, the transport would take them in one piece: Python 3.11 copies the unsent rest, and
    nothing can be seen of how it goes.
    """

    def __init__(self, data: bytes, progress: PartProgress) -> None:
        super().__init__(data)
        self._view = memoryview(data)
        self._progress = progress

    def read(self, size: int | None = -1, /) -> bytes | memoryview:  # type: ignore[override]  # aiohttp takes both
        """Return a view of the next chunk, at most `CHUNK` bytes, or all of the rest when that is asked for."""
        if size is None or size < 0:
            return super().read()
        start = self.tell()
        chunk = self._view[start : start + min(size, CHUNK)]
        if chunk:
            self._progress.advance_to(self.seek(start + len(chunk)))
        return chunk

    def getbuffer(self) -> memoryview:
        """Return a view of the bytes; the inherited one would copy them first."""
        return memoryview(self._view)  # whoever asked releases it
