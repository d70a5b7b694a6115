"""Which version of an object is the newest, and what a new upload of it has to do. Pure decisions."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from fsbackup import __version__
from fsbackup.manifest import Manifest, Origin, Record, order
from fsbackup.transfer.hashing import Digest
from fsbackup.transfer.source import Source


def newest(records: Iterable[Record | None]) -> Record | None:
    """Return the record of the newest version among those that are there."""
    return max((record for record in records if record is not None), key=order, default=None)


def contradicts(records: Iterable[Record | None], top: Record | None) -> bool:
    """Tell whether the newest generation has two contents, which only a person can decide between."""
    return isinstance(top, Manifest) and any(
        isinstance(record, Manifest) and record.generation == top.generation and record.sha256 != top.sha256
        for record in records
    )


@dataclass(frozen=True, slots=True)
class Succession:
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


def succession(top: Record | None) -> Succession:
    """Return the place of a version that comes after `top`."""
    if top is None:
        return Succession(1, None)
    return Succession(top.generation + 1, top.sha256 if isinstance(top, Manifest) else None)


def new_manifest(key: str, digest: Digest, source: Source, part_size: int, after: Succession) -> Manifest:
    """Return the manifest of a version that was just read."""
    mtime = None if source.mtime_ns is None else source.mtime_ns / 1e9
    return Manifest(
        key=key,
        size=digest.size,
        sha256=digest.sha256,
        block_size=digest.block_size,
        blocks=digest.blocks,
        generation=after.generation,
        replaces=after.replaces,
        created_at=now(),
        source=Origin(socket.gethostname(), mtime, source.mode),
        part_size=part_size,
        fsbackup_version=__version__,
    )


def now() -> str:
    """Return the time as manifests and tombstones carry it: ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
