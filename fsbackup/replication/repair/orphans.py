"""What repair finds by listing alone: write intents, and what unfinished writes left."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from fsbackup import clock
from fsbackup.engine import repairs
from fsbackup.engine.record_objects import is_newer
from fsbackup.engine.records import find_key, has_records_inside, read_state
from fsbackup.errors import (
    AccessDeniedError,
    FsbackupError,
    IntegrityError,
    LockedError,
    NewerFormatError,
    ObjectNotFoundError,
)
from fsbackup.keys import (
    INTENTS,
    RECORDS,
    TOMBSTONES,
    encode_key,
    in_prefix,
    intents_of,
    parse_record_name,
    tombstone_key,
)
from fsbackup.record import load
from fsbackup.replication.batches import Announced
from fsbackup.replication.repair.report import Action, OnStep, Step
from fsbackup.replication.walk import Unreachable
from fsbackup.stores.base import RECORD_FIELD, ObjectStore, Orphan

log = logging.getLogger("fsbackup.storage")

#: Records that are looked at a second time together, after one look at the uploads.
_AT_ONCE = 1000


async def list_intents(
    stores: Sequence[ObjectStore], prefix: str, unreachable: Unreachable
) -> tuple[dict[str, Announced], Unreachable]:
    """Return the write intents by how their names begin (`intents_of`), and the replicas that cannot be listed.

    Those of keys that are known not to be at or below `prefix` are left out. Replicas in `unreachable` are not
    asked, and are returned too.
    """
    found: dict[str, Announced] = {}
    errors = dict(unreachable)

    async def list_one(store: ObjectStore) -> None:
        try:
            async for stat in store.list(INTENTS):
                key = await _announced_key(store, stat.name)
                if key is None or in_prefix(key, prefix):
                    start = f"{stat.name.partition('-')[0]}-"
                    before = found.get(start, Announced())
                    found[start] = Announced(before.key or key, before.stores | {store.name})
        except FsbackupError as error:
            errors[store.name] = error

    asked = [each for each in stores if each.name not in unreachable and not has_records_inside(each)]
    await asyncio.gather(*(list_one(store) for store in asked))
    return found, errors


async def _announced_key(store: ObjectStore, name: str) -> str | None:
    """Return the key of a write intent, None for one that cannot be read."""
    try:
        key = load(await store.read(name)).key
    except (IntegrityError, NewerFormatError, ObjectNotFoundError):
        return None
    return key if name.startswith(intents_of(key)) else None


async def clear_orphans(
    stores: Sequence[ObjectStore], older_than: float, on_step: OnStep, *, dry_run: bool
) -> Unreachable:
    """Remove all that fsbackup's own unfinished writes left, and return the replicas that cannot be listed.

    Orphans younger than `older_than` seconds stay. Credentials that suffice for all else may not be allowed to
    list uploads: what these left stays then, which is logged.
    """
    errors: dict[str, FsbackupError] = {}

    async def clear(store: ObjectStore) -> None:
        async def remove(orphan: Orphan) -> None:
            await store.remove(orphan.name)

        before = clock.now() - older_than
        found: list[tuple[AsyncIterator[Orphan], Callable[[Orphan], Awaitable[None]]]] = [
            (_unused_tombstones(store), remove),
            (_unreadable_intents(store, before), remove),
            (_abandoned_marks(store, before), remove),
            (store.orphans(older_than), store.delete_orphan),
        ]
        if not store.capabilities.locks:  # a disk has none
            found.append((_unused_manifests(store, before), remove))
        try:
            for orphans, how in found:
                async for orphan in orphans:
                    if (step := await _clear_one(store, orphan, how, dry_run=dry_run)) is not None:
                        on_step(step)
        except AccessDeniedError as error:
            log.warning("%s: what unfinished writes left there stays: %s", store.name, error)
        except FsbackupError as error:
            errors[store.name] = error

    await asyncio.gather(*(clear(store) for store in stores))
    return errors


async def _unused_tombstones(store: ObjectStore) -> AsyncIterator[Orphan]:
    """Yield the tombstones of objects of which a newer version is stored."""
    async for stat in store.list(TOMBSTONES):
        key = tombstone_key(stat.name)
        if key is None:
            continue
        try:
            replica = await read_state(store, await find_key([store], key))
        except NewerFormatError:
            continue
        if replica.tombstone is not None and replica.manifest is not None:
            yield Orphan(stat.name, stat.modified or 0.0, stat.size, f"a delete before {key} was stored again")


async def _unreadable_intents(store: ObjectStore, before: float) -> AsyncIterator[Orphan]:
    """Yield the old write intents that cannot be read: nobody else clears one whose key has no object."""
    if has_records_inside(store):
        return
    async for stat in store.list(INTENTS):
        if stat.modified is None or stat.modified > before or await _announced_key(store, stat.name) is not None:
            continue
        if not await is_newer(store, stat.name):
            yield Orphan(stat.name, stat.modified, stat.size, "a write intent that cannot be read")


async def _abandoned_marks(store: ObjectStore, before: float) -> AsyncIterator[Orphan]:
    """Yield the marks of repairs that were killed."""
    async for stat in repairs.abandoned(store, before):
        yield Orphan(stat.name, stat.modified or 0.0, stat.size, "a repair")


async def _unused_manifests(store: ObjectStore, before: float) -> AsyncIterator[Orphan]:
    """Yield the manifests of several-part objects that no object and no upload needs any more.

    Looked at in this order: the upload is not listed any more, its object names another record, and the record is
    old. The other way round, the record of an upload that is completed in between would be lost.
    """
    unused = list[str]()
    async for stat in store.list(RECORDS):
        if (stat.modified is None or stat.modified <= before) and not await _is_named(store, stat.name):
            unused.append(stat.name)
        if len(unused) == _AT_ONCE:
            async for orphan in _still_unused(store, unused, before):
                yield orphan
            unused = []
    async for orphan in _still_unused(store, unused, before):
        yield orphan


async def _still_unused(store: ObjectStore, names: Sequence[str], before: float) -> AsyncIterator[Orphan]:
    notes = [each.name async for each in store.orphans(-math.inf)] if names else []
    # The note on an upload is not always its record, but always of the same object.
    under_way = {parse_record_name(each) for each in notes}
    objects = {found[0] for found in under_way if found is not None}
    for name in names:
        key, _ = parse_record_name(name) or ("", "")
        if key in objects or await _is_named(store, name) or await is_newer(store, name):
            continue
        stat = await store.stat(name)
        if stat is not None and stat.modified is not None and stat.modified <= before:
            yield Orphan(
                name, stat.modified, stat.size, f"the record of an upload of {name.removeprefix(RECORDS)}"
            )


async def _is_named(store: ObjectStore, name: str) -> bool:
    """Return whether an object names a record, or `name` is not one of a record."""
    found = parse_record_name(name)
    if found is None:
        return True
    data = await store.stat(encode_key(found[0]))
    return data is not None and data.metadata.get(RECORD_FIELD) == found[1]


async def _clear_one(
    store: ObjectStore, orphan: Orphan, remove: Callable[[Orphan], Awaitable[None]], *, dry_run: bool
) -> Step | None:
    """Return how it went, None for what an object lock keeps: a later repair clears it."""
    action = Action("clear leftover", orphan.name, store.name, f"{orphan.description}, never finished")
    if dry_run:
        return Step(action, "planned")
    try:
        await remove(orphan)
    except LockedError as error:
        log.info("%s: %s stays: %s", store.name, orphan.name, error)
        return None
    except FsbackupError as error:
        return Step(action, "failed", str(error))
    return Step(action, "done")
