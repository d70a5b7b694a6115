"""Restores the previous version on the replicas that stored a new one, where these are too few to confirm it.

Readers ignore a version that too few replicas have. But it has replaced a copy of the previous version, which
`repair` would restore only after a day. `undo` restores it at once where the store kept it
(`Capabilities.keeps_replaced`): a disk as a second name of the old file, B2 as the previous version.

First all replicas are asked again: a version that has been confirmed meanwhile stays. So does one that a replica
stored and no longer has: a prune removed it there because other replicas had it, and with it what it had replaced.
Then, on each replica that stored the new version, under the lock of the key:

1. Check that what the upload stored is still there, record and data, and that what it replaced has been kept.
2. Where manifests lie beside the data: a write intent (`intents.py`), then the old manifest. That is the upload's
   protocol in reverse (`replica_upload.py`), through the same states.
3. `ObjectWriter.rollback`: the old data, with the old manifest where that is inside.
4. Remove the write intent, or the manifest that was an object of its own.

A crash leaves the new version, unconfirmed, or the old one, each proven, and garbage that `repair` clears. Any
other failure leaves the same: the new version stays *unconfirmed*, as on a store that keeps nothing.

Two things are not undone. A new object replaced nothing: it hides no version, may be the only copy of its source's
content, and running the same upload again completes it. And another upload of the same content must not count a
copy that may be undone meanwhile: it sends its own (`may_be_undone`), which stays.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence

from fsbackup import clock
from fsbackup.engine import intents, locks, records, versions
from fsbackup.engine.records import ReplicaState
from fsbackup.engine.replica_upload import ReplicaUpload, has_version
from fsbackup.engine.replicas import ReplicaSet
from fsbackup.engine.survey import survey
from fsbackup.errors import FsbackupError
from fsbackup.record import Manifest

log = logging.getLogger("fsbackup.storage")

#: Seconds after which the upload that stored a version is no longer running.
_LONGEST_UPLOAD = 86_400.0


def may_be_undone(replica: ReplicaState, version: Manifest, replicas: Sequence[ReplicaState], needed: int) -> bool:
    """Return whether the upload that stored `version` on `replica` may still undo it.

    That is so for a replacement that fewer than `needed` of the `replicas` are known to have, within a day.
    """
    is_young = clock.now() - version.generation / 1000 < _LONGEST_UPLOAD
    can = replica.store.capabilities.keeps_replaced and version.replaces is not None
    return can and is_young and versions.copies(replicas, version) < needed


async def undo(
    targets: ReplicaSet, key: str, version: Manifest, sent: Sequence[ReplicaUpload], taken: Collection[str]
) -> list[ReplicaUpload]:
    """Restore what `version` replaced on the replicas named `taken`; return those that have it again.

    `sent` are all uploads of the version, also of replicas that did not confirm it.
    """
    if version.replaces is None or await _must_stay(targets, key, version, sent):
        return []
    uploads = [each for each in sent if each.store.name in taken]
    undone = await asyncio.gather(*(_undo_or_log(each, key, version) for each in uploads))
    return [each for each, done in zip(uploads, undone, strict=True) if done]


async def _must_stay(targets: ReplicaSet, key: str, version: Manifest, sent: Sequence[ReplicaUpload]) -> bool:
    """Return whether a version is confirmed, or was removed after it was stored: a prune then counted on it."""
    replicas = await survey(targets.stores, key)
    stored = {each.store.name for each in sent if each.stored is not None}
    removed = any(each.is_empty and each.backend in stored for each in replicas)
    return removed or sum(each.holds(version) for each in replicas) >= targets.min_copies


async def _undo_or_log(upload: ReplicaUpload, key: str, version: Manifest) -> bool:
    try:
        async with locks.exclusive(upload.store, key):
            if not await _can_undo(upload, key, version):
                return False
            await _put_back(upload, version)
    except FsbackupError as error:
        log.warning("%s: %s stays unconfirmed: %s", upload.store.name, key, error)
        return False
    return True


async def _can_undo(upload: ReplicaUpload, key: str, version: Manifest) -> bool:
    """Return whether the replica has exactly this write, and had an intact version before it to restore."""
    stored = upload.stored
    if stored is None or not upload.replica.is_intact:
        return False
    now = await upload.call(records.read_version(upload.store, key))
    is_ours = now.manifest is not None and now.manifest.write_id == version.write_id
    return is_ours and has_version(now, version, stored) and await upload.call(upload.writer.can_roll_back())


async def _put_back(upload: ReplicaUpload, version: Manifest) -> None:
    before = upload.replica.manifest
    assert before is not None
    if records.has_records_inside(upload.store):
        await upload.call(upload.writer.rollback())
        await upload.clear_record()
        return
    own = await upload.call(intents.announce(upload.store, version))
    await upload.call(records.write_record(upload.store, before))
    await upload.call(upload.writer.rollback())
    await upload.call(intents.withdraw(upload.store, own))
