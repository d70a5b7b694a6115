"""What repair must know of one object beyond its status: write intents, and the content of doubtful data."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from fsbackup.engine.hashing import Digest, ObjectHasher
from fsbackup.engine.intents import Intent
from fsbackup.engine.records import CopyState, ReplicaState
from fsbackup.engine.replicas import MemoryBudget
from fsbackup.errors import FsbackupError
from fsbackup.keys import encode_key
from fsbackup.replication.classify import ObjectStatus
from fsbackup.replication.inspector import try_find_intents
from fsbackup.sizing import DEFAULT_PART_SIZE

#: States in which a writer may be at work on the replica.
_UNSETTLED: frozenset[CopyState] = frozenset(
    {"damaged", "size differs", "no manifest", "stale", "deleted elsewhere", "conflict", "unconfirmed"}
)


@dataclass(frozen=True, slots=True)
class Inspection:
    """What repair knows of one object.

    Parameters
    ----------
    status
        What every replica has.
    intents
        The write intents, by backend name.
    contents
        The digests of the data that was read, by backend name.
    """

    status: ObjectStatus
    intents: Mapping[str, Sequence[Intent]] = field(default_factory=dict)
    contents: Mapping[str, Digest] = field(default_factory=dict)


async def inspect_object(
    status: ObjectStatus, listed: Collection[str], budget: MemoryBudget, *, adopt: bool
) -> Inspection:
    """Read the write intents, and hash the data that may be a version which its own record does not prove.

    `listed` are the replicas that list an intent of this key.
    """
    intents = await _read_intents(status, listed)
    doubtful = [
        replica
        for name, replica in status.replicas.items()
        if _is_worth_reading(status, name, replica, intents.get(name, ()), adopt=adopt)
    ]
    digests = await asyncio.gather(*(_hash_data(replica, status.key, budget) for replica in doubtful))
    pairs = zip(doubtful, digests, strict=True)
    return Inspection(status, intents, {r.store.name: digest for r, digest in pairs if digest is not None})


async def _read_intents(status: ObjectStatus, listed: Collection[str]) -> dict[str, list[Intent]]:
    names = [
        name
        for name, state in status.states.items()
        if state != "unknown" and (name in listed or state in _UNSETTLED)
    ]
    found = await asyncio.gather(*(try_find_intents(status.replicas[name].store, status.key) for name in names))
    return {name: each for name, each in zip(names, found, strict=True) if each}


def _is_worth_reading(
    status: ObjectStatus, name: str, replica: ReplicaState, intents: Sequence[Intent], *, adopt: bool
) -> bool:
    """Tell whether the data may be a version that some record names, though its own record does not prove it."""
    state = status.states[name]
    if replica.stat is None or state in ("unknown", "conflict", "unconfirmed"):
        return False
    if status.latest is None and not intents:
        return adopt
    sizes = {each.manifest.size for each in intents if each.manifest is not None}
    # Data called damaged beside its own matching manifest has been read already, and is corrupt.
    unproven = state in ("damaged", "no manifest") and not replica.is_intact
    if unproven and status.manifest is not None:
        sizes.add(status.manifest.size)
    return replica.stat.size in sizes


async def _hash_data(replica: ReplicaState, key: str, budget: MemoryBudget) -> Digest | None:
    """Return the digest of the data; None when it cannot be read or is being replaced."""
    assert replica.stat is not None
    size, name = replica.stat.size, encode_key(key)
    hasher = ObjectHasher(size)
    try:
        async with budget.reserve(min(size, DEFAULT_PART_SIZE)):
            for start in range(0, size, DEFAULT_PART_SIZE):
                data = await replica.store.read(name, start, min(start + DEFAULT_PART_SIZE, size))
                await asyncio.to_thread(hasher.update, data)
    except FsbackupError:
        return None
    digest = hasher.digest()
    return digest if digest.size == size else None
