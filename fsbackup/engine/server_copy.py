"""A version as the source of an upload under another key, whose bytes need not leave the service that has them.

Where a replica of the source and one of the target are in one bucket, the service copies (`ObjectStore.copier`);
all others get the bytes, from the nearest replica that proves them. Each replica copies for itself, and gets the
bytes when that fails: the result is that of an upload.

A rotten copy must not be copied without a word. A service tells of its bytes only their ETag, so the record has
the one of the right bytes (`content_etag`), and nothing is copied that the service does not know by it:

- An object of one part: it has that ETag when it is looked at; the copy is made of the object with that ETag and
  no other (``x-amz-copy-source-if-match``); and the copy has it, too. An ETag that is no MD5, as with SSE-KMS,
  differs.
- One of several parts is copied in the same parts, of which the service says the MD5 of each. The ETag that
  follows from these must be right before the upload is completed.

A record without `content_etag`, as of an object that no S3 service was among the first to get, proves nothing
here. A service that ignores conditions and copies what has replaced the source in between is found out by the
ETag of the copy: bytes take its place at once. Bytes that rot below an ETag, without the service's noticing, are
copied as they would be read; the blocks of the record show it, in the copy as in the source.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from fsbackup.engine import records
from fsbackup.engine.copy import ReplicaSource
from fsbackup.engine.download import ObjectReader
from fsbackup.engine.hashing import Digest
from fsbackup.engine.source import Copyable
from fsbackup.errors import FsbackupError, SourceError
from fsbackup.keys import encode_key
from fsbackup.record import Manifest
from fsbackup.stores.base import ObjectStore, Part


class CopySource(ReplicaSource):
    """One version, to be stored under another key as a version of its own, whatever is stored there.

    Parameters
    ----------
    reader, manifest
        The version.
    copyable
        By the name of a target's backend: the object that its service may copy.
    """

    def __init__(self, reader: ObjectReader, manifest: Manifest, copyable: dict[str, Copyable]) -> None:
        super().__init__(_from_disks_first(reader), manifest)
        self.copy_of = manifest
        self.copyable = copyable

    def known_sha256(self) -> str:
        return self._manifest.sha256

    async def hash_ahead(self) -> None:
        """Nothing: where it is stored already a copy is a new version all the same, as `mv` relies on."""

    def digest(self) -> Digest:
        known = self._manifest
        return Digest(known.size, known.sha256, known.block_size, tuple(known.blocks), known.block_hash)

    async def next_part(self, length: int, *, md5: bool) -> Part:
        part = await super().next_part(length, md5=md5)
        if part.last and self.sha256 != self._manifest.sha256:
            raise SourceError(
                f"{self.label}: every block matches its hash, but the whole does not match the SHA-256",
                key=self._manifest.key,
                hint="the manifest is wrong: upload the object again with overwrite",
            )
        return part


def _from_disks_first(reader: ObjectReader) -> ObjectReader:
    """Return a reader that reads from a bucket only what no disk has: only disks need the bytes."""
    plan = reader.plan
    disks = tuple(store for store in plan.stores if not store.capabilities.is_shared)
    others = tuple(store for store in plan.stores if store not in disks)
    if not disks or not others:
        return reader
    return replace(reader, plan=replace(plan, stores=disks, reserve=(others, *plan.reserve)))


async def find_copyable(
    origins: Sequence[ObjectStore], targets: Sequence[ObjectStore], manifest: Manifest, key: str
) -> dict[str, Copyable]:
    """Return by the name of a target what its service may copy to `key`: an intact copy of the version.

    One HEAD for each; what cannot be found out is not copied.
    """

    async def look(target: ObjectStore) -> Copyable | None:
        origin = next((each for each in origins if target.shares_place(each)), None)
        if origin is None or origin.address(encode_key(manifest.key)) == target.address(encode_key(key)):
            return None
        try:
            replica = await records.read_version(origin, manifest.key)
        except FsbackupError:
            return None
        is_ours = replica.holds(manifest) and replica.manifest is not None
        is_same_write = is_ours and replica.manifest.write_id == manifest.write_id  # type: ignore[union-attr]
        return Copyable(origin, replica.stat) if is_same_write and replica.stat is not None else None

    if manifest.content_etag is None:
        return {}
    found = await asyncio.gather(*map(look, targets))
    return {target.name: each for target, each in zip(targets, found, strict=True) if each is not None}
