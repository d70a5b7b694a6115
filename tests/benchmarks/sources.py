"""What is stored: files of random content, and large ones with holes."""

from __future__ import annotations

import os
from pathlib import Path

_UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_PIECE = 1 << 20


def size_of(text: str) -> int:
    """Return the bytes of a size such as ``512MiB``."""
    unit = _UNITS.get(text[-3:])
    return int(text[:-3]) * unit if unit else int(text)


def random_file(path: Path, size: int) -> Path:
    """Write a file of random content."""
    with path.open("wb") as opened:
        while size:
            size -= opened.write(os.urandom(min(size, _PIECE)))
    return path


def hollow_file(path: Path, size: int) -> Path:
    """Make a file that is all hole: it takes no space here, and full space wherever it is stored."""
    path.touch()
    os.truncate(path, size)
    return path


def random_tree(folder: Path, count: int, size: int) -> list[str]:
    """Write many files, 100 to a directory, and return their names below `folder`."""
    names = [f"{number // 100:03}/{number:06}.bin" for number in range(count)]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        random_file(folder / name, size)
    return names
