"""Records as JSON: the manifest of an object's version, and the tombstone of a deleted object. No I/O.

A record has a checksum over itself, so that a damaged one is recognised.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from fsbackup.errors import IntegrityError

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Origin:
    """The source of an object: host, and the file's mtime (epoch seconds) and mode bits (None for a stream)."""

    host: str
    mtime: float | None = None
    mode: int | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """The description of one version of one object.

    Parameters
    ----------
    key
        The object's key.
    size
        Bytes.
    sha256
        Of the whole object, lower-case hex.
    block_size, blocks
        Bytes per block (the last may be shorter) and each block's SHA-256, lower-case hex.
    generation
        Counts the versions of this key from 1; a replacement has a higher one, whatever the clocks say.
    replaces
        SHA-256 of the version before, None for the first.
    created_at
        When the manifest was made, ISO 8601 in UTC.
    source
        The file or stream that was backed up.
    part_size
        Bytes per multipart part, the same on every replica.
    fsbackup_version
        The version of fsbackup that wrote it.
    etag, version_id
        Those of the data object on this manifest's own replica; None where the service has none.
    """

    key: str
    size: int
    sha256: str
    block_size: int
    blocks: Sequence[str]
    generation: int
    replaces: str | None
    created_at: str
    source: Origin
    part_size: int
    fsbackup_version: str
    etag: str | None = None
    version_id: str | None = None

    @property
    def created_timestamp(self) -> float | None:
        """`created_at` in epoch seconds; None when it is not a date, which only other software writes."""
        try:
            return datetime.fromisoformat(self.created_at).timestamp()
        except (TypeError, ValueError, OverflowError):
            return None

    def for_replica(self, etag: str | None, version_id: str | None) -> Manifest:
        """Return this manifest as the replica with this ETag and version ID stores it."""
        return replace(self, etag=etag, version_id=version_id)


@dataclass(frozen=True, slots=True)
class Tombstone:
    """A delete that not every replica has confirmed: the generation deleted, and when (ISO 8601 in UTC)."""

    key: str
    generation: int
    deleted_at: str


Record = Manifest | Tombstone


def version_order(record: Record) -> tuple[int, bool]:
    """Return the sort key of versions: by generation, a tombstone after the manifest of the version it deletes."""
    return record.generation, isinstance(record, Tombstone)


def dump(record: Record) -> bytes:
    """Return `record` as the JSON bytes that a backend stores."""
    fields = {"format": FORMAT, "kind": type(record).__name__.lower(), **_plain(record)}
    return json.dumps({**fields, "checksum": _checksum(fields)}, ensure_ascii=True).encode()


def _plain(record: Record | Origin) -> dict[str, Any]:
    """Return the fields by name; `dataclasses.asdict` would copy every block's hash one by one."""
    fields = {each: getattr(record, each) for each in type(record).__slots__}
    return {**fields, "source": _plain(fields["source"])} if "source" in fields else fields


def load(data: bytes) -> Record:
    """Return the record in `data`.

    Raises
    ------
    IntegrityError
        When it is damaged, or has a newer format than this version reads.
    """
    try:
        fields = json.loads(data)
        checksum = fields.pop("checksum")
        if checksum != _checksum(fields):
            raise IntegrityError("the manifest is damaged: its checksum does not match")
        if fields.pop("format") != FORMAT:
            raise IntegrityError("the manifest has a newer format", hint="upgrade fsbackup")
        return _build(fields.pop("kind"), fields)
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise IntegrityError(f"the manifest cannot be read: {type(error).__name__}") from error


def _build(kind: str, fields: dict[str, Any]) -> Record:
    if kind == "tombstone":
        return Tombstone(**fields)
    source, blocks = Origin(**fields.pop("source")), tuple(fields.pop("blocks"))
    manifest = Manifest(source=source, blocks=blocks, **fields)
    if len(blocks) != -(-manifest.size // manifest.block_size):
        raise IntegrityError("the manifest is damaged: its block hashes do not fit its size")
    return manifest


def _checksum(fields: Mapping[str, Any]) -> str:
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()
