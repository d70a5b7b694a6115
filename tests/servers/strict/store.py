"""Buckets in memory, with every version of every key."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime

from tests.servers.strict.messages import S3Error


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Version:
    """One version of a key as it was sent; without data it is a delete (hide) marker."""

    key: str
    data: bytes | None
    etag: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    content_type: str = "binary/octet-stream"
    version_id: str = field(default_factory=lambda: f"4_z{secrets.token_hex(12)}_f{secrets.token_hex(8)}_u01")
    modified: datetime = field(default_factory=_now)

    @property
    def size(self) -> int:
        """How many bytes it stores."""
        return len(self.data or b"")


@dataclass(frozen=True)
class Part:
    """One uploaded part."""

    data: bytes
    etag: str
    modified: datetime = field(default_factory=_now)


@dataclass
class Upload:
    """A multipart upload that goes on."""

    key: str
    metadata: dict[str, str]
    content_type: str
    upload_id: str = field(default_factory=lambda: secrets.token_hex(32))
    parts: dict[int, Part] = field(default_factory=dict)
    started: datetime = field(default_factory=_now)


@dataclass
class Bucket:
    """The versions of each key, oldest first, the unfinished uploads, and when each key was written."""

    versions: dict[str, list[Version]] = field(default_factory=dict)
    uploads: dict[str, Upload] = field(default_factory=dict)
    written_at: dict[str, float] = field(default_factory=dict)

    def current(self, key: str) -> Version | None:
        """Return the version that a plain GET sees."""
        newest = self.versions.get(key, [None])[-1]
        return newest if newest and newest.data is not None else None

    def find(self, key: str, version_id: str) -> Version:
        """Return one version or marker by its id."""
        for version in self.versions.get(key, []):
            if version.version_id == version_id:
                return version
        raise S3Error(404, "NoSuchVersion", "The specified version does not exist.")

    def add(self, key: str, version: Version, *, keep_older: bool) -> None:
        """Make a version the current one."""
        older = self.versions.get(key, []) if keep_older else []
        self.versions[key] = [*older, version]

    def remove(self, key: str, version_id: str) -> Version | None:
        """Delete one version for good and return it."""
        kept = [one for one in self.versions.get(key, []) if one.version_id != version_id]
        gone = [one for one in self.versions.pop(key, []) if one not in kept]
        if kept:
            self.versions[key] = kept
        return gone[0] if gone else None

    def upload(self, upload_id: str, key: str) -> Upload:
        """Return an unfinished upload."""
        found = self.uploads.get(upload_id)
        if not found or found.key != key:
            raise S3Error(404, "NoSuchUpload", "The specified multipart upload does not exist.")
        return found

    @property
    def bytes_stored(self) -> int:
        """What is billed: all versions, also the hidden ones, and the parts of unfinished uploads."""
        versions = sum(version.size for kept in self.versions.values() for version in kept)
        parts = (part for upload in self.uploads.values() for part in upload.parts.values())
        return versions + sum(len(part.data) for part in parts)
