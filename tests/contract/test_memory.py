"""The contract suites on fsspec's memory filesystem."""

from __future__ import annotations

import secrets

import pytest

from fsbackup.backends.generic import GenericObjects
from fsbackup.testing import ObjectPlace, ObjectStoreContract, Place
from tests.contract.doors import memory_door


class TestMemoryObjects(ObjectStoreContract):
    """Bytes in this process."""

    part_size = 64 * 1024
    nested_names = False

    @pytest.fixture
    def place(self) -> ObjectPlace:
        """Return a directory that nobody else uses."""
        root = secrets.token_hex(8)
        return Place(GenericObjects(f"memory://{root}"), memory_door(root))
