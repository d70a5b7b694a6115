"""The progress display: one line per backend on standard error, updated by fsspec callbacks.

Imported only on a terminal, because fsspec and rich take long to load.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fsspec.callbacks import Callback

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class Display:
    """One line per backend: bytes transferred of the total, speed, elapsed time."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TransferSpeedColumn,
        )

        self._tasks: dict[str, TaskID] = {}
        self._totals: dict[str, int] = {}
        self.progress: Progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
            redirect_stdout=False,
        )

    def upload_callback(self) -> UploadCallback:
        """Return the callback of one file that is uploaded to several backends."""
        return UploadCallback(self)

    def line_callback(self, label: str) -> LineCallback:
        """Return a callback that updates the line `label`."""
        return LineCallback(self, label)

    def add_total(self, label: str, size: int | None) -> None:
        """Add `size` bytes (None: unknown) to the total of the line `label`."""
        self._totals[label] = self._totals.get(label, 0) + (size or 0)
        self.progress.update(self._task(label), total=self._totals[label] or None)

    def advance(self, label: str, amount: int) -> None:
        """Add `amount` bytes to what the line `label` has transferred."""
        self.progress.update(self._task(label), advance=amount)

    def _task(self, label: str) -> TaskID:
        if label not in self._tasks:
            self._tasks[label] = self.progress.add_task(label, total=None)
        return self._tasks[label]


class UploadCallback(Callback):  # type: ignore[misc]
    """The callback of one upload; its children, one per backend, update the display."""

    def __init__(self, display: Display) -> None:
        super().__init__()
        self._display = display

    def branched(self, path_1: str, path_2: str, **kwargs: Any) -> Callback:  # noqa: ARG002
        """Return the child for ``backend:key``."""
        return LineCallback(self._display, path_2.partition(":")[0])


class LineCallback(Callback):  # type: ignore[misc]
    """Updates one line of the display."""

    def __init__(self, display: Display, label: str) -> None:
        super().__init__()
        self._display = display
        self._label = label
        self._transferred = 0
        self._has_total = False

    def set_size(self, size: int | None) -> None:
        """Add the size to the total once; a download calls this at every step."""
        if not self._has_total:
            self._has_total = True
            self._display.add_total(self._label, size)

    def relative_update(self, inc: int = 1) -> None:
        """Count `inc` more bytes."""
        self._transferred += inc
        self._display.advance(self._label, inc)

    def absolute_update(self, value: int) -> None:
        """Set the number of bytes transferred so far."""
        self.relative_update(value - self._transferred)
