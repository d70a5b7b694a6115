"""A disk in the child's eyes: its process is killed at the n-th step on it, or the power is cut there.

A power cut loses what was written and not yet synced: of such files only the first half stays.
"""

from __future__ import annotations

import itertools
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

from tests.faults.plan import Step

#: Every call by which the library changes what is on a disk.
_CALLS = (
    *("mkdir", "rmdir", "open", "pwrite", "fchmod", "utime", "fdatasync", "fsync"),
    *("replace", "rename", "link", "unlink"),
)


class Disk:
    """Counts the steps of this process, and ends it before the one that the plan names."""

    def __init__(self, step: Step) -> None:
        self._step = step
        self._count = itertools.count(1)
        self._lock = threading.RLock()
        #: Files with bytes that only the system's memory has, by device and inode, and a descriptor of each.
        self._unsynced: dict[tuple[int, int], int] = {}
        for name in _CALLS:
            setattr(os, name, self._counted(name, getattr(os, name)))

    def end(self) -> None:
        """The operation is over: a power cut now must not lose any of what it did."""
        with self._lock:
            if self._step.power:
                self._die()

    def _counted(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            # One at a time: while the power fails, no other thread gets anything done any more.
            with self._lock:
                counts = name != "open" or args[1] & os.O_CREAT
                if counts and next(self._count) == self._step.number:
                    self._last_words(name, args, original)
                    self._die()
                self._note(name, args)
                result = original(*args, **kwargs)
                if name in ("fsync", "fdatasync"):
                    self._unsynced.pop(_identity(args[0]), None)
                return result

        return call

    def _last_words(self, name: str, args: tuple[Any, ...], original: Callable[..., Any]) -> None:
        """A write is not one step: half of it may be done."""
        if name == "pwrite":
            self._note(name, args)
            original(args[0], memoryview(args[1])[: len(args[1]) // 2], args[2])

    def _note(self, name: str, args: tuple[Any, ...]) -> None:
        if name == "pwrite" and _identity(args[0]) not in self._unsynced:
            self._unsynced[_identity(args[0])] = os.dup(args[0])

    def _die(self) -> None:
        if self._step.power:
            for descriptor in self._unsynced.values():
                os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)


def _identity(descriptor: int) -> tuple[int, int]:
    stat = os.fstat(descriptor)
    return stat.st_dev, stat.st_ino
