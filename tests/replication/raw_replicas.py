"""The independent eye: what a backend really holds, and whether it can be proven, without the library.

What a manifest looks like is written down here a second time, from its documentation.

A bucket has an object's manifest in the object's own metadata. Here it is shown, and can be put and dropped, under
the name it has on a disk, so that a test says the same of every kind of replica.
"""

from __future__ import annotations

import base64
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3
from botocore.exceptions import ClientError
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_fixed

from tests.servers import s3

MANIFESTS = ".fsbackup/manifests/"
TOMBSTONES = ".fsbackup/tombstones/"
PENDING = ".fsbackup/pending/"
RECORDS = ".fsbackup/records/"
#: The empty file by which processes lock keys on a disk; it stays.
LOCK = ".fsbackup/lock"
#: The marker of a backend, and what a complete one may look like.
MARKER = ".fsbackup/backend"


def mark(number: int = 0) -> bytes:
    """Return a marker; each number gives another one."""
    fields = {"format": 1, "kind": "backend", "id": f"{number:032x}", "created_at": "2025-10-05T12:00:00+00:00"}
    return json.dumps(fields).encode()


def _is_busy(error: BaseException) -> bool:
    codes = ("ServiceUnavailable", "TooManyRequests")
    return isinstance(error, ClientError) and error.response["Error"]["Code"] in codes


#: B2 has clients ask again at once now and then, and R2 takes one write per second and key.
_AGAIN = Retrying(
    retry=retry_if_exception(_is_busy), wait=wait_fixed(0.3), stop=stop_after_attempt(10), reraise=True
)


class Records(ABC):
    """Reads our records among what is stored."""

    @abstractmethod
    def get(self, name: str) -> bytes | None:
        """Return what is stored under a name."""

    def manifest(self, key: str) -> dict[str, Any] | None:
        """Return the manifest of a key as parsed JSON."""
        return _json(self.get(f"{MANIFESTS}{key}"))

    @abstractmethod
    def names(self) -> set[str]:
        """Return all names."""

    def names_below(self, prefix: str) -> list[str]:
        """Return the names of objects that begin with a prefix."""
        return [name for name in self.names() if name.startswith(prefix)]

    def tombstone(self, key: str) -> dict[str, Any] | None:
        """Return the tombstone of a key as parsed JSON."""
        return _json(self.get(f"{TOMBSTONES}{key}"))

    def is_deleted(self, key: str) -> bool:
        """Tell whether there is a tombstone that no manifest outranks."""
        deleted = self.tombstone(key)
        if deleted is None:
            return False
        record = self.manifest(key)
        return record is None or bool(record["generation"] <= deleted["generation"])

    def announced(self, key: str) -> list[dict[str, Any]]:
        """Return the announced replacements of a key as parsed JSON."""
        found = [_json(self.get(name)) for name in self.names_below(pending_prefix(key))]
        return [each for each in found if each is not None]

    def provable(self, key: str) -> bytes | None:
        """Return the content of `key` when one of its records proves it, None when it is absent or deleted.

        This is what a person does after a crash with nothing but a copy tool and `sha256sum`.
        """
        record, data = self.manifest(key), self.get(key)
        if data is None or self.is_deleted(key):
            return None
        records = [each for each in (record, *self.announced(key)) if each is not None]
        assert not records or any(proves(each, data) for each in records), f"no record of {key!r} fits its data"
        return data


