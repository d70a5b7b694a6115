"""The options of the fault rounds: which seeds, and how many."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import pytest

from tests.matrix import matrix

if TYPE_CHECKING:
    from tests.faults.plan import Kind  # at run time, every run of pytest would load the library for it

#: How many rounds of each kind there are unless options say otherwise.
ROUNDS: dict[Kind, int] = {"kill": 204, "damage": 36, "outage": 36, "mixed": 24}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("fault rounds")
    group.addoption(
        "--fault-seeds", default="", help="only these rounds, as kind:seed,kind:seed (kill:17,damage:3)"
    )
    group.addoption("--fault-rounds", type=int, help=f"kills ({ROUNDS['kill']}); other kinds in proportion")
    group.addoption("--fault-base", type=int, default=0, help="the first seed")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give every test that wants a round its rounds: those asked for, or the default ones and the matrix."""
    if "fault_seed" not in metafunc.fixturenames:
        return
    rounds = list(_rounds(metafunc.config))
    usual = metafunc.config.getoption("--fault-rounds") is None and not metafunc.config.getoption("--fault-seeds")
    first = set(first_rounds(rounds)) if usual else set(rounds)
    params = [each if each in first else matrix(each) for each in rounds]
    metafunc.parametrize("fault_seed", params, ids=[f"{kind}:{seed}" for kind, seed in rounds])


def first_rounds(rounds: Iterable[tuple[Kind, int]]) -> Iterator[tuple[Kind, int]]:
    """Yield the rounds in which an operation, or a damage, an outage or a kind of kill, comes for the first time.

    An operation counts once among the kills and once among all other rounds; which trouble it meets there is left
    to the matrix.
    """
    from tests.faults.plan import plan_of

    met: set[tuple[str, str]] = set()
    for kind, seed in rounds:
        plan = plan_of(kind, seed)
        new = {(str(kind == "kill"), plan.operation), *(("trouble", each) for each in plan.troubles)} - met
        if new:
            met |= new
            yield kind, seed


def _rounds(config: pytest.Config) -> Iterable[tuple[Kind, int]]:
    seeds = str(config.getoption("--fault-seeds"))
    if seeds:
        for each in seeds.split(","):
            kind, _, number = each.partition(":")
            if kind not in ROUNDS:
                raise pytest.UsageError(f"--fault-seeds: {each!r} is not kind:seed, with a kind of {list(ROUNDS)}")
            yield kind, int(number)
        return
    wanted, base = config.getoption("--fault-rounds") or ROUNDS["kill"], int(config.getoption("--fault-base"))
    for kind, usual in ROUNDS.items():
        for seed in range(base, base + round(usual * wanted / ROUNDS["kill"])):
            yield kind, seed
