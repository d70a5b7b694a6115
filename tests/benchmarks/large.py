"""One large file to a directory and two buckets; fsbackup's memory; fsbackup beside a slow replica."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tests.benchmarks.arena import Arena, compete, differences
from tests.benchmarks.contenders import LARGE, PRACTICE, QUICKEST
from tests.benchmarks.grounds import ROLES, Compared, on_all_grounds
from tests.benchmarks.measure import Cost
from tests.benchmarks.results import Series, ratio, table
from tests.benchmarks.rounds import rounds, show_progress
from tests.benchmarks.sources import hollow_file, random_file
from tests.servers.faults import Throttle, fault_proxy

_SLOW = 1 << 20
_SMALL_FILE = 64 << 20
_SIZES = {"512 MiB": 512 << 20, "4 GiB": 4 << 30}


def upload(arena: Arena, size: int, count: int) -> tuple[str, dict[str, Any]]:
    """Compare all contenders on one file of random content."""

    def compare(place: Arena, source: Path) -> Compared:
        return rounds(LARGE, partial(place.task, source.parent, [source.name], ROLES, local=True), count)

    return on_all_grounds(
        arena, f"upload to a directory and two buckets, {{}}, {count} rounds", size, compare, _table
    )


def _table(title: str, series: Compared) -> str:
    head = ["", "wall s", f"x {PRACTICE}", f"x {QUICKEST}", "CPU s", "RSS MiB"]
    return table(title, head, [_row(each, series) for each in sorted(series.values(), key=lambda each: each.wall)])


def _row(each: Series, series: Compared) -> list[str]:
    compared = [ratio(each, series[PRACTICE]), ratio(each, series[QUICKEST])]
    return [each.name, f"{each.wall:.2f}", *compared, f"{each.cpu:.2f}", f"{each.rss:.0f}"]


def memory(arena: Arena) -> tuple[str, dict[str, Any]]:
    """Measure fsbackup's peak memory on a large and on a very large file."""
    found = {}
    for label, size in _SIZES.items():
        source = hollow_file(arena.folder / f"{size}.bin", size)
        found[label] = _ours(arena, source)
        show_progress(f"{label}: {found[label].rss:.0f} MiB")
    rows = [[label, f"{cost.wall:.1f}", f"{cost.cpu:.1f}", f"{cost.rss:.0f}"] for label, cost in found.items()]
    text = table("memory: fsbackup to a directory and two buckets", ["", "wall s", "CPU s", "RSS MiB"], rows)
    return text, {label: cost.rss for label, cost in found.items()}


def lag(arena: Arena) -> tuple[str, dict[str, Any]]:
    """Measure what a replica at 1 MiB/s costs the others."""
    source = random_file(arena.folder / "lag.bin", _SMALL_FILE)
    alone = _ours(arena, source, ROLES[:1])
    with fault_proxy(arena.servers[1]) as proxy:
        proxy.add(Throttle(up=_SLOW), on="any")
        slowed = Arena([arena.servers[0], proxy.endpoint], arena.folder)
        beside = _ours(slowed, source, ROLES)
    rows = [_seconds(label, cost) for label, cost in {"alone": alone, "beside a slow one": beside}.items()]
    head = ["", "local s", "r2 s", "b2 s (slow)", "RSS MiB"]
    text = table(f"lag: {_SMALL_FILE >> 20} MiB, one replica at 1 MiB/s", head, rows)
    return text, {"alone": dict(alone.said), "beside": dict(beside.said), "rss": beside.rss}


def _seconds(label: str, cost: Cost) -> list[str]:
    seconds = cost.said["seconds"]
    each = [f"{seconds[name]:.2f}" if name in seconds else "" for name in ("local", *ROLES)]
    return [label, *each, f"{cost.rss:.0f}"]


def _ours(arena: Arena, source: Path, roles: Sequence[str] = ROLES) -> Cost:
    with arena.task(source.parent, [source.name], roles, local=True) as task:
        cost = compete(task, LARGE["fsbackup"])
        if wrong := differences(replace(task, endpoints=task.endpoints[:1])):
            raise AssertionError(f"fsbackup did not store {wrong}")
    return cost
