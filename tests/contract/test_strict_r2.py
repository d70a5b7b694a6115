"""The contract suite against a server with the rules of Cloudflare R2."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fsbackup.stores.s3.profile import R2
from fsbackup.testing import ObjectPlace, ObjectStoreContract
from tests.contract.s3_place import strict_place
from tests.servers.s3 import StrictEndpoint


class TestStrictR2Objects(ObjectStoreContract):
    """Objects in a bucket."""

    part_size = 64 * 1024

    @pytest.fixture
    def place(self, strict_r2: StrictEndpoint) -> Iterator[ObjectPlace]:
        """Return a prefix that nobody else uses."""
        with strict_place(strict_r2, R2) as place:
            yield place
