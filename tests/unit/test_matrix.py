"""What the default run keeps of a test with several axes."""

from __future__ import annotations

import pytest

from tests.matrix import sparing

CONFTEST = """
from tests.matrix import mark_combinations

def pytest_collection_modifyitems(items):
    mark_combinations(items)
"""
TESTS = """
import pytest

@pytest.fixture(params=["x", "y"])
def place(request):
    pass

@pytest.mark.each_choice
@pytest.mark.parametrize("name", "abc")
def test_product(place, name):
    pass

@pytest.mark.parametrize("name", "ab")
def test_all(place, name):
    pass
"""


def kept(items: list[pytest.Item], test: str) -> list[str]:
    return sorted(
        each.name for each in items if each.name.startswith(test) and not each.get_closest_marker("matrix")
    )


def test_each_value_of_each_axis_is_kept_once(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many combinations as the longest axis has values; without the mark, all of them."""
    pytester.makeconftest(CONFTEST)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makeini("[pytest]\nmarkers = each_choice\n    matrix\n")
    items, _ = pytester.inline_genitems(pytester.makepyfile(TESTS))
    assert kept(items, "test_product") == ["test_product[x-a]", "test_product[x-c]", "test_product[y-b]"]
    assert len(kept(items, "test_all")) == 4


def test_few_of_many_cases_are_kept() -> None:
    """The others are the same parameters, marked."""
    one, two = sparing([("a", 1), ("b", 2)], first=[("b", 2)])
    assert (one, two) == (pytest.param("a", 1, marks=pytest.mark.matrix), ("b", 2))
