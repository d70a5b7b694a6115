"""The contract suites: what every backend must do, as tests that anybody can run on a backend of their own.

A test file subclasses a contract and gives it a fresh place and a side door::

    class TestMyObjects(ObjectStoreContract):
        @pytest.fixture
        def place(self) -> ObjectPlace:
            return Place(MyObjects(...), SideDoor(put=..., get=..., names=...))

`ObjectStoreContract` is for an `fsbackup.stores.base.ObjectStore`, `StorageBackendContract` for the five methods
of an `fsbackup.StorageBackend`. Both need pytest, which nothing else of this package does.
"""

import pytest

_MODULES = "aborting creating orphans listing methods naming racing reading removing writing"
pytest.register_assert_rewrite(*(f"fsbackup.testing.{module}" for module in _MODULES.split()))

from fsbackup.testing.aborting import AbortingContract  # noqa: E402 - rewriting must come first
from fsbackup.testing.creating import CreatingContract  # noqa: E402
from fsbackup.testing.listing import ListingContract  # noqa: E402
from fsbackup.testing.methods import StorageBackendContract  # noqa: E402
from fsbackup.testing.naming import ODD_KEYS, NamingContract  # noqa: E402
from fsbackup.testing.orphans import OrphansContract  # noqa: E402
from fsbackup.testing.place import BackendPlace, ObjectPlace, Place, RawAccess  # noqa: E402
from fsbackup.testing.racing import RacingContract  # noqa: E402
from fsbackup.testing.reading import ReadingContract  # noqa: E402
from fsbackup.testing.removing import RemovingContract  # noqa: E402
from fsbackup.testing.writing import WritingContract  # noqa: E402


class ObjectStoreContract(
    WritingContract,
    CreatingContract,
    AbortingContract,
    ReadingContract,
    ListingContract,
    RemovingContract,
    NamingContract,
    RacingContract,
    OrphansContract,
):
    """Every sentence of `fsbackup.stores.base` that a test can break. See `Contract` for the knobs."""


__all__ = [
    "ODD_KEYS",
    "BackendPlace",
    "ObjectPlace",
    "ObjectStoreContract",
    "Place",
    "RawAccess",
    "StorageBackendContract",
]
