"""A disk that does not tell upper from lower case apart, which no kernel of a test machine offers."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fsbackup.stores.local import atomic_file

_ONE_NAME = ("open", "stat", "mkdir", "rmdir", "unlink")


#: A real disk finds a name and acts on it in one step.
_CALL = threading.RLock()


def caseless(monkeypatch: pytest.MonkeyPatch, base: Path) -> None:
    """Have calls relative to a directory at or below `base` find an entry by its name in any case."""
    monkeypatch.setattr(atomic_file, "_renameat2", lambda: None)
    for name in _ONE_NAME:
        monkeypatch.setattr(os, name, _finding(getattr(os, name), base, ("dir_fd",)))
    for name in ("link", "replace"):
        monkeypatch.setattr(os, name, _finding(getattr(os, name), base, ("src_dir_fd", "dst_dir_fd")))


def _finding(call: Callable[..., Any], base: Path, directories: tuple[str, ...]) -> Callable[..., Any]:
    @functools.wraps(call)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        with _CALL:
            names = [
                _found(base, name, options.get(directory))
                for name, directory in zip(arguments, directories, strict=False)
            ]
            return call(*names, *arguments[len(names) :], **options)

    return wrapped


def _found(base: Path, name: Any, directory: int | None) -> Any:
    """Return the entry's own name."""
    if directory is None or not Path(os.readlink(f"/proc/self/fd/{directory}")).is_relative_to(base):
        return name
    wanted = os.fsencode(name).lower()
    return next((each for each in map(os.fsencode, os.listdir(directory)) if each.lower() == wanted), name)
