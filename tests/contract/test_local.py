"""The contract suites on a local disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from fsbackup.backends import LocalStorage
from fsbackup.stores.local.store import LocalStore
from fsbackup.testing import BackendPlace, ObjectPlace, ObjectStoreContract, Place, StorageBackendContract
from tests.contract.raw_access import directory_access


class TestLocalStore(ObjectStoreContract):
    """Files in a directory."""

    part_size = 64 * 1024
    nested_names = False

    @pytest.fixture
    def place(self, tmp_path: Path) -> ObjectPlace:
        """Return a directory that is not there yet."""
        base = tmp_path / "base"
        return Place(LocalStore(base, page_size=7), directory_access(base))


class TestLocalStorage(StorageBackendContract):
    """The five methods; broken is a disk that is not mounted."""

    @pytest.fixture
    def place(self, tmp_path: Path) -> BackendPlace:
        """Return a directory that is not there yet."""
        base, unmounted = tmp_path / "base", tmp_path / "unmounted"
        return BackendPlace(
            backend=lambda errors: LocalStorage(base, errors=errors),
            broken=lambda errors: LocalStorage(unmounted, errors=errors, create=False),
            raw=directory_access(base),
        )
