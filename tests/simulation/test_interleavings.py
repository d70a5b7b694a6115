"""Operations that meet on one key, their steps permuted: some hundreds of cases, thousands in the second set."""

from __future__ import annotations

import pytest

from tests.matrix import matrix
from tests.simulation.case import case_of
from tests.simulation.known import KNOWN
from tests.simulation.run import run_case

#: Seeds per test, tests of the default run, and tests in all.
_BATCH, _DEFAULT, _ALL = 100, 2, 100


@pytest.mark.parametrize("first", [*range(_DEFAULT), *map(matrix, range(_DEFAULT, _ALL))])
def test_keeps_the_promises_in_every_order_of_steps(first: int) -> None:
    for seed in range(first * _BATCH, (first + 1) * _BATCH):
        result = run_case(case_of(seed))
        kinds = {each.kind for each in result.violations}
        assert kinds <= KNOWN.keys(), result.describe(brief=True)


@pytest.mark.parametrize("first", [0, *map(matrix, range(1, _ALL))])
def test_buckets_that_delete_on_a_condition_keep_them_all(first: int) -> None:
    """Also those that are known to break without."""
    for seed in range(first * _BATCH // 2, (first + 1) * _BATCH // 2):
        result = run_case(case_of(seed, layout=("amazon", "amazon", "amazon")))
        assert not result.violations, result.describe(brief=True)
