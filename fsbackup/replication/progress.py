"""Progress through fsspec's `Callback`: bytes read on the callback itself, bytes sent on one child per replica."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fsspec.callbacks import Callback


class CallbackProgress:
    """Reports an upload's progress to a callback. It is called on the I/O thread, so it must not block.

    Parameters
    ----------
    callback
        Gets the size (None for a stream) and the bytes read. Its children, made by
        ``callback.branched(source, "backend:key")``, get the bytes sent to each backend.
    source, key
        The source's name and the object's key.
    """

    def __init__(self, callback: Callback, source: str, key: str) -> None:
        self._callback = callback
        self._source = source
        self._key = key
        self._children: dict[str, Callback] = {}

    def begin(self, size: int | None, stores: list[str]) -> None:
        """Set the size, and make a child for each store."""
        self._callback.set_size(size)
        for store in stores:
            child = self._callback.branched(self._source, f"{store}:{self._key}")
            child.set_size(size)
            self._children[store] = child

    def read(self, amount: int) -> None:
        """Add bytes read from the source."""
        self._callback.relative_update(amount)

    def sent(self, store: str, amount: int) -> None:
        """Add bytes sent to a store."""
        self._children[store].relative_update(amount)


def on_progress(callback: Callback | None) -> Callable[[int, int], None] | None:
    """Return a function of (bytes so far, all bytes) that updates `callback`; None for None."""
    if callback is None:
        return None

    def update(so_far: int, size: int) -> None:
        callback.set_size(size)
        callback.absolute_update(so_far)

    return update
