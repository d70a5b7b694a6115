"""The progress display: one line per backend on standard error, fed by fsspec callbacks.

Imported only where there is a terminal: the library that draws it takes its time to load.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fsspec.callbacks import Callback

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class Display:
    """One line per backend: bytes of those that are known, speed, time."""

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

    def file(self) -> FileProgress:
        """Return the callback for one file that goes to several backends."""
        return FileProgress(self)

    def line(self, label: str) -> LineProgress:
        """Return the callback for one line of its own."""
        return LineProgress(self, label)

    def expect(self, label: str, size: int | None) -> None:
        """Say that so many more bytes (None: not known) are to move under `label`."""
        self._totals[label] = self._totals.get(label, 0) + (size or 0)
        self.progress.update(self._task(label), total=self._totals[label] or None)

    def moved(self, label: str, amount: int) -> None:
        """Say that bytes moved under `label`."""
        self.progress.update(self._task(label), advance=amount)

    def _task(self, label: str) -> TaskID:
        if label not in self._tasks:
            self._tasks[label] = self.progress.add_task(label, total=None)
        return self._tasks[label]


class FileProgress(Callback):  # type: ignore[misc]
    """The callback of one file: its children, one per backend, feed the display."""

    def __init__(self, display: Display) -> None:
        super().__init__()
        self._display = display

    def branched(self, path_1: str, path_2: str, **kwargs: Any) -> Callback:  # noqa: ARG002
        """Return the child for ``backend:key``."""
        return LineProgress(self._display, path_2.partition(":")[0])


class LineProgress(Callback):  # type: ignore[misc]
    """Feeds one line of the display."""

    def __init__(self, display: Display, label: str) -> None:
        super().__init__()
        self._display = display
        self._label = label
        self._so_far = 0
        self._sized = False

    def set_size(self, size: int | None) -> None:
        """Hear how many bytes there are; a download says so again with every step."""
        if not self._sized:
            self._sized = True
            self._display.expect(self._label, size)

    def relative_update(self, inc: int = 1) -> None:
        """Hear of more bytes."""
        self._so_far += inc
        self._display.moved(self._label, inc)

    def absolute_update(self, value: int) -> None:
        """Hear how many bytes there were so far."""
        self.relative_update(value - self._so_far)
