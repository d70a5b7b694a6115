"""The benchmarks still run, and every contender stores what it was given. No timing is judged here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.benchmarks.arena import Arena, arena, compete, differences, same_content
from tests.benchmarks.contenders import BACK, LARGE, SMALL, STORED
from tests.benchmarks.sources import random_file, random_tree
from tests.benchmarks.stages import stages

pytestmark = pytest.mark.matrix

_LARGE = (9 << 20) + 1  # two parts, the second a short one
_FILES = 12


@pytest.fixture(scope="module")
def place() -> Iterator[Arena]:
    with arena() as running:
        yield running


@pytest.mark.parametrize("name", LARGE)
def test_a_large_file_is_stored_everywhere(place: Arena, name: str) -> None:
    source = random_file(place.folder / "large.bin", _LARGE)
    with place.task(place.folder, [source.name], ("r2", "b2"), local=True) as task:
        cost = compete(task, LARGE[name])
        assert differences(task) == []
    assert cost.wall > 0
    assert cost.cpu > 0
    assert cost.rss > 1


@pytest.mark.parametrize("name", SMALL)
def test_small_files_are_stored(place: Arena, name: str) -> None:
    folder = place.folder / name
    names = random_tree(folder, _FILES, 1 << 10)
    with place.task(folder, names, ("r2",), local=False) as task:
        compete(task, SMALL[name])
        assert differences(task) == []


@pytest.mark.parametrize("name", BACK)
def test_a_large_file_comes_back(place: Arena, name: str) -> None:
    source = random_file(place.folder / "back.bin", _LARGE)
    with place.task(place.folder, [source.name], ("r2", "b2"), local=False) as task:
        for stored in STORED:
            compete(task, stored)
        compete(task, BACK[name])
        assert same_content(task.back, source)


def test_stages_are_compared(place: Arena) -> None:
    text, figures = stages(place, 1 << 20, 1)
    assert len(figures) == 6
    assert "dump: fsbackup put" in text
