"""`StorageBackend`: the five methods, written once over the object I/O of `fsbackup.objects`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal

from fsbackup.objects import ObjectStore

ErrorMode = Literal["return", "raise"]


class StorageBackend(ABC):
    """PLACEHOLDER being written by the owner of this file; subclass SingleBackend meanwhile."""

    def __init__(self, name: str, *, errors: ErrorMode = "return") -> None:
        if errors not in ("return", "raise"):
            raise ValueError(f"errors must be 'return' or 'raise', not {errors!r}")
        self.name = name
        self.errors = errors


class SingleBackend(StorageBackend):
    """One storage place: the five methods over one `ObjectStore`."""

    def __init__(self, objects: ObjectStore, *, errors: ErrorMode = "return") -> None:
        super().__init__(objects.name, errors=errors)
        self.objects = objects

    @property
    def fs(self) -> Any:
        """The fsspec filesystem that this backend wraps."""
        return self.objects.filesystem

    @property
    def location(self) -> str:
        """Where the objects are, for people: a path or URL without secrets."""
        return self.objects.location
