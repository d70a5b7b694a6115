"""WAL segments of 16 MiB to two S3 servers over TLS and back, beside pgBackRest: a process for each."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from tests.benchmarks.arena import Arena
from tests.benchmarks.cluster import WHO, Cluster, cluster, name_of
from tests.benchmarks.measure import Cost, run
from tests.benchmarks.results import Series, as_dict, ratio, table
from tests.benchmarks.rounds import show_progress

#: Segments that a worker archives or fetches ahead, in each round.
_AHEAD = 8
_COLD = ("fsbackup", "pgBackRest")
_WARM = ("fsbackup, spool", "pgBackRest, async")


def wal(arena: Arena, count: int) -> tuple[str, dict[str, Any]]:
    """Compare both, each call alone and with a worker that goes ahead."""
    with cluster(arena.folder) as place:
        bench = _Bench(place)
        for number in range(count + 1):  # the first one makes archives, and is not counted
            bench.round(counts=number > 0)
        return bench.table(count), as_dict(bench.series)


class _Bench:
    def __init__(self, place: Cluster) -> None:
        self._place = place
        self._next = 1
        self.series: dict[str, Series] = {}

    def round(self, *, counts: bool) -> None:
        """Have each contender archive and fetch the same segments."""
        cold, warm = (_COLD, _WARM) if self._next % 2 else (_COLD[::-1], _WARM[::-1])
        [path] = self._place.make(self._numbers(1)[0])
        for who in cold:
            self._add(f"push: {who}", run([self._place.push(who, path)], self._place.folder), counts)
        for who in cold:
            self._add(f"fetch: {who}", self._fetched(who, path), counts)
        self._place.clear()
        numbers = self._numbers(_AHEAD)
        for who in warm:
            self._push_ahead(who, numbers, counts)
        for who in warm:
            self._fetch_ahead(who, numbers, counts)
        self._place.clear()

    def _numbers(self, count: int) -> list[int]:
        self._next += count
        return list(range(self._next - count, self._next))

    def _fetched(self, who: str, path: Path) -> Cost:
        target = self._place.folder / "fetched"
        cost = run([self._place.fetch(who, int(path.name[16:], 16), target)], self._place.folder)
        assert target.read_bytes() == path.read_bytes(), f"{who} fetched something else"
        return cost

    def _push_ahead(self, who: str, numbers: list[int], counts: bool) -> None:
        """Archive segments one after the other, as PostgreSQL does, from the first call to the last."""
        paths, began = self._place.make(*numbers), time.monotonic()
        costs = []
        for path in paths:
            costs.append(run([self._place.push(who, path)], self._place.folder))
            (path.parent / "archive_status" / f"{path.name}.ready").unlink()
        total = sum(each.wall for each in costs)
        self._add(f"push of {_AHEAD}: {who}", _sum(costs, total), counts)
        self._add(f"push, archived ahead: {who}", min(costs, key=lambda each: each.wall), counts)
        show_progress(f"{who}: {time.monotonic() - began:.2f} s")

    def _fetch_ahead(self, who: str, numbers: list[int], counts: bool) -> None:
        target, costs = self._place.folder / "RECOVERYXLOG", []
        for number in numbers:
            costs.append(run([self._place.fetch(who, number, target)], self._place.folder))
            wanted = self._place.data / "pg_wal" / name_of(number)
            assert target.read_bytes() == wanted.read_bytes(), f"{who} fetched something else"
        self._add(f"fetch of {_AHEAD}: {who}", _sum(costs, sum(each.wall for each in costs)), counts)
        self._add(f"fetch, fetched ahead: {who}", min(costs, key=lambda each: each.wall), counts)

    def _add(self, name: str, cost: Cost, counts: bool) -> None:
        if counts:
            self.series.setdefault(name, Series(name)).costs.append(cost)
            show_progress(f"{name}: {cost.wall:.3f} s")

    def table(self, count: int) -> str:
        rows = []
        for name, each in self.series.items():
            what, _, who = name.partition(": ")
            other = _WARM[1] if who in _WARM else _COLD[1]
            compared = ratio(each, self.series[f"{what}: {other}"])
            rows.append([name, f"{each.wall:.3f}", compared, f"{each.cpu:.3f}", f"{each.rss:.0f}"])
        title = f"wal: segments of 16 MiB, two SeaweedFS over TLS, {count} rounds ({', '.join(WHO)})"
        return table(title, ["", "wall s", "x pgBackRest", "CPU s", "RSS MiB"], rows)


def _sum(costs: list[Cost], wall: float) -> Cost:
    return Cost(wall, sum(each.cpu for each in costs), max(each.rss for each in costs))
