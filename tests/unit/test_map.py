"""The map of the package is true: every file and every name that it gives is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "fsbackup"
MAP = (PACKAGE / "README.md").read_text()
CONTRIBUTING = (ROOT / ".github/CONTRIBUTING.md").read_text()

#: A file in backticks, and the name in backticks right after it, where there is one.
_HOP = re.compile(r"`([\w/]+\.py)`(?: `([\w.]+)`)?")


def names_in(path: Path) -> set[str]:
    """Return what a module defines at its top, and the members of its classes as ``Class.member``."""
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            members = (each for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef))
            found |= {f"{node.name}.{each.name}" for each in members}
    return found


def test_every_file_and_name_on_the_map_exists() -> None:
    """Each hop can be followed."""
    hops = set(_HOP.findall(MAP))
    assert len(hops) > 40
    assert [path for path, _ in hops if not (PACKAGE / path).is_file()] == []
    missing = [(path, name) for path, name in hops if name and name not in names_in(PACKAGE / path)]
    assert missing == []


def test_every_room_is_on_the_map() -> None:
    """A new package or module at the top of fsbackup gets its line."""
    rooms = {f"{each.name}/" for each in PACKAGE.iterdir() if (each / "__init__.py").is_file()}
    modules = {each.name for each in PACKAGE.glob("*.py") if not each.name.startswith("__")}
    assert [each for each in sorted(rooms | modules) if f"`{each}`" not in MAP] == []


def test_every_path_in_the_contributors_page_exists() -> None:
    """What a newcomer is sent to is there."""
    paths = set(re.findall(r"`((?:fsbackup|tests|configs|\.ci)/[\w/.]*)`", CONTRIBUTING))
    assert len(paths) > 10
    assert [each for each in paths if not (ROOT / each).exists()] == []


@pytest.mark.parametrize(
    "package", sorted(each.parent for each in PACKAGE.rglob("__init__.py")), ids=lambda each: each.name
)
def test_every_package_explains_itself(package: Path) -> None:
    """Its docstring is more than a name."""
    docstring = ast.get_docstring(ast.parse((package / "__init__.py").read_text()))
    assert docstring is not None
    assert len(docstring) > 60
