"""The rounds are what they are said to be: a function of the seed, all of them, judged without our code."""

from __future__ import annotations

import subprocess
import sys
from itertools import product
from typing import get_args

from tests.faults.options import ROUNDS, first_rounds
from tests.faults.plan import DAMAGES, OPERATIONS, OUTAGES, Kind, plan_of


def test_a_seed_makes_the_same_plan_again() -> None:
    """A failing seed replays."""
    for kind in get_args(Kind):
        assert [plan_of(kind, seed) for seed in range(50)] == [plan_of(kind, seed) for seed in range(50)]


_TROUBLES = (*DAMAGES, *OUTAGES, "Request", "Step", "Delay")
_ROUNDS = [(kind, seed) for kind, count in ROUNDS.items() for seed in range(count)]


def test_every_operation_meets_every_trouble() -> None:
    """In all rounds together, those of the matrix too."""
    plans = [plan_of(*each) for each in _ROUNDS]
    met = {(plan.operation, trouble) for plan in plans for trouble in plan.troubles}
    assert met == set(product(OPERATIONS, _TROUBLES))


def test_every_operation_and_every_trouble_is_there_by_default() -> None:
    """In the rounds that run by default, which are few: an operation once among kills, and once among the rest."""
    first = list(first_rounds(_ROUNDS))
    plans = [plan_of(*each) for each in first]
    assert {(plan.kind == "kill", plan.operation) for plan in plans} == set(product((True, False), OPERATIONS))
    assert {trouble for plan in plans for trouble in plan.troubles} == set(_TROUBLES)
    assert len(first) <= 2 * len(OPERATIONS) + len(_TROUBLES)


def test_the_judge_uses_none_of_our_code() -> None:
    """Who checks the promises does not load the library at all."""
    code = "import sys, tests.faults.promises; print([name for name in sys.modules if 'fsbackup' in name])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
