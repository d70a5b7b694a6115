"""Where one large file is moved: SeaweedFS, rclone's lighter server, and lines of so many bytes per second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.benchmarks.arena import Arena, rclone_arena
from tests.benchmarks.results import Series, as_dict
from tests.benchmarks.sources import random_file

#: Both roles are played on each ground.
ROLES = ("r2", "b2")
#: Of each server's line (rclone's `--bwlimit`, MiB/s), and of the file that crosses it.
_LINE, _LINE_SIZE = "20M", 128 << 20

Compared = dict[str, Series]


def on_all_grounds(
    arena: Arena,
    title: str,
    size: int,
    compare: Callable[[Arena, Path], Compared],
    show: Callable[[str, Compared], str],
) -> tuple[str, dict[str, Any]]:
    """Compare on each ground with a file of `size` bytes, and return a table for each, and all figures."""
    source = random_file(arena.folder / "one.bin", size)
    free = compare(arena, source)
    with rclone_arena(arena.folder) as lighter:
        folders = compare(lighter, source)
    source = random_file(source, _LINE_SIZE)
    with rclone_arena(arena.folder, "--bwlimit", _LINE) as slower:
        limited = compare(slower, source)
    source.unlink()
    whole, part = f"{size >> 20} MiB", f"{_LINE_SIZE >> 20} MiB"
    tables = [
        show(title.format(f"{whole}, SeaweedFS"), free),
        show(title.format(f"{whole}, rclone serve s3"), folders),
        show(title.format(f"{part}, each server at {_LINE}iB/s"), limited),
    ]
    return "\n\n".join(tables), {"free": as_dict(free), "folders": as_dict(folders), "limited": as_dict(limited)}
