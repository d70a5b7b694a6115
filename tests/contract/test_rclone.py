"""The contract suite against rclone's S3 server, which keeps plain files, and has faults that no service has."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fsbackup.errors import TransientError
from fsbackup.loop import run
from fsbackup.stores.s3.providers import GENERIC
from fsbackup.testing import ObjectPlace, ObjectStoreContract
from tests.contract.s3_place import Emptied, object_place
from tests.servers.endpoint import S3Endpoint

pytestmark = pytest.mark.matrix


@pytest.fixture(scope="module")
def emptied(rclone: S3Endpoint) -> Iterator[Emptied]:
    """Return what gives a prefix that nobody else uses, empty."""
    with object_place(rclone, GENERIC) as emptied:
        yield emptied


class TestRcloneObjects(ObjectStoreContract):
    """Objects in a bucket."""

    nested_names = False

    @pytest.fixture
    def place(self, emptied: Emptied) -> ObjectPlace:
        """Return the prefix, empty."""
        return emptied()

    @pytest.mark.parametrize("name", ["dir", "dir/sub"])
    def test_remove_is_never_recursive(self, place: ObjectPlace, name: str) -> None:
        """To the removal of a directory's name rclone answers 500, and nothing is removed."""
        place.raw.put("dir/sub/object", b"x")
        with pytest.raises(TransientError):
            run(place.store.remove(name))
        assert place.raw.names() == {"dir/sub/object"}

    @pytest.mark.parametrize("parts", [1])
    def test_commit_returns_what_the_backend_says(self, place: ObjectPlace, parts: int) -> None:
        """What came in several parts has another ETag in the answer than in that to a HEAD."""
        super().test_commit_returns_what_the_backend_says(place, parts)

    # While an object is replaced, rclone may send as many bytes as the old one had, of the new one: to any client.
    # What the engine reads it proves.
    test_reader_during_replacement = None  # type: ignore[assignment]

    # After each removal rclone removes what the name lies in, when that is an empty directory, even if a file is
    # being written into it, or a plain file.
    test_remove_and_write_race = None  # type: ignore[assignment]
    test_remove_of_a_missing_object = None  # type: ignore[assignment]
