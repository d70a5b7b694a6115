"""The contract suites on a local disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from fsbackup.backends.local import LocalObjects
from fsbackup.testing import ObjectPlace, ObjectStoreContract, Place
from tests.contract.doors import directory_door


class TestLocalObjects(ObjectStoreContract):
    """Files in a directory."""

    part_size = 64 * 1024
    nested_names = False

    @pytest.fixture
    def place(self, tmp_path: Path) -> ObjectPlace:
        """Return an empty directory that is not there yet."""
        base = tmp_path / "base"
        return Place(LocalObjects(base, page_size=7), directory_door(base))
