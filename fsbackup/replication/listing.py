"""`ls`: the objects of a set and which replicas list them, from their listings alone."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal

from fsbackup.errors import FsbackupError
from fsbackup.objects import ObjectStat, ObjectStore
from fsbackup.replication.walk import Listed, Seen, Walk

#: `"unknown"`: the replica could not be listed, which says nothing about the object.
Presence = Literal["present", "missing", "size differs", "unknown"]


@dataclass(frozen=True, slots=True)
class ObjectEntry:
    """One object of a set.

    Parameters
    ----------
    key
        Its key.
    size
        Bytes, on the first replica (in reading order) that has it.
    modified
        When that replica stored it, epoch seconds; None where it does not say.
    replicas
        What each backend has of it, by name.
    """

    key: str
    size: int
    modified: float | None
    replicas: Mapping[str, Presence]

    @property
    def copies(self) -> int:
        """How many replicas list it with this size."""
        return sum(presence == "present" for presence in self.replicas.values())

    def as_dict(self) -> dict[str, Any]:
        """Return the entry as plain JSON types."""
        return {"key": self.key, "size": self.size, "modified": self.modified, "replicas": dict(self.replicas)}


class Listing:
    """A walk over the objects of a set below `prefix`, in the order of their encoded names."""

    def __init__(self, stores: tuple[ObjectStore, ...], prefix: str) -> None:
        self._walk = Walk(stores, prefix, records=False)

    @property
    def errors(self) -> dict[str, FsbackupError]:
        """Why a replica could not be listed, by name; complete once the walk is over."""
        return self._walk.errors

    async def entries(self) -> AsyncGenerator[ObjectEntry, None]:
        """Yield each object once.

        Raises
        ------
        NoHealthyReplicaError
            When no replica can be listed.
        """
        async with aclosing(self._walk.keys()) as keys:
            async for seen in keys:
                yield _entry(seen)


def _entry(seen: Seen) -> ObjectEntry:
    first = next(listed.data for listed in seen.replicas.values() if listed and listed.data)
    replicas = {name: _presence(listed, first) for name, listed in seen.replicas.items()}
    return ObjectEntry(seen.key, first.size, first.modified, replicas)


def _presence(listed: Listed | None, first: ObjectStat) -> Presence:
    if listed is None:
        return "unknown"
    if listed.data is None:
        return "missing"
    return "present" if listed.data.size == first.size else "size differs"
