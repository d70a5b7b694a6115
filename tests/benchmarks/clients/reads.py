"""What consumers read from a filesystem, the same code for whichever it is."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import fsspec
import pandas as pd
import pyarrow.dataset
import pyarrow.parquet

from tests.benchmarks.task import Task

# Loaded lazily by pandas, and no part of any read.
__all__ = ["Place", "pyarrow"]

#: Bytes of one random read, and of one piece of a file that is read from its beginning to its end.
RANGE, PIECE = 64 << 10, 1 << 20


@dataclass(frozen=True)
class Place:
    """One file as its consumer names it.

    Parameters
    ----------
    url, options
        As pandas takes them.
    count
        How many ranges to read.
    """

    url: str
    options: dict[str, Any]
    count: int

    def filesystem(self) -> tuple[Any, str]:
        """Return the filesystem, and the file's path in it."""
        found: tuple[Any, str] = fsspec.url_to_fs(self.url, **self.options)
        return found


def on(where: Callable[[Task], Place], read: Callable[[Place], dict[str, Any]], task: Task) -> dict[str, Any]:
    """Do what a task asks for."""
    return read(where(task))


def parquet(place: Place) -> dict[str, Any]:
    """Read two columns of a table."""
    table = pd.read_parquet(place.url, columns=["c0", "name"], storage_options=place.options)
    return {"found": [len(table), float(table["c0"].sum())]}


def csv(place: Place) -> dict[str, Any]:
    """Parse a table."""
    table = pd.read_csv(place.url, storage_options=place.options)
    return {"found": [len(table), float(table["c0"].sum())]}


def whole(place: Place) -> dict[str, Any]:
    """Read a file piece by piece, without looking at it."""
    filesystem, path = place.filesystem()
    with filesystem.open(path) as file:
        return _sum(iter(lambda: file.read(PIECE), b""))


def together(place: Place) -> dict[str, Any]:
    """Read random ranges with one call."""
    filesystem, path = place.filesystem()
    starts = _starts(filesystem.size(path), place.count)
    ends = [start + RANGE for start in starts]
    return _sum(filesystem.cat_ranges([path] * place.count, starts, ends))


def seeks(place: Place) -> dict[str, Any]:
    """Read random ranges one after another from an open file; without a cache, since each would be for nothing."""
    filesystem, path = place.filesystem()
    with filesystem.open(path, cache_type="none") as file:
        return _sum(_read(file, start) for start in _starts(file.size, place.count))


def cats(place: Place) -> dict[str, Any]:
    """Read random ranges one after another, each with a call."""
    filesystem, path = place.filesystem()
    starts = _starts(filesystem.size(path), place.count)
    return _sum(filesystem.cat_file(path, start=start, end=start + RANGE) for start in starts)


def _read(file: Any, start: int) -> bytes:
    file.seek(start)
    data: bytes = file.read(RANGE)
    return data


def _starts(size: int, count: int) -> list[int]:
    numbers = random.Random(7)
    return [numbers.randrange(size - RANGE) for _ in range(count)]


def _sum(pieces: Iterator[bytes] | list[bytes]) -> dict[str, Any]:
    """Return the bytes' number, and a little of each piece: enough to see that all contenders read the same."""
    size = mixed = 0
    for number, piece in enumerate(pieces):
        size += len(piece)
        mixed = (mixed + (number + 1) * int.from_bytes(piece[-8:], "big")) % (1 << 32)
    return {"found": [size, mixed]}
