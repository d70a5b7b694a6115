"""One large file back from two servers: as fast as they are, and each on a line of so many bytes per second."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tests.benchmarks.arena import Arena, compete, same_content
from tests.benchmarks.contenders import BACK, BACK_PRACTICE, STORED, Contender
from tests.benchmarks.grounds import ROLES, Compared, on_all_grounds
from tests.benchmarks.results import Series, ratio, table
from tests.benchmarks.rounds import show_progress
from tests.benchmarks.task import Task


def restore(arena: Arena, size: int, count: int) -> tuple[str, dict[str, Any]]:
    """Compare all contenders; the others read from one of the buckets."""
    title = f"restore from two buckets (others: from one), {{}}, {count} rounds"
    return on_all_grounds(arena, title, size, partial(_compare, count=count), _table)


def _compare(arena: Arena, source: Path, *, count: int) -> Compared:
    series = {name: Series(name) for name in BACK}
    with arena.task(source.parent, [source.name], ROLES, local=False) as task:
        for stored in STORED:
            compete(task, stored)
        for number in range(count):
            for name, contender in _turned(BACK, number):
                series[name].costs.append(compete(task, contender))
                _check(task, name)
                show_progress(f"round {number + 1}/{count} {name}: {series[name].costs[-1].wall:.2f} s")
    return series


def _turned(contenders: Mapping[str, Contender], number: int) -> list[tuple[str, Contender]]:
    everybody = list(contenders.items())
    shift = number % len(everybody)
    return everybody[shift:] + everybody[:shift]


def _check(task: Task, name: str) -> None:
    if not same_content(task.back, task.paths()[0]):
        raise AssertionError(f"{name} did not bring back what was stored")
    task.back.unlink()


def _table(title: str, series: Compared) -> str:
    best = min((each for name, each in series.items() if name != "fsbackup"), key=lambda each: each.wall)
    head = ["", "wall s", f"x {BACK_PRACTICE}", f"x best ({best.name})", "CPU s", "RSS MiB"]
    ranked = sorted(series.values(), key=lambda each: each.wall)
    return table(title, head, [_row(each, series[BACK_PRACTICE], best) for each in ranked])


def _row(each: Series, practice: Series, best: Series) -> list[str]:
    compared = [ratio(each, practice), ratio(each, best)]
    return [each.name, f"{each.wall:.2f}", *compared, f"{each.cpu:.2f}", f"{each.rss:.0f}"]
