"""What one store holds of the key, read by an eye of its own: no code of the package is used here."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Record = dict[str, Any]


class Thing(Protocol):
    """A stored object."""

    @property
    def data(self) -> bytes: ...
    @property
    def metadata(self) -> Mapping[str, str]: ...
    @property
    def serial(self) -> int: ...
    @property
    def writer(self) -> str: ...


@dataclass(frozen=True)
class View:
    """What a store holds of the key.

    Attributes
    ----------
    state
        ``"absent"``; ``"proven"``: by a manifest or an intent; ``"hidden"``: data under a tombstone that deletes
        it; ``"bare"``: data without any record but intents of other data; ``"unproven"``: data of which the
        records say something else.
    serial, sha256
        Of the data; 0 and "" where there is none.
    generation
        Of the proven version; None where nothing proves it.
    tombstone
        The generation that a tombstone deletes, None without one.
    """

    state: Literal["absent", "proven", "hidden", "bare", "unproven"]
    serial: int = 0
    sha256: str = ""
    generation: int | None = None
    tombstone: int | None = None


def parse(data: bytes) -> Record | None:
    """Return a record whose checksum is right, else None."""
    try:
        fields = json.loads(data)
        checksum = fields.pop("checksum")
        text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    except (ValueError, KeyError, AttributeError):
        return None
    return fields if hashlib.sha256(text.encode()).hexdigest() == checksum else None


def proves(record: Record | None, key: str, data: bytes) -> bool:
    """Tell whether a record is the manifest of exactly these bytes."""
    if record is None or record.get("kind") != "manifest" or record["key"] != key:
        return False
    size, whole = len(data), hashlib.sha256(data).hexdigest()
    step = record["block_size"]
    blocks = b"".join(hashlib.sha256(data[at : at + step]).digest() for at in range(0, size, step))
    return (record["size"], record["sha256"], base64.b64decode(record["blocks"])) == (size, whole, blocks)


def look(objects: Mapping[str, Thing], key: str) -> View:
    """Return what a store with these objects holds of `key`."""
    beside = _record(objects.get(f".fsbackup/manifests/{key}"))
    intents = [_record(each) for name, each in objects.items() if name.startswith(".fsbackup/pending/")]
    tombstone = _record(objects.get(f".fsbackup/tombstones/{key}"))
    deleted = tombstone["generation"] if tombstone else None
    data = objects.get(key)
    if data is None:
        return View("absent", tombstone=deleted)
    sha256 = hashlib.sha256(data.data).hexdigest()
    records = (_inside(objects, key), beside, *intents)
    proof = next((each for each in records if proves(each, key, data.data)), None)
    generation = proof["generation"] if proof else None
    # A manifest that says something else of the data, and outranks the tombstone, does not hide it.
    counts = generation if generation is not None else beside["generation"] if beside else -1
    if deleted is not None and counts <= deleted:
        return View("hidden", data.serial, sha256, generation, deleted)
    if generation is not None:
        return View("proven", data.serial, sha256, generation, deleted)
    known = beside or "fsbackup" in data.metadata
    return View("unproven" if known else "bare", data.serial, sha256, None, deleted)


def _record(stored: Thing | None) -> Record | None:
    return parse(stored.data) if stored is not None else None


def _inside(objects: Mapping[str, Thing], key: str) -> Record | None:
    """Return the manifest in the metadata of the data, or behind the id there."""
    text = objects[key].metadata.get("fsbackup")
    if text is None:
        return None
    return (
        parse(text.encode()) if text.startswith("{") else _record(objects.get(f".fsbackup/records/{key}/{text}"))
    )


def generation_in(name: str, key: str, stored: Thing) -> int:
    """Return the generation that a process learns of from a stored object, -1 if none."""
    if name == key:
        text = stored.metadata.get("fsbackup", "")
        record = parse(text.encode()) if text.startswith("{") else None
    else:
        record = parse(stored.data) if name.startswith(".fsbackup/") else None
    return int(record["generation"]) if record is not None else -1


def garbage(objects: Mapping[str, Thing], key: str, *, inside: bool) -> list[str]:
    """Return the names of what nothing needs any more, once all is quiet and repaired."""
    needed = {key}
    data = objects.get(key)
    if inside and data is not None:
        needed.add(f".fsbackup/records/{key}/{data.metadata.get('fsbackup')}")
    elif data is not None:
        needed.add(f".fsbackup/manifests/{key}")
    return sorted(set(objects) - needed)
