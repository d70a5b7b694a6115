"""The contract suite against SeaweedFS."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fsbackup.backends.s3.profile import GENERIC
from fsbackup.errors import BackendError
from fsbackup.loop import run
from fsbackup.testing import ObjectPlace, ObjectStoreContract
from fsbackup.testing.driving import collect
from tests.contract.s3_place import object_place
from tests.servers.endpoint import S3Endpoint


class TestSeaweedFsObjects(ObjectStoreContract):
    """Objects in a bucket."""

    @pytest.fixture
    def place(self, seaweedfs: S3Endpoint) -> Iterator[ObjectPlace]:
        """Return a prefix that nobody else uses."""
        with object_place(seaweedfs, GENERIC) as place:
            yield place

    @pytest.fixture
    def tree(self, place: ObjectPlace) -> list[str]:
        """Return names in one directory: SeaweedFS lists directories in the order of their own names."""
        names = sorted(["a!", "a.b", "a0", "ab", "b", "bc", "z", "\u00e9"], key=str.encode)
        for name in names:
            place.door.put(name, name.encode())
        return names

    @pytest.mark.parametrize("after", ["", "a", "a!", "a.", "aa", "b", "bd", "\u00e9", "~"])
    def test_list_starts_after(self, place: ObjectPlace, tree: list[str], after: str) -> None:
        """A listing starts after a name; one with a slash SeaweedFS takes for a path to walk to."""
        super().test_list_starts_after(place, tree, after)

    def test_wrong_order_is_an_error(self, place: ObjectPlace) -> None:
        """A listing that comes in another order than the names' is refused, not passed on with gaps."""
        for name in ("a.b", "a/b/c", "a/b.c", "a0"):
            place.door.put(name, b"x")
        with pytest.raises(BackendError, match="cannot be trusted"):
            run(collect(place.store.list()))
