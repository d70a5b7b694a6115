"""The contract suite against SeaweedFS, which lists directories in the order of their own names."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fsbackup.stores.s3.profile import GENERIC
from fsbackup.testing import ObjectPlace, ObjectStoreContract
from tests.contract.s3_place import object_place
from tests.servers.endpoint import S3Endpoint


class TestSeaweedFsObjects(ObjectStoreContract):
    """Objects in a bucket."""

    @pytest.fixture
    def place(self, seaweedfs: S3Endpoint) -> Iterator[ObjectPlace]:
        """Return a prefix that nobody else uses."""
        with object_place(seaweedfs, GENERIC) as place:
            yield place
