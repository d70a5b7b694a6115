"""What repair finds by listing alone: write intents, and the orphans of unfinished writes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from fsbackup.errors import FsbackupError
from fsbackup.keys import INTENTS, decode_name, encode_key, in_prefix
from fsbackup.replication.repair.report import Action, OnStep, Step
from fsbackup.replication.walk import Unreachable
from fsbackup.stores.base import ObjectStore, Orphan

#: By key and backend name: when the replica got the write intent that it lists (epoch seconds).
IntentTimes = dict[str, dict[str, float]]


async def list_intents(
    stores: Sequence[ObjectStore], prefix: str, unreachable: Unreachable
) -> tuple[IntentTimes, Unreachable]:
    """Return the write intents at or below `prefix`, and the replicas that cannot be listed.

    Replicas in `unreachable` are not asked, and are returned too.
    """
    times: IntentTimes = {}
    errors = dict(unreachable)

    async def list_one(store: ObjectStore) -> None:
        try:
            async for stat in store.list(INTENTS + encode_key(prefix.removesuffix("/"))):
                key = decode_name(stat.name.removeprefix(INTENTS))
                if key is not None and in_prefix(key, prefix):
                    # An intent of unknown age counts as new.
                    modified = float("inf") if stat.modified is None else stat.modified
                    times.setdefault(key, {})[store.name] = modified
        except FsbackupError as error:
            errors[store.name] = error

    await asyncio.gather(*(list_one(store) for store in stores if store.name not in unreachable))
    return times, errors


async def clear_orphans(
    stores: Sequence[ObjectStore], older_than: float, on_step: OnStep, *, dry_run: bool
) -> Unreachable:
    """Remove all that fsbackup's own unfinished writes left, and return the replicas that cannot be listed.

    Orphans younger than `older_than` seconds stay.
    """
    errors: dict[str, FsbackupError] = {}

    async def clear(store: ObjectStore) -> None:
        try:
            async for orphan in store.orphans(older_than):
                on_step(await _clear_one(store, orphan, dry_run=dry_run))
        except FsbackupError as error:
            errors[store.name] = error

    await asyncio.gather(*(clear(store) for store in stores))
    return errors


async def _clear_one(store: ObjectStore, orphan: Orphan, *, dry_run: bool) -> Step:
    action = Action("clear leftover", orphan.name, store.name, f"{orphan.description}, never finished")
    if dry_run:
        return Step(action, "planned")
    try:
        await store.delete_orphan(orphan)
    except FsbackupError as error:
        return Step(action, "failed", str(error))
    return Step(action, "done")
