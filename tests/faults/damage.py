"""What disks, people and other programs do to stored bytes, done behind everybody's back."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Sequence

from tests.faults.plan import Damage
from tests.replication.raw_replicas import RawDisk, RawReplica, manifest_name


def damage(raw: RawReplica, kind: Damage, keys: Sequence[str], chance: random.Random, *, hidden: bool) -> set[str]:
    """Do one kind of damage to what a replica holds of the first of `keys` that it can be done to.

    With `hidden`, a disk may keep the file's times, as one does that loses bits: only reading finds that.

    Returns
    -------
    set of str
        The keys that are no longer right there.
    """
    if kind == "swap":
        return _swap(raw, [key for key in keys if raw.get(key)], with_manifests=chance.random() < 0.5)
    name_of = manifest_name if "manifest" in kind else str
    there = [key for key in keys if raw.get(name_of(key))]
    data = raw.get(name_of(there[0])) if there else None
    if data is None:  # also what a delete under way has removed since: nothing rots where nothing is
        return set()
    key, name = there[0], name_of(there[0])
    if kind == "delete manifest":
        raw.drop(name)
    elif kind == "edit manifest":
        raw.put(name, _edited(data, chance))
    else:
        _put(raw, name, _spoiled(kind, data, chance), keep_time=hidden and chance.random() < 0.5)
    return {key}


def _spoiled(kind: Damage, data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data))
    if kind == "flip":
        return data[:at] + bytes([data[at] ^ (1 << chance.randrange(8))]) + data[at + 1 :]
    return data[:at] if kind == "truncate" else data + chance.randbytes(chance.randint(1, 5000))


def _put(raw: RawReplica, name: str, data: bytes, *, keep_time: bool) -> None:
    """Store bytes; a disk that loses some does not change the file's time."""
    if not isinstance(raw, RawDisk) or not keep_time:
        raw.put(name, data)
        return
    path = raw.base / name
    stat = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def _swap(raw: RawReplica, keys: Sequence[str], *, with_manifests: bool) -> set[str]:
    if len(keys) < 2:
        return set()
    for one, other in [keys[:2], *([[manifest_name(key) for key in keys[:2]]] if with_manifests else [])]:
        mine, theirs = raw.get(one), raw.get(other)
        if mine is not None and theirs is not None:
            raw.put(one, theirs)
            raw.put(other, mine)
    return set(keys[:2])


def _edited(data: bytes, chance: random.Random) -> bytes:
    """Return a record as a person leaves it who edits it by hand: another value, or the file cut off."""
    fields = json.loads(data)
    field = chance.choice(["sha256", "size", "generation", "blocks", None])
    if field is None or field not in fields:
        return data[: chance.randrange(len(data))]
    if field == "sha256":
        fields[field] = "0" * 64
    elif field == "blocks":
        fields[field] = ["f" * 64, *fields[field]]
    else:
        fields[field] += chance.randint(1, 1000)
    return json.dumps(fields).encode()
