"""What a repair decides by: the verdict on one object, its announcements, and what doubtful data really is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from fsbackup.engine import records
from fsbackup.engine.hashing import Digest, ObjectHasher
from fsbackup.engine.records import ReplicaState
from fsbackup.engine.replicas import MemoryBudget
from fsbackup.errors import FsbackupError
from fsbackup.keys import encode_key
from fsbackup.record import Manifest
from fsbackup.replication.classify import CopyState, ObjectStatus
from fsbackup.sizing import DEFAULT_PART_SIZE
from fsbackup.stores.base import ObjectStore

#: Replicas that have something other than what they should, so that a writer may be at work there.
_UNSETTLED: frozenset[CopyState] = frozenset(
    {"damaged", "size differs", "no manifest", "stale", "deleted elsewhere", "conflict"}
)


@dataclass(frozen=True, slots=True)
class WriteIntent:
    """A replacement that one replica was told of: its manifest (None: it cannot be read) and age in seconds."""

    manifest: Manifest | None
    age: float


@dataclass(frozen=True, slots=True)
class Inspection:
    """What is known of one object.

    Parameters
    ----------
    verdict
        Of the examination.
    announced
        Announcements by backend name.
    contents
        What the data of doubtful replicas is, by backend name, as far as it was worth reading.
    """

    verdict: ObjectStatus
    intents: Mapping[str, WriteIntent] = field(default_factory=dict)
    contents: Mapping[str, Digest] = field(default_factory=dict)


async def inspect_object(
    verdict: ObjectStatus, pending: Mapping[str, float], budget: MemoryBudget, *, adopt: bool
) -> Inspection:
    """Find out what the verdict leaves open.

    `pending` says when each replica that lists an announcement of this key got it, in epoch seconds.
    """
    announced = await _intents(verdict, pending)
    wanted = [
        f for name, f in verdict.replicas.items() if _worth_reading(verdict, name, f, announced, adopt=adopt)
    ]
    digests = await asyncio.gather(*(_content(finding, verdict.key, budget) for finding in wanted))
    pairs = zip(wanted, digests, strict=True)
    return Inspection(verdict, announced, {f.store.name: digest for f, digest in pairs if digest is not None})


async def _intents(verdict: ObjectStatus, pending: Mapping[str, float]) -> dict[str, WriteIntent]:
    names = [
        n for n, state in verdict.states.items() if state != "unknown" and (n in pending or state in _UNSETTLED)
    ]
    asked = await asyncio.gather(*(_read_intent(verdict.replicas[name].store, verdict.key) for name in names))
    now = time.time()
    return {
        # One that came after the listing is as young as can be.
        name: WriteIntent(manifest, now - pending.get(name, now))
        for name, (manifest, there) in zip(names, asked, strict=True)
        if there
    }


async def _read_intent(store: ObjectStore, key: str) -> tuple[Manifest | None, bool]:
    try:
        async with asyncio.timeout(store.hard_timeout):
            return await records.find_intent(store, key)
    except (FsbackupError, TimeoutError):
        return None, False  # who does not answer is found out when it is written to, which asks again


def _worth_reading(
    verdict: ObjectStatus, name: str, finding: ReplicaState, announced: Mapping[str, WriteIntent], *, adopt: bool
) -> bool:
    """Tell whether the data may be a version that some record names, though its own record does not prove it."""
    if finding.stat is None or verdict.states[name] in ("unknown", "conflict"):
        return False
    if verdict.latest is None and name not in announced:
        return adopt
    replacement = announced[name].manifest if name in announced else None
    sizes = {replacement.size} if replacement is not None else set()
    # What holds its own manifest and is called damaged was read already, and found rotten.
    doubtful = verdict.states[name] in ("damaged", "no manifest") and not finding.is_intact
    if doubtful and verdict.manifest is not None:
        sizes.add(verdict.manifest.size)
    return finding.stat.size in sizes


async def _content(finding: ReplicaState, key: str, budget: MemoryBudget) -> Digest | None:
    """Return what the data is, None when it cannot be read or is being replaced."""
    assert finding.stat is not None
    size, name = finding.stat.size, encode_key(key)
    hasher = ObjectHasher(size)
    try:
        async with budget.reserve(min(size, DEFAULT_PART_SIZE)):
            for start in range(0, size, DEFAULT_PART_SIZE):
                data = await finding.store.read(name, start, min(start + DEFAULT_PART_SIZE, size))
                await asyncio.to_thread(hasher.update, data)
    except FsbackupError:
        return None
    digest = hasher.digest()
    return digest if digest.size == size else None
