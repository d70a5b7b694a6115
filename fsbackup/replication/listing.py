"""The objects of a set: every replica's sorted listing, merged. One LIST per 1,000 keys and replica, no more."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fsbackup.errors import FsbackupError, NoHealthyReplicaError
from fsbackup.keys import decode_name, encode_key, in_prefix
from fsbackup.objects import ObjectStat, ObjectStore

log = logging.getLogger("fsbackup.storage")

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


class _Cursor:
    """One replica's place in its listing; `error` says that it could not be listed (any further)."""

    def __init__(self, store: ObjectStore, prefix: str) -> None:
        self.store = store
        self.head: tuple[str, ObjectStat] | None = None
        self.error: FsbackupError | None = None
        self._prefix = prefix
        self._rest: AsyncIterator[ObjectStat] = store.list(encode_key(prefix.removesuffix("/")) + _slash(prefix))

    async def advance(self) -> None:
        """Move to the next object with a key, past names that no key encodes to."""
        self.head = None
        try:
            async for stat in self._rest:
                key = decode_name(stat.name)
                if key is not None and in_prefix(key, self._prefix):
                    self.head = (key, stat)
                    return
        except FsbackupError as error:
            self.error = error
            log.error("%s cannot be listed: %s", self.store.name, error)


def _slash(prefix: str) -> str:
    return "/" if prefix.endswith("/") else ""


class Listing:
    """A walk over the objects of a set below `prefix`, in the order of their encoded names."""

    def __init__(self, stores: tuple[ObjectStore, ...], prefix: str) -> None:
        self._cursors = [_Cursor(store, prefix) for store in stores]

    @property
    def errors(self) -> dict[str, FsbackupError]:
        """Why a replica could not be listed, by name; complete once the walk is over."""
        return {cursor.store.name: cursor.error for cursor in self._cursors if cursor.error is not None}

    async def entries(self) -> AsyncGenerator[ObjectEntry, None]:
        """Yield each object once.

        Raises
        ------
        NoHealthyReplicaError
            When no replica can be listed.
        """
        for cursor in self._cursors:
            await cursor.advance()
        while heads := [cursor for cursor in self._cursors if cursor.head is not None]:
            yield self._entry(min(_order(cursor) for cursor in heads))
            least = min(_order(cursor) for cursor in heads)
            for cursor in heads:
                if _order(cursor) == least:
                    await cursor.advance()
        if len(self.errors) == len(self._cursors):
            reasons = "; ".join(str(error) for error in self.errors.values())
            raise NoHealthyReplicaError(f"no replica can be listed: {reasons}", operation="list")

    def _entry(self, order: bytes) -> ObjectEntry:
        here = {c.store.name: c.head for c in self._cursors if c.head is not None and _order(c) == order}
        key, first = next(iter(here.values()))
        replicas: dict[str, Presence] = {}
        for cursor in self._cursors:
            found = here.get(cursor.store.name)
            if found is not None:
                replicas[cursor.store.name] = "present" if found[1].size == first.size else "size differs"
            else:
                replicas[cursor.store.name] = "unknown" if cursor.error else "missing"
        return ObjectEntry(key, first.size, first.modified, replicas)


def _order(cursor: _Cursor) -> bytes:
    assert cursor.head is not None
    return cursor.head[1].name.encode("utf-8", "surrogateescape")
