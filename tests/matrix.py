"""Which tests the default run leaves to ``pytest -m matrix``.

The default run tries every behaviour once, on the store that is most likely to break it. The second set has the
products: more servers, more sites, more random rounds, kills at every further step, clusters. `.ci/run` runs both.

Four ways to say that something belongs to the second set, and no others:

- some values of an axis, of ``parametrize`` or of a fixture: ``["local", *map(matrix, ["ftp", "moto"])]``, or
  ``sparing(CASES, FIRST)``, where there are many and the default run needs a few;
- all combinations of several axes but those that it takes to have each value once: ``@pytest.mark.each_choice``;
- a test or a class: ``@pytest.mark.matrix``;
- a file: ``pytestmark = pytest.mark.matrix``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from _pytest.mark import ParameterSet


def matrix(*values: object, id: str | None = None) -> ParameterSet:
    """Return one set of parameters, for ``pytest -m matrix`` only."""
    return pytest.param(*values, marks=pytest.mark.matrix, id=id)


def sparing(cases: Iterable[object], first: Container[object]) -> list[object]:
    """Return cases (tuples where a test has several arguments) as parameters, all but `first` for `-m matrix`."""
    return [case if case in first else matrix(*(case if isinstance(case, tuple) else (case,))) for case in cases]


def belongs_to_matrix(file: Path) -> bool:
    """Tell whether a whole file has the mark."""
    return any(line.startswith("pytestmark = pytest.mark.matrix") for line in file.read_text().splitlines())


def mark_combinations(items: Iterable[pytest.Item]) -> None:
    """Give the combinations of ``each_choice`` tests that the default run can spare to the second set."""
    tests: dict[str, list[pytest.Function]] = defaultdict(list)
    for item in items:
        if isinstance(item, pytest.Function) and item.get_closest_marker("each_choice"):
            tests[item.nodeid.partition("[")[0]].append(item)
    for combinations in tests.values():
        _mark_all_but_the_diagonal(combinations)


def _mark_all_but_the_diagonal(combinations: list[pytest.Function]) -> None:
    """Keep the n-th value of each axis with the n-th of all others; a short axis begins again."""
    params = [item.callspec.params for item in combinations]
    axes = {name: _unique(each[name] for each in params) for name in params[0]}
    if len(combinations) != prod(map(len, axes.values())):
        raise pytest.UsageError(f"{combinations[0].nodeid}: each_choice is for axes of one argument each")
    longest = max(map(len, axes.values()))
    diagonal = [{name: axis[n % len(axis)] for name, axis in axes.items()} for n in range(longest)]
    for item in combinations:
        if item.callspec.params not in diagonal:
            item.add_marker(pytest.mark.matrix)


def _unique(values: Iterable[object]) -> list[object]:
    """Return values in the order in which they first come; they need not be hashable."""
    found: list[object] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found
