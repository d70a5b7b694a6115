"""The contract suite against rclone's S3 server, which keeps plain files."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fsbackup.backends.s3.profile import GENERIC
from fsbackup.testing import ObjectPlace, ObjectStoreContract
from tests.contract.s3_place import object_place
from tests.servers.endpoint import S3Endpoint


class TestRcloneObjects(ObjectStoreContract):
    """Objects in a bucket."""

    nested_names = False

    @pytest.fixture
    def place(self, rclone: S3Endpoint) -> Iterator[ObjectPlace]:
        """Return a prefix that nobody else uses."""
        with object_place(rclone, GENERIC) as place:
            yield place
