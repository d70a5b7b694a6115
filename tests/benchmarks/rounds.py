"""Rounds in which every contender has its turn."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

from tests.benchmarks.arena import compete, differences
from tests.benchmarks.contenders import Contender
from tests.benchmarks.results import Series
from tests.benchmarks.task import Task

Place = Callable[[], AbstractContextManager[Task]]


def rounds(contenders: Mapping[str, Contender], place: Place, count: int) -> dict[str, Series]:
    """Run `count` rounds; each contender starts once, so that no neighbour's leftovers always hit the same one.

    What the first round stored is compared with the source byte for byte.
    """
    series = {name: Series(name) for name in contenders}
    order = list(contenders)
    for number in range(count):
        shift = number * len(order) // count
        for name in order[shift:] + order[:shift]:
            with place() as task:
                series[name].costs.append(compete(task, contenders[name]))
                if number == 0 and (wrong := differences(task)):
                    raise AssertionError(f"{name} did not store {wrong}")
            show_progress(f"round {number + 1}/{count} {name}: {series[name].costs[-1].wall:.2f} s")
    return series


def show_progress(text: str) -> None:
    """Say on stderr how far it is."""
    print(text, file=sys.stderr, flush=True)
