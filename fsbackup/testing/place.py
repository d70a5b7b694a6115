"""What a backend's test file gives to the contract suites: a fresh place and a side door into it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from fsbackup.backends import ErrorMode, StorageBackend
from fsbackup.stores.base import ObjectStore

T = TypeVar("T")


@dataclass(frozen=True)
class RawAccess:
    """The same place seen without the code under test, so that no bug can hide behind its own twin.

    Parameters
    ----------
    put
        Stores bytes under a name.
    get
        Returns the bytes under a name, None when there is no such name.
    names
        Returns the names of everything that lies there: objects, our own records, temp files.
    leftovers
        Returns what unfinished writes left elsewhere, such as multipart uploads.
    """

    put: Callable[[str, bytes], None]
    get: Callable[[str], bytes | None]
    names: Callable[[], set[str]]
    unfinished: Callable[[], list[str]] = list

    def all_names(self) -> set[str]:
        """Return the names of all there is, finished or not."""
        return self.names() | {f"unfinished {name}" for name in self.unfinished()}


@dataclass(frozen=True)
class Place(Generic[T]):
    """A place with nothing in it, and the side door."""

    store: T
    raw: RawAccess


ObjectPlace = Place[ObjectStore]


@dataclass(frozen=True)
class BackendPlace:
    """A place with nothing in it, the backends that speak to it, and the side door.

    Parameters
    ----------
    backend
        Returns a backend for the place, in an error mode.
    broken
        Returns a backend for a place that cannot be reached or does not work, in an error mode.
    door
        The side door.
    """

    backend: Callable[[ErrorMode], StorageBackend]
    broken: Callable[[ErrorMode], StorageBackend]
    raw: RawAccess
