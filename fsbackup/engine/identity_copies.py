"""A copy of the identity key on every backend, encrypted to the recipients of what is stored there.

A new host, or one that lost its key, gets it back with the help of any recipient. The copy is written after
the first upload with a key and its recipients that a backend confirmed; a list beside the key's file says where it
is, so that this costs a request once and not with each upload. Losing the list costs a request, too. A copy that
cannot be written is logged, and tried again by the next upload. A lost one is put back by repair, from another
backend.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence

from fsbackup.errors import FsbackupError, IntegrityError
from fsbackup.stages import Stages
from fsbackup.stores.base import ObjectStore

#: Names of copies: the key's fingerprint, and that of the recipients.
KEYS = ".fsbackup/keys/"

#: What each file begins with that age made.
_BEGIN = b"age-encryption.org/v1\n"

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


async def survey(
    stores: Sequence[ObjectStore],
) -> tuple[dict[ObjectStore, list[str]], Mapping[str, FsbackupError]]:
    """Return the names of the copies that each store has, and why others cannot be listed, by their names."""
    listed: dict[ObjectStore, list[str]] = {}
    errors: dict[str, FsbackupError] = {}

    async def look(store: ObjectStore) -> None:
        try:
            listed[store] = [each.name async for each in store.list(KEYS)]
        except FsbackupError as error:
            errors[store.name] = error

    await asyncio.gather(*map(look, stores))
    return listed, errors


async def refill(name: str, having: Sequence[ObjectStore], store: ObjectStore) -> int:
    """Write a copy that others have to a store that lacks it; return its size in bytes.

    Only a recipient can tell whether it is right; it is checked that age made it.

    Raises
    ------
    FsbackupError
        When it cannot be written, or none of `having` gives one.
    """
    for source in having:
        data = await source.read(name)
        if data.startswith(_BEGIN):
            await store.put(name, data)
            return len(data)
    raise IntegrityError("it is not what age makes", backend=having[0].name, key=name)
