"""The contract suites against moto's server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fsbackup.stores.s3.profile import GENERIC
from fsbackup.testing import BackendPlace, ObjectPlace, ObjectStoreContract, StorageBackendContract
from tests.contract.s3_place import backend_place, object_place
from tests.servers.endpoint import S3Endpoint


class TestMotoObjects(ObjectStoreContract):
    """Objects in a bucket."""

    @pytest.fixture
    def place(self, moto: S3Endpoint) -> Iterator[ObjectPlace]:
        """Return a prefix that nobody else uses."""
        with object_place(moto, GENERIC) as place:
            yield place


class TestMotoStorage(StorageBackendContract):
    """The five methods; broken is a bucket that does not exist."""

    @pytest.fixture
    def place(self, moto: S3Endpoint) -> BackendPlace:
        """Return a prefix that nobody else uses."""
        return backend_place(moto)
