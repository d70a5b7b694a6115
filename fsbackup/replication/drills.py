"""What drills leave in the backends: ``.fsbackup/drills/NAME/TIME-ok.json`` or ``TIME-failed.json``.

The name has what it takes to know how long ago one succeeded: a listing is enough.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from contextlib import aclosing
from datetime import datetime
from typing import Any

from fsbackup.engine import marker
from fsbackup.engine.replicas import ReplicaSet
from fsbackup.errors import FsbackupError, as_backend_error
from fsbackup.keys import META_PREFIX
from fsbackup.stores.base import ObjectStore
from fsbackup.wal import stamp

_DRILLS = f"{META_PREFIX}drills/"
_NAME = re.compile(r"(?P<when>[0-9]{8}T[0-9]{6}Z)-(?P<outcome>ok|failed)\.json")


async def record_drill(
    targets: ReplicaSet, name: str, when: float, fields: Mapping[str, Any], *, ok: bool
) -> dict[str, FsbackupError]:
    """Store the outcome of a drill on every replica; return why one does not have it, by backend."""
    data = json.dumps({"format": 1, **fields}, indent=1).encode() + b"\n"
    key = f"{_DRILLS}{name}/{stamp(when)}-{'ok' if ok else 'failed'}.json"

    async def store(where: ObjectStore) -> FsbackupError | None:
        try:
            await marker.prepare(where)
            await where.put(key, data)
        except Exception as error:  # noqa: BLE001 - one store's failure is its result
            return as_backend_error(error, where.name, key)
        return None

    errors = await asyncio.gather(*map(store, targets.stores))
    return {where.name: error for where, error in zip(targets.stores, errors, strict=True) if error is not None}


async def last_drill(targets: ReplicaSet, name: str, *, ok: bool = True) -> float | None:
    """Return when the last drill began that succeeded, or any with ``ok=False``; None when no replica knows of
    one.

    A replica that does not answer knows of none: what is asked is how long ago one was surely successful.
    """
    found = await asyncio.gather(*(_list(store, f"{_DRILLS}{name}/") for store in targets.stores))
    times = [when for each in found for when, outcome in each if outcome == "ok" or not ok]
    return max(times, default=None)


async def _list(store: ObjectStore, prefix: str) -> list[tuple[float, str]]:
    try:
        async with aclosing(store.list(prefix)) as names:  # type: ignore[type-var]
            found = [_NAME.fullmatch(stat.name.removeprefix(prefix)) async for stat in names]
    except FsbackupError:
        return []
    return [(datetime.fromisoformat(each["when"]).timestamp(), each["outcome"]) for each in found if each]
