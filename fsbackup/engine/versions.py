"""Which version of an object is the newest, what comes after it, and whether a version is still current.

The decisions are pure functions of records; only `VersionGuard` reads from stores.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from fsbackup import __version__
from fsbackup.engine import records
from fsbackup.engine.hashing import Digest
from fsbackup.engine.source import Source
from fsbackup.errors import ConflictError
from fsbackup.record import Manifest, Origin, Record, Tombstone, version_order
from fsbackup.stores.base import ObjectStore


def newest(known: Iterable[Record | None]) -> Record | None:
    """Return the record of the newest version, None when there is no record."""
    return max((record for record in known if record is not None), key=version_order, default=None)


def is_conflict(known: Iterable[Record | None], latest: Record | None) -> bool:
    """Return whether the generation of `latest` has two contents; only a person can decide between them."""
    return isinstance(latest, Manifest) and any(
        isinstance(record, Manifest) and record.generation == latest.generation and record.sha256 != latest.sha256
        for record in known
    )


@dataclass(frozen=True, slots=True)
class NextVersion:
    """What the manifest of a new version says about its order.

    Parameters
    ----------
    generation
        The generation of the new version.
    replaces
        SHA-256 of the version before, None when there was none.
    write_id
        Identifies the write on every replica.
    """

    generation: int
    replaces: str | None
    write_id: str


def next_version(latest: Record | None) -> NextVersion:
    """Return generation and predecessor of the version that comes after `latest`.

    What is made anew outranks all that it ever was, because a generation starts from the clock: also against a
    disk that comes back from a snapshot, or with versions from before a delete that no tombstone shows any more.
    """
    now = time.time_ns() // 1_000_000
    generation = now if latest is None else max(now, latest.generation + 1)
    replaces = latest.sha256 if isinstance(latest, Manifest) else None
    return NextVersion(generation, replaces, records.new_id())


def origin(source: Source) -> Origin:
    """Return what a manifest says of the source of an upload."""
    return Origin(socket.gethostname(), source.mtime_ns, source.mode)


def new_manifest(key: str, digest: Digest, source: Origin, part_size: int, version: NextVersion) -> Manifest:
    """Return the manifest of a new version whose source was read to its end."""
    return Manifest(
        key=key,
        size=digest.size,
        sha256=digest.sha256,
        block_size=digest.block_size,
        blocks=digest.blocks,
        generation=version.generation,
        replaces=version.replaces,
        created_at=utc_now(),
        source=source,
        part_size=part_size,
        fsbackup_version=__version__,
        write_id=version.write_id,
    )


def utc_now() -> str:
    """Return the current time in the format of records: ISO 8601, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


Currency = Literal["newest", "replaced", "deleted"]


@dataclass(frozen=True, slots=True)
class VersionGuard:
    """Checks, before a repair writes a version to a replica, that the version is still the newest.

    Parameters
    ----------
    stores
        The stores that answered when the repair was planned; their records are read again at each check.
    manifest
        The version.
    holders
        Names of the stores that had its manifest then.
    """

    stores: Sequence[ObjectStore]
    manifest: Manifest
    holders: frozenset[str]

    async def currency(self, own: str) -> Currency:
        """Return whether the version is the newest, replaced or deleted, by the records of the stores now.

        A delete that every store has confirmed leaves no tombstone. So a version counts as deleted, too, when
        holders other than the store named `own` answer and none of them has its manifest any more. A store that
        does not answer counts for nothing.
        """
        key = self.manifest.key
        replicas = await asyncio.gather(*(records.query(each, key, with_data=False) for each in self.stores))
        known = [self.manifest, *(replica.record for replica in replicas)]
        latest = newest(known)
        assert latest is not None
        if version_order(latest) > version_order(self.manifest):
            return "deleted" if isinstance(latest, Tombstone) else "replaced"
        if is_conflict(known, latest):
            return "replaced"
        holders = [each for each in replicas if each.store.name in self.holders - {own} and each.error is None]
        if not holders or any(each.damaged or each.claims(self.manifest) for each in holders):
            return "newest"
        return "deleted"

    async def require(self, store: ObjectStore) -> None:
        """Raise unless the version is still the newest, before it is written to `store`.

        Raises
        ------
        ConflictError
            When it was replaced or deleted.
        """
        currency = await self.currency(store.name)
        if currency != "newest":
            raise superseded(store, self.manifest.key, currency)


def superseded(store: ObjectStore, key: str, currency: str) -> ConflictError:
    """Return the error for a repair whose version was ``"replaced"`` or ``"deleted"`` by another writer."""
    kept = "the newer version was kept" if currency == "replaced" else "the delete was kept"
    return ConflictError(
        f"{currency} by another writer during the repair; {kept}",
        backend=store.name,
        operation="repair",
        key=key,
        hint="run repair again when the other writer has finished",
    )
