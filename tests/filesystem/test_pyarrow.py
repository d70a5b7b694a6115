"""pyarrow's own filesystem suite over `fsbackup://`."""

from __future__ import annotations

import inspect
import pickle
import secrets
from collections.abc import Callable
from typing import Any

import pytest
from pyarrow import fs as arrow
from pyarrow.tests import test_fs as suite

from tests.filesystem.configured_set import ROOT, ConfiguredSet


@pytest.fixture
def filesystem_config(configured: ConfiguredSet) -> dict[str, Any]:
    """What the suite calls a filesystem."""
    base = f"{ROOT}/{secrets.token_hex(4)}"
    configured.append = True
    fs = configured.shared
    fs.mkdir(base)
    return {
        "fs": arrow.PyFileSystem(arrow.FSSpecHandler(fs)),
        "pathfn": lambda path: f"{base}/{path}".rstrip("/"),
        "allow_move_dir": True,
        "allow_append_to_file": True,
    }


@pytest.fixture
def fs(filesystem_config: dict[str, Any]) -> arrow.FileSystem:
    return filesystem_config["fs"]


@pytest.fixture
def pathfn(filesystem_config: dict[str, Any]) -> Callable[[str], str]:
    found: Callable[[str], str] = filesystem_config["pathfn"]
    return found


@pytest.fixture
def allow_move_dir(filesystem_config: dict[str, Any]) -> bool:
    return bool(filesystem_config["allow_move_dir"])


@pytest.fixture
def allow_append_to_file(filesystem_config: dict[str, Any]) -> bool:
    return bool(filesystem_config["allow_append_to_file"])


@pytest.fixture
def pickle_module() -> Any:
    return pickle


pickle_with_and_without_subtree_filesystem = suite.pickle_with_and_without_subtree_filesystem


def _takes_any_filesystem(name: str) -> bool:
    """Tell whether a test of the suite asks for nothing but a filesystem; the rest is about pyarrow's own."""
    found = getattr(suite, name)
    return name.startswith("test_") and callable(found) and "fs" in inspect.signature(found).parameters


_TAKEN = [name for name in dir(suite) if _takes_any_filesystem(name)]
for _name in _TAKEN:
    globals()[_name] = getattr(suite, _name)


def test_suite() -> None:
    """The suite still has the tests that this file takes from it."""
    assert len(_TAKEN) >= 18
