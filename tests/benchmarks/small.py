"""Many small files to one bucket; running it again, also with what a job remembers; fsbackup to three places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.benchmarks.arena import Arena, compete
from tests.benchmarks.contenders import AGAIN, PRACTICE, QUICKEST, SMALL
from tests.benchmarks.results import Series, as_dict, ratio, table
from tests.benchmarks.rounds import rounds, show_progress
from tests.benchmarks.sources import random_tree

COUNT = 2000
_SIZE = 16 << 10


@dataclass(frozen=True)
class Tree:
    """Where the small files are."""

    folder: Path
    names: Sequence[str]


def small(arena: Arena, count: int, files: int = COUNT) -> tuple[str, dict[str, Any]]:
    """Compare all contenders on many small files, then look at fsbackup alone."""
    tree = Tree(arena.folder / "small", random_tree(arena.folder / "small", files, _SIZE))
    place = partial(arena.task, tree.folder, tree.names, ("r2",), local=False)
    series = rounds(SMALL, place, count)
    rows = [_row(each, series, files) for each in sorted(series.values(), key=lambda each: each.wall)]
    alone = _alone(arena, tree, count)
    rows += [[name, f"{files / each.wall:.0f}", "", "", *_own(each)] for name, each in alone.items()]
    head = ["", "objects/s", f"x {PRACTICE}", f"x {QUICKEST}", "CPU s", "RSS MiB"]
    title = f"small: {files} files of {_SIZE >> 10} KiB to one bucket, {count} rounds"
    return table(title, head, rows), as_dict(series | alone)


def _row(each: Series, series: dict[str, Series], files: int) -> list[str]:
    compared = [ratio(each, series[PRACTICE]), ratio(each, series[QUICKEST])]
    return [each.name, f"{files / each.wall:.0f}", *compared, *_own(each)]


def _own(each: Series) -> list[str]:
    return [f"{each.cpu:.2f}", f"{each.rss:.0f}"]


def _alone(arena: Arena, tree: Tree, count: int) -> dict[str, Series]:
    """Run fsbackup in the other role, to three places, and everything a second time."""
    settings = {"as b2": (("b2",), False), "as r2": (("r2",), False), "local + r2 + b2": (("r2", "b2"), True)}
    series: dict[str, Series] = {}
    for _ in range(count):
        for label, (roles, local) in settings.items():
            first = series.setdefault(f"fsbackup {label}", Series(label))
            again = series.setdefault(f"fsbackup {label}, again", Series(label))
            remembered = series.setdefault(f"fsbackup {label}, remembered", Series(label))
            with arena.task(tree.folder, tree.names, roles, local=local) as task:
                first.costs.append(compete(task, SMALL["fsbackup"]))
                again.costs.append(compete(task, SMALL["fsbackup"]))
                compete(task, AGAIN)  # which remembers
                remembered.costs.append(compete(task, AGAIN))
            last = [each.costs[-1] for each in (first, again, remembered)]
            if any(each.said["already"] != len(tree.names) for each in last[1:]):
                raise AssertionError("running it again sent something")
            show_progress(f"{label}: {', again '.join(f'{each.wall:.2f} s' for each in last)}")
    return series
