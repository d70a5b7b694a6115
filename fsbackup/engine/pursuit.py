"""How long a read follows an object that is replaced while it is read."""

from __future__ import annotations

import asyncio

from fsbackup.engine.download import ObjectReader
from fsbackup.engine.replicas import ReplicaSet
from fsbackup.errors import NoHealthyReplicaError

#: Versions that a read follows however long that takes: of a large object, one read takes longer than any limit.
_AT_LEAST = 3
#: How often it goes back to versions that it could not read before: their bytes may be damaged.
_RETURNS = 3


class Pursuit:
    """Decides whether a read goes on with another version, once no replica can give it the one it reads.

    Fast writers may replace an object more often than any number allows for, which is no damage. So each version
    is followed that was not met before, until the replicas' stall timeout is over.
    """

    def __init__(self, targets: ReplicaSet) -> None:
        self._stall = targets.stall
        self._until: float | None = None
        self._met: set[str] = set()
        self._followed = self._returns = 0

    def follow(self, reader: ObjectReader, newer: ObjectReader | None, error: Exception) -> ObjectReader:
        """Return `newer`, to be read in place of what `reader` reads.

        Raises
        ------
        NoHealthyReplicaError
            When the object is replaced faster than it can be read.
        Exception
            `error`, of the last read, when no other version explains it.
        """
        now = asyncio.get_running_loop().time()
        self._until = now + self._stall if self._until is None else self._until
        if newer is None or not self._goes_on(_content(reader), _content(newer)):
            raise error
        self._followed += 1
        if self._followed > _AT_LEAST and now >= self._until:
            raise NoHealthyReplicaError(
                "it is replaced faster than it can be read",
                operation="download",
                key=reader.plan.key,
                hint="nothing is damaged: read it again when fewer writers replace it",
            ) from error
        return newer

    def _goes_on(self, current: str, newer: str) -> bool:
        """Count a version that was met before; any other shows that the object was replaced once more."""
        self._met.add(current)
        self._returns = self._returns + 1 if newer in self._met else 0
        return self._returns <= _RETURNS


def _content(reader: ObjectReader) -> str:
    return reader.manifest.sha256 if reader.manifest else ""
