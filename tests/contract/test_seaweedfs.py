"""The contract suite against SeaweedFS, which lists directories in the order of their own names."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fsbackup.stores.s3.providers import GENERIC
from fsbackup.testing import BackendPlace, ObjectPlace, ObjectStoreContract, StorageBackendContract
from tests.contract.s3_place import Emptied, backend_place, object_place
from tests.servers.endpoint import S3Endpoint


@pytest.fixture(scope="module")
def emptied(seaweedfs: S3Endpoint) -> Iterator[Emptied]:
    """Return what gives a prefix that nobody else uses, empty."""
    with object_place(seaweedfs, GENERIC) as emptied:
        yield emptied


class TestSeaweedFsObjects(ObjectStoreContract):
    """Objects in a bucket."""

    @pytest.fixture
    def place(self, emptied: Emptied) -> ObjectPlace:
        """Return the prefix, empty."""
        return emptied()


class TestSeaweedFsStorage(StorageBackendContract):
    """The five methods; broken is a bucket that does not exist."""

    @pytest.fixture
    def place(self, seaweedfs: S3Endpoint) -> BackendPlace:
        """Return a prefix that nobody else uses."""
        return backend_place(seaweedfs)
