"""Which version of an object is the newest, and what a new upload of it has to do. Pure decisions."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from fsbackup import __version__
from fsbackup.engine import records, versions
from fsbackup.engine.hashing import Digest
from fsbackup.engine.source import Source
from fsbackup.errors import ConflictError
from fsbackup.record import Manifest, Origin, Record, Tombstone, version_order
from fsbackup.stores.base import ObjectStore


def newest(records: Iterable[Record | None]) -> Record | None:
    """Return the record of the newest version among those that are there."""
    return max((record for record in records if record is not None), key=version_order, default=None)


def is_conflict(records: Iterable[Record | None], top: Record | None) -> bool:
    """Tell whether the newest generation has two contents, which only a person can decide between."""
    return isinstance(top, Manifest) and any(
        isinstance(record, Manifest) and record.generation == top.generation and record.sha256 != top.sha256
        for record in records
    )


@dataclass(frozen=True, slots=True)
class NextVersion:
    """The place of a new version after what is there.

    Parameters
    ----------
    generation
        Of the new version.
    replaces
        SHA-256 of the version before, None when there was none.
    """

    generation: int
    replaces: str | None


def next_version(top: Record | None) -> NextVersion:
    """Return the place of a version that comes after `top`."""
    if top is None:
        return NextVersion(1, None)
    return NextVersion(top.generation + 1, top.sha256 if isinstance(top, Manifest) else None)


def origin(source: Source) -> Origin:
    """Return what a manifest says of the source of an upload."""
    mtime = None if source.mtime_ns is None else source.mtime_ns / 1e9
    return Origin(socket.gethostname(), mtime, source.mode)


def new_manifest(key: str, digest: Digest, source: Origin, part_size: int, after: NextVersion) -> Manifest:
    """Return the manifest of a version that was just read."""
    return Manifest(
        key=key,
        size=digest.size,
        sha256=digest.sha256,
        block_size=digest.block_size,
        blocks=digest.blocks,
        generation=after.generation,
        replaces=after.replaces,
        created_at=utc_now(),
        source=source,
        part_size=part_size,
        fsbackup_version=__version__,
    )


def utc_now() -> str:
    """Return the time as manifests and tombstones carry it: ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


Currency = Literal["newest", "replaced", "deleted"]


@dataclass(frozen=True, slots=True)
class VersionGuard:
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

    async def currency(self, own: str) -> Currency:
        """Return whether the version is still the newest; for a delete, the stores other than `own` count.

        A delete that every store has confirmed leaves no tombstone: a version of which no holder knows any more,
        though they answer, was deleted. A store that does not answer now says nothing.
        """
        key = self.manifest.key
        findings = await asyncio.gather(*(records.query(each, key, with_data=False) for each in self.stores))
        known = [self.manifest, *(finding.record for finding in findings)]
        top = versions.newest(known)
        assert top is not None
        if version_order(top) > version_order(self.manifest):
            return "deleted" if isinstance(top, Tombstone) else "replaced"
        if versions.is_conflict(known, top):
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
        standing = await self.currency(store.name)
        if standing != "newest":
            raise superseded(store, self.manifest.key, standing)


def superseded(store: ObjectStore, key: str, standing: str) -> ConflictError:
    """Return the error for a repair that somebody else overtook."""
    return ConflictError(
        f"it was {standing} meanwhile by somebody else, whose version counts",
        backend=store.name,
        operation="repair",
        key=key,
        hint="repair again when the others are done",
    )
