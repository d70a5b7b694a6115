"""The contract suite against moto's server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fsbackup.backends.s3.profile import GENERIC
from fsbackup.testing import ObjectPlace, ObjectStoreContract
from tests.contract.s3_place import object_place
from tests.servers.endpoint import S3Endpoint


class TestMotoObjects(ObjectStoreContract):
    """Objects in a bucket."""

    @pytest.fixture
    def place(self, moto: S3Endpoint) -> Iterator[ObjectPlace]:
        """Return a prefix that nobody else uses."""
        with object_place(moto, GENERIC) as place:
            yield place
