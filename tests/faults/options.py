"""The options of the fault rounds: which seeds, and how many."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.faults.plan import Kind  # at run time, every run of pytest would load the library for it

#: How many rounds of each kind a run has by default.
ROUNDS: dict[Kind, int] = {"kill": 204, "damage": 36, "outage": 36, "mixed": 24}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("fault rounds")
    group.addoption(
        "--fault-seeds", default="", help="only these rounds, as kind:seed,kind:seed (kill:17,damage:3)"
    )
    group.addoption("--fault-rounds", type=int, default=ROUNDS["kill"], help="kills; other kinds in proportion")
    group.addoption("--fault-base", type=int, default=0, help="the first seed")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give every test that wants a round its rounds."""
    if "fault_seed" in metafunc.fixturenames:
        rounds = list(_rounds(metafunc.config))
        metafunc.parametrize("fault_seed", rounds, ids=[f"{kind}:{seed}" for kind, seed in rounds])


def _rounds(config: pytest.Config) -> Iterable[tuple[Kind, int]]:
    seeds = str(config.getoption("--fault-seeds"))
    if seeds:
        for each in seeds.split(","):
            kind, _, number = each.partition(":")
            if kind not in ROUNDS:
                raise pytest.UsageError(f"--fault-seeds: {each!r} is not kind:seed, with a kind of {list(ROUNDS)}")
            yield kind, int(number)
        return
    wanted, base = int(config.getoption("--fault-rounds")), int(config.getoption("--fault-base"))
    for kind, usual in ROUNDS.items():
        for seed in range(base, base + round(usual * wanted / ROUNDS["kill"])):
            yield kind, seed
