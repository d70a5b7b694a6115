"""A copy of the identity key on every backend, encrypted to the recipients of what is stored there.

A new host, or one that lost its key, gets it back from whoever can decrypt the backups. The copy is written after
the first upload with a key and its recipients that a backend confirmed; a list beside the key's file says where it
is, so that this costs a request once and not with each upload. Losing the list costs a request, too. A copy that
cannot be written is logged, and tried again by the next upload.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from fsbackup.errors import FsbackupError
from fsbackup.stages import Stages
from fsbackup.stores.base import ObjectStore

#: Names of copies: the key's fingerprint, and that of the recipients.
KEYS = ".fsbackup/keys/"

log = logging.getLogger("fsbackup.storage")


async def keep(stores: Iterable[ObjectStore], stages: Stages) -> None:
    """Write the copy of the identity key to those stores that have none of it."""
    if stages.key is not None:
        await asyncio.gather(*(_keep(store, stages) for store in stores))


async def _keep(store: ObjectStore, stages: Stages) -> None:
    assert stages.key is not None
    name = f"{KEYS}{stages.key.fingerprint}-{stages.recipients_fingerprint}.age"
    place = f"{name} {store.location}"
    if not stages.key.copies.claim(place):
        return
    try:
        await store.put(name, await asyncio.to_thread(stages.sealed_key))
    except FsbackupError as error:
        log.warning("%s: no copy of the identity key, the next upload tries again: %s", store.name, error.reason)
        stages.key.copies.give_up(place)
    else:
        await asyncio.to_thread(stages.key.copies.note, place)
