"""The contract suites on fsspec's memory filesystem."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from fsbackup.backends import GenericStorage
from fsbackup.stores.generic.store import GenericStore
from fsbackup.testing import BackendPlace, ObjectPlace, ObjectStoreContract, Place, StorageBackendContract
from tests.contract.raw_access import memory_access
from tests.servers.ports import LOOPBACK, claimed_ports


class TestMemoryObjects(ObjectStoreContract):
    """Bytes in this process."""

    part_size = 64 * 1024
    nested_names = False

    @pytest.fixture
    def place(self) -> ObjectPlace:
        """Return a directory that nobody else uses."""
        root = secrets.token_hex(8)
        return Place(GenericStore(f"memory://{root}"), memory_access(root))


class TestMemoryStorage(StorageBackendContract):
    """The five methods; broken is a server where nobody listens."""

    @pytest.fixture
    def place(self) -> Iterator[BackendPlace]:
        """Return a directory that nobody else uses."""
        root = secrets.token_hex(8)
        with claimed_ports(1) as (port,):
            yield BackendPlace(
                backend=lambda errors: GenericStorage(f"memory://{root}", errors=errors),
                broken=lambda errors: GenericStorage(f"ftp://{LOOPBACK}:{port}/", errors=errors),
                raw=memory_access(root),
            )
