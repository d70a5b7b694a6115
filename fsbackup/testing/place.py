"""What a test file provides to the contract suites: empty storage, and raw access to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from fsbackup.backends.base import ErrorMode, StorageBackend
from fsbackup.stores.base import ObjectStore

T = TypeVar("T")


@dataclass(frozen=True)
class RawAccess:
    """Access to the same storage without the code under test, which could hide its own bugs.

    Parameters
    ----------
    put
        Stores bytes under a name.
    get
        Returns the bytes under a name, None when there is no such name.
    names
        Returns all names: objects, records and temp files.
    unfinished
        Returns what unfinished writes left elsewhere, such as multipart uploads.
    """

    put: Callable[[str, bytes], None]
    get: Callable[[str], bytes | None]
    names: Callable[[], set[str]]
    unfinished: Callable[[], list[str]] = list

    def all_names(self) -> set[str]:
        """Return the names of all objects, records, temp files and unfinished uploads."""
        return self.names() | {f"unfinished {name}" for name in self.unfinished()}


@dataclass(frozen=True)
class Place(Generic[T]):
    """Empty storage: a store for it, and raw access to it."""

    store: T
    raw: RawAccess


ObjectPlace = Place[ObjectStore]


@dataclass(frozen=True)
class BackendPlace:
    """Empty storage: backends for it, and raw access to it.

    Parameters
    ----------
    backend
        Returns a backend for the storage, in an error mode.
    broken
        Returns a backend for storage that is unreachable or does not work, in an error mode.
    raw
        The raw access.
    """

    backend: Callable[[ErrorMode], StorageBackend]
    broken: Callable[[ErrorMode], StorageBackend]
    raw: RawAccess