class RawReplica(Records):
    """Looks at one backend's raw content."""

    @abstractmethod
    def put(self, name: str, data: bytes) -> None:
        """Store something behind the library's back."""

    def rot(self, name: str, data: bytes) -> None:
        """Change the bytes of an object and nothing else."""
        self.put(name, data)

    @abstractmethod
    def drop(self, name: str) -> None:
        """Remove something behind the library's back."""

    @abstractmethod
    def names(self) -> set[str]:
        """Return every name there is, our own records and temp files too, without the marker."""

    def everything(self) -> dict[str, bytes]:
        """Return all that is stored, by name."""
        found = {name: self.get(name) for name in self.names()}
        return {name: data for name, data in found.items() if data is not None}

    def unfinished(self) -> list[str]:
        """Return the keys of unfinished multipart uploads."""
        return []

    def etag(self, name: str) -> str | None:  # noqa: ARG002 - a disk has none
        """Return the ETag of what is stored, where there is such a thing."""
        return None

    def set_manifest(self, key: str, fields: dict[str, Any]) -> None:
        """Store a manifest, with the checksum that fits it."""
        self.put(manifest_name(key), json.dumps(sealed(fields)).encode())

    def set_tombstone(self, key: str, **fields: Any) -> None:
        """Store a tombstone, with the checksum that fits it."""
        deleted = {"format": 1, "kind": "tombstone", "key": key, "deleted_at": "2026-01-01T00:00:00+00:00"}
        self.put(tombstone_name(key), json.dumps(sealed({**deleted, **fields})).encode())


@dataclass(frozen=True)
class RawDisk(RawReplica):
    """Looks at a directory."""

    base: Path

    def get(self, name: str) -> bytes | None:
        path = self.base / name
        return path.read_bytes() if path.is_file() else None

    def put(self, name: str, data: bytes) -> None:
        path = self.base / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def drop(self, name: str) -> None:
        (self.base / name).unlink()

    def names(self) -> set[str]:
        found = {str(path.relative_to(self.base)) for path in self.base.rglob("*") if not path.is_dir()}
        return found - {LOCK, MARKER}


@dataclass(frozen=True)
class RawBucket(RawReplica):
    """Looks at the part of a bucket below a prefix, with boto3."""

    endpoint: s3.S3Endpoint
    prefix: str

    def get(self, name: str) -> bytes | None:
        stored = self._stored(name)
        return self._inside(name) if stored is None else stored

    def put(self, name: str, data: bytes) -> None:
        """Store something; as by any other program, an object loses its metadata, and so its manifest."""
        key = name.removeprefix(MANIFESTS)
        is_inside = name.startswith(MANIFESTS) and self._head(name) is None
        if is_inside and self._head(key):
            self._put_inside(key, data)
        else:
            self._drop_record(name)
            _AGAIN(s3.put_bytes, self.endpoint, self.prefix + name, data)

    def rot(self, name: str, data: bytes) -> None:
        there = self._head(name)
        assert there is not None, name
        _AGAIN(s3.put_bytes, self.endpoint, self.prefix + name, data, Metadata=there.metadata)

    def drop(self, name: str) -> None:
        key = name.removeprefix(MANIFESTS)
        if name.startswith(MANIFESTS) and self._head(name) is None:
            if self._head(key):
                self._set_metadata(key, None)
        else:
            self._drop_record(name)
            _AGAIN(s3.delete_key, self.endpoint, self.prefix + name)

    def _drop_record(self, key: str) -> None:
        """Remove the manifest of an object where it is one of its own: who changes the one takes the other."""
        if key.startswith(".fsbackup/"):
            return
        place = self._manifest_of(key)[1]
        if place is not None:
            _AGAIN(s3.delete_key, self.endpoint, self.prefix + place)

    def names(self) -> set[str]:
        found = {key.removeprefix(self.prefix) for key in s3.list_keys(self.endpoint, self.prefix)}
        for name in [each for each in found if not each.startswith(".fsbackup/")]:
            manifest, place = self._manifest_of(name)
            found |= set() if manifest is None else {manifest_name(name)}
            found -= {place}
        return found - {MARKER}

    def names_below(self, prefix: str) -> list[str]:
        return [key.removeprefix(self.prefix) for key in s3.list_keys(self.endpoint, self.prefix + prefix)]

    def everything(self) -> dict[str, bytes]:
        keys = s3.list_keys(self.endpoint, self.prefix)
        stored = {key.removeprefix(self.prefix): s3.read_bytes(self.endpoint, key) for key in keys}
        stored.pop(MARKER, None)
        found = dict(stored)
        for name in stored:
            if name.startswith(".fsbackup/"):
                continue
            manifest, place = self._manifest_of(name)
            if manifest is not None:
                found.setdefault(manifest_name(name), manifest)
            if place is not None:
                found.pop(place, None)
        return found

    def _head(self, name: str) -> s3.Head | None:
        return s3.head(self.endpoint, self.prefix + name)

    def _stored(self, name: str) -> bytes | None:
        try:
            return s3.read_bytes(self.endpoint, self.prefix + name)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                return None
            raise

    def _inside(self, name: str) -> bytes | None:
        return self._manifest_of(name.removeprefix(MANIFESTS))[0] if name.startswith(MANIFESTS) else None

    def _manifest_of(self, key: str) -> tuple[bytes | None, str | None]:
        """Return the manifest of an object, and the name of the object that has it if its metadata has not."""
        head = self._head(key)
        text = head.metadata.get("fsbackup") if head else None
        if text is None or text.startswith("{"):
            return (None if text is None else text.encode()), None
        place = f"{RECORDS}{key}/{text}"
        return self._stored(place), place

    def _put_inside(self, key: str, data: bytes) -> None:
        place = self._manifest_of(key)[1]
        if place is None:
            self._set_metadata(key, data.decode("ascii", "replace").replace("\ufffd", "!") or "!")
        else:
            _AGAIN(s3.put_bytes, self.endpoint, self.prefix + place, data)

    def _set_metadata(self, key: str, manifest: str | None) -> None:
        head = self._head(key)
        assert head is not None, key
        if manifest is None:
            self._drop_record(key)
        others = {name: value for name, value in head.metadata.items() if name != "fsbackup"}
        metadata = others if manifest is None else {**others, "fsbackup": manifest}
        _AGAIN(s3.replace_metadata, self.endpoint, self.prefix + key, metadata)

    def unfinished(self) -> list[str]:
        return [each.key for each in s3.list_uploads(self.endpoint) if each.key.startswith(self.prefix)]

    def etag(self, name: str) -> str | None:
        head = s3.head(self.endpoint, self.prefix + name)
        return head.etag if head else None


