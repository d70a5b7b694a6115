"""The contract suites: what every store and backend must do, as tests for any implementation.

A test file subclasses a contract and provides empty storage with raw access to it::

    class TestMyStore(ObjectStoreContract):
        @pytest.fixture
        def place(self) -> ObjectPlace:
            return Place(MyStore(...), RawAccess(put=..., get=..., names=...))

`ObjectStoreContract` is for an `fsbackup.stores.base.ObjectStore`, `StorageBackendContract` for the five methods
of an `fsbackup.StorageBackend`. Both need pytest, which nothing else in this package needs.

Each module has one part of the contract; `driving` has the common base class and helpers, `place` the fixtures'
types.
"""

import pytest

_MODULES = "aborting creating orphans listing methods naming racing reading removing undoing writing"
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
from fsbackup.testing.undoing import UndoingContract  # noqa: E402
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
    UndoingContract,
    OrphansContract,
):
    """Every rule of `fsbackup.stores.base` that a test can check. See `Contract` for its settings."""


__all__ = [
    "ODD_KEYS",
    "BackendPlace",
    "ObjectPlace",
    "ObjectStoreContract",
    "Place",
    "RawAccess",
    "StorageBackendContract",
]
