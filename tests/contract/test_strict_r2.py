"""The contract suite against a server with the rules of Cloudflare R2."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fsbackup.stores.s3.providers import R2
from fsbackup.testing import ObjectPlace, ObjectStoreContract
from tests.contract.s3_place import Emptied, lenient, object_place
from tests.servers.s3 import StrictEndpoint


@pytest.fixture(scope="module")
def emptied(strict_r2: StrictEndpoint) -> Iterator[Emptied]:
    """Return what gives a prefix that nobody else uses, empty."""
    with object_place(strict_r2, R2) as emptied:
        yield emptied


class TestStrictR2Objects(ObjectStoreContract):
    """Objects in a bucket."""

    part_size = 64 * 1024

    @pytest.fixture
    def place(self, strict_r2: StrictEndpoint, emptied: Emptied) -> Iterator[ObjectPlace]:
        """Return the prefix, empty."""
        with lenient(strict_r2):
            yield emptied()