def manifest_name(key: str) -> str:
    """Return where the manifest of a (plain) key is."""
    return f"{MANIFESTS}{key}"


def tombstone_name(key: str) -> str:
    """Return where the tombstone of a (plain) key is."""
    return f"{TOMBSTONES}{key}"


def pending_prefix(key: str) -> str:
    """Return how the names of the announcements of a (plain) key begin."""
    return f"{PENDING}{hashlib.sha256(key.encode()).hexdigest()[:32]}-"


def pending_name(key: str, number: int = 0) -> str:
    """Return where an announcement of a (plain) key may be; each number is another writer."""
    return f"{pending_prefix(key)}{number:032x}"


def proves(record: dict[str, Any], data: bytes) -> bool:
    """Tell whether a record is undamaged and speaks of exactly these bytes, whole and block by block."""
    whole = record["size"] == len(data) and record["sha256"] == hashlib.sha256(data).hexdigest()
    hashes = blocks(data, record["block_size"], record.get("block_hash", "sha256"))
    return whole and record["blocks"] == hashes and sealed(record) == record


def blocks(data: bytes, size: int, name: str = "sha256") -> str:
    """Return the hash of every block, one after the other, in Base64."""
    new: Callable[[bytes], Any] = blake3 if name == "blake3" else hashlib.sha256
    hashes = [new(data[at : at + size]).digest() for at in range(0, len(data), size)]
    return base64.b64encode(b"".join(hashes)).decode()


def sealed(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record with the checksum that it must have."""
    fields = {name: value for name, value in record.items() if name != "checksum"}
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return {**fields, "checksum": hashlib.sha256(text.encode()).hexdigest()}


def _json(data: bytes | None) -> dict[str, Any] | None:
    found: dict[str, Any] | None = None if data is None else json.loads(data)
    return found
