"""`fsbackup://` beside plain s3fs: tables, text, whole files and random ranges, on the same server and on two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.arena import Arena, compete
from tests.benchmarks.contenders import LARGE, PLAIN, READERS, reading
from tests.benchmarks.grounds import ROLES
from tests.benchmarks.results import Series, as_dict, table
from tests.benchmarks.rounds import show_progress
from tests.benchmarks.sources import csv_file, parquet_file
from tests.benchmarks.task import Task

_OF_TEXT = ("csv", "whole")


def filesystem(
    arena: Arena, size: int, count: int, ranges: int, reads: Sequence[str]
) -> tuple[str, dict[str, Any]]:
    """Compare all filesystems on all reads: of a Parquet file of `size` bytes and a CSV file of half as many."""
    found: dict[str, dict[str, Series]] = {}
    sources = {"text": csv_file(arena.folder / "table.csv", size // 2)}
    sources["table"] = parquet_file(arena.folder / "table.parquet", size)
    for label, source in sources.items():
        wanted = [each for each in reads if (each in _OF_TEXT) == (label == "text")]
        found.update(_compare(arena, source, wanted, count, ranges) if wanted else {})
    title = f"filesystem: Parquet of {size >> 20} MiB, CSV of {size >> 21}, {ranges} ranges, {count} rounds"
    head = ["", "wall s", f"/ {PLAIN}", "CPU s", f"/ {PLAIN}", "RSS MiB"]
    rows = [_row(read, each, series[PLAIN]) for read, series in found.items() for each in series.values()]
    return table(title, head, rows), {read: as_dict(series) for read, series in found.items()}


def _compare(
    arena: Arena, source: Path, reads: Sequence[str], count: int, ranges: int
) -> dict[str, dict[str, Series]]:
    with arena.task(source.parent, [source.name], ROLES, local=False) as task:
        compete(task, LARGE["fsbackup"])
        return {read: _read(replace(task, count=ranges), read, count) for read in reads}


def _read(task: Task, read: str, count: int) -> dict[str, Series]:
    series = {name: Series(name) for name in READERS}
    for number in range(count):
        shift = number % len(READERS)
        for name in [*READERS][shift:] + [*READERS][:shift]:
            series[name].costs.append(compete(task, reading(name, read)))
            show_progress(f"round {number + 1}/{count} {read}, {name}: {series[name].costs[-1].wall:.2f} s")
    if len({str(cost.said["found"]) for each in series.values() for cost in each.costs}) != 1:
        raise AssertionError(f"{read}: not all read the same")
    return series


def _row(read: str, each: Series, plain: Series) -> list[str]:
    pairs = list(zip(each.costs, plain.costs, strict=True))
    wall = median(ours.wall / theirs.wall for ours, theirs in pairs)
    cpu = median(ours.said["work"] / theirs.said["work"] for ours, theirs in pairs)
    return [
        f"{read}: {each.name}",
        f"{each.wall:.2f}",
        f"{wall:.2f}",
        f"{median(cost.said['work'] for cost in each.costs):.2f}",
        f"{cpu:.2f}",
        f"{each.rss:.0f}",
    ]
