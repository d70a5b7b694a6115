"""Whether a version is still the one to have, asked again right before and after it is written somewhere.

Bringing a copy up to date must neither put an old version over a newer one, nor bring a deleted object back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fsbackup.errors import ConflictError
from fsbackup.manifest import Manifest, Tombstone, order
from fsbackup.objects import ObjectStore
from fsbackup.transfer import records, versions

Standing = Literal["newest", "replaced", "deleted"]


@dataclass(frozen=True, slots=True)
class Guard:
    """Asks how a version stands.

    Parameters
    ----------
    stores
        To ask: those that answered when it was decided to write the version.
    manifest
        The version.
    holders
        Names of the stores that had its manifest then.
    """

    stores: Sequence[ObjectStore]
    manifest: Manifest
    holders: frozenset[str]

    async def standing(self, own: str) -> Standing:
        """Return whether the version is still the newest; for a delete, the stores other than `own` count.

        A delete that every store has confirmed leaves no tombstone: a version of which no holder knows any more,
        though they answer, was deleted. A store that does not answer now says nothing.
        """
        key = self.manifest.key
        findings = await asyncio.gather(*(records.find(each, key, with_stat=False) for each in self.stores))
        known = [self.manifest, *(finding.record for finding in findings)]
        top = versions.newest(known)
        assert top is not None
        if order(top) > order(self.manifest):
            return "deleted" if isinstance(top, Tombstone) else "replaced"
        if versions.contradicts(known, top):
            return "replaced"
        others = [f for f in findings if f.store.name in self.holders - {own} and f.error is None]
        kept = any(f.damaged or (f.manifest and f.manifest.sha256 == self.manifest.sha256) for f in others)
        return "newest" if kept or not others else "deleted"

    async def require(self, store: ObjectStore) -> None:
        """Refuse to go on writing to `store` unless the version is still the newest.

        Raises
        ------
        ConflictError
            When it is not.
        """
        standing = await self.standing(store.name)
        if standing != "newest":
            raise overtaken(store, self.manifest.key, standing)


def overtaken(store: ObjectStore, key: str, standing: str) -> ConflictError:
    """Return the error for a repair that somebody else overtook."""
    return ConflictError(
        f"it was {standing} meanwhile by somebody else, whose version counts",
        backend=store.name,
        operation="repair",
        key=key,
        hint="repair again when the others are done",
    )
