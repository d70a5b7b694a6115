"""Content that a replica has already: whether it is what its manifest says, and a manifest for what has none."""

from __future__ import annotations

import logging

from fsbackup.engine import locks, records, versions
from fsbackup.engine.hashing import content_hash
from fsbackup.engine.records import ReplicaState
from fsbackup.engine.replica_upload import concurrent_write, has_version, write_manifest
from fsbackup.errors import FsbackupError
from fsbackup.keys import encode_key
from fsbackup.record import Manifest
from fsbackup.stores.base import ObjectStore

log = logging.getLogger("fsbackup.storage")


async def is_sound(replica: ReplicaState, manifest: Manifest) -> bool:
    """Return whether the data is what `manifest`, its own, says; read where no ETag shows a flipped bit."""
    store, key = replica.store, manifest.key
    if store.capabilities.content_etags != "none":
        return True
    try:
        return await _hash_of(store, key, manifest.size) == manifest.sha256
    except FsbackupError as error:
        log.warning("%s: %s is written again, because it cannot be read: %s", store.name, key, error)
        return False


async def adopt(replica: ReplicaState, manifest: Manifest) -> None:
    """Write the manifest of data that a crash left without one, if the data is this content.

    Raises
    ------
    ConflictError
        When it is other content, or another writer stores some at the same time.
    BackendError
        As the store raises it.
    """
    store, stat, key = replica.store, replica.stat, manifest.key
    assert stat is not None
    if stat.size != manifest.size or await _hash_of(store, key, stat.size) != manifest.sha256:
        raise versions.other_content(store.name, key)
    async with locks.exclusive(store, key):
        if records.has_records_inside(store):
            stat = await records.describe_data(store, stat, manifest)
        elif await write_manifest(replica, manifest, stat):
            return
        replica = await records.read_state(store, key)
        if not has_version(replica, manifest, stat):
            raise concurrent_write(replica, key)


async def _hash_of(store: ObjectStore, key: str, size: int) -> str:
    """Return the SHA-256 of the first `size` bytes of the data that `store` has."""
    name = encode_key(key)
    return await content_hash(lambda offset, length: store.read(name, offset, offset + length), size)
