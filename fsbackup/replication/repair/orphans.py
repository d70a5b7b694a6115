"""What a repair finds by listing alone: announcements of replacements, and what unfinished writes left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from fsbackup.errors import FsbackupError
from fsbackup.keys import INTENTS, decode_name, encode_key, in_prefix
from fsbackup.replication.repair.report import Action, Step
from fsbackup.replication.walk import Unreachable
from fsbackup.stores.base import ObjectStore, Orphan

#: When each replica got the announcement of a key (epoch seconds), for those that list one.
IntentTimes = dict[str, dict[str, float]]


async def list_intents(
    stores: Sequence[ObjectStore], prefix: str, away: Unreachable
) -> tuple[IntentTimes, Unreachable]:
    """Return what is announced at or below `prefix`, and who cannot be listed: also those that were `away`."""
    pending: IntentTimes = {}
    errors = dict(away)

    async def look(store: ObjectStore) -> None:
        try:
            async for stat in store.list(INTENTS + encode_key(prefix.removesuffix("/"))):
                key = decode_name(stat.name.removeprefix(INTENTS))
                if key is not None and in_prefix(key, prefix):
                    # One of unknown age is as young as can be.
                    found = pending.setdefault(key, {})
                    found[store.name] = float("inf") if stat.modified is None else stat.modified
        except FsbackupError as error:
            errors[store.name] = error

    await asyncio.gather(*(look(store) for store in stores if store.name not in away))
    return pending, errors


async def clear_orphans(
    stores: Sequence[ObjectStore], older_than: float, say: Callable[[Step], None], *, dry_run: bool
) -> Unreachable:
    """Clear what unfinished writes of ours left, all of it, and return who could not be listed."""
    errors: dict[str, FsbackupError] = {}

    async def clear(store: ObjectStore) -> None:
        try:
            async for leftover in store.orphans(older_than):
                say(await _clear_one(store, leftover, dry_run=dry_run))
        except FsbackupError as error:
            errors[store.name] = error

    await asyncio.gather(*(clear(store) for store in stores))
    return errors


async def _clear_one(store: ObjectStore, leftover: Orphan, *, dry_run: bool) -> Step:
    action = Action("clear leftover", leftover.name, store.name, f"{leftover.description}, never finished")
    if dry_run:
        return Step(action, "planned")
    try:
        await store.delete_orphan(leftover)
    except FsbackupError as error:
        return Step(action, "failed", str(error))
    return Step(action, "done")
