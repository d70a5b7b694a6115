"""Which objects of a batch every replica still has, told by the listings alone: one LIST per 1,000 names.

A run that finds an object *already stored* on all replicas of its set, with the same valid manifest, remembers
that manifest and what the listings showed of the object: size, ETag and time of its data, and of a manifest beside
it. While all listings show the same, and the source still has that content, nothing is sent and nobody is asked.

What counts as the same:

- All replicas were listed. Tombstones are looked for by `upload`, as for whatever is stored already.
- All that a listing shows was stored a while before it was remembered (`_SETTLED`), so that two writes of one time
  are not taken for one.
- The manifest is beside the data or inside it. One that is an object of its own could be lost without a trace in
  the listing of the data, so it is read each time.

A batch asks for all of its plain files first (`versions`), with one question to the cache for many of them, and
opens none. Who is left, such as what is compressed or encrypted, is asked for one by one (`states`).

This finds what a look at each object finds, except for a manifest beside the data that rots where it lies, which
`verify` finds. A manifest from the cache only ever shows that nothing is to be done: what is written rests on a
fresh look.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from fsbackup import clock
from fsbackup.engine.file_source import FileSource
from fsbackup.engine.records import ReplicaState, has_records_inside
from fsbackup.engine.source import Source
from fsbackup.engine.staged import StagedSource
from fsbackup.errors import IntegrityError
from fsbackup.keys import encode_key, manifest_name
from fsbackup.record import Manifest, dump, load
from fsbackup.seen import Seen
from fsbackup.stages.plaintext import Plaintext
from fsbackup.stores.base import ObjectStat, ObjectStore

#: Seconds since anything listed of an object was stored: more than the clocks of two machines may differ by.
_SETTLED = 600.0
#: Bytes of a manifest that is remembered; the few large ones, of large objects, are read.
_MAX_RECORD = 4096

#: What the backends list of a batch: by backend and name. A backend that was not listed is left out.
Listings = Mapping[str, Mapping[str, ObjectStat]]


@dataclass(frozen=True, slots=True)
class _Shown:
    """What all replicas list of one object: a digest of it, their data, and when the last of it was stored."""

    digest: bytes
    data: tuple[ObjectStat, ...]
    stored: float


class Version(NamedTuple):
    """What is reported of the version of an object that all replicas still have, as its source has."""

    size: int
    sha256: str
    generation: int


class UnchangedObjects:
    """The objects of one batch that are as an earlier run found them.

    Parameters
    ----------
    stores
        All replicas of the set.
    listings
        What each lists of the batch, from before any of it is asked for.
    """

    def __init__(self, stores: Sequence[ObjectStore], listings: Listings) -> None:
        self._stores = stores
        self._places = [
            (store.location, names, has_records_inside(store))
            for store in stores
            if (names := listings.get(store.name)) is not None
        ]
        self._place = _digest(sorted(store.location for store in stores))

    def versions(self, seen: Seen, sources: Mapping[str, os.stat_result]) -> dict[str, Version]:
        """Return by key the versions that all replicas have, and the files `sources` too, as far as is known.

        All of a record that counts is compared with what the listings or the file say: nothing else of it is
        believed, so that it need not be checked as one that is read from a replica.
        """
        shown = {key: each for key in sources if (each := self._shown(key)) is not None}
        records = seen.records(self._place, {encode_key(key): each.digest for key, each in shown.items()})
        known = dict(zip(sources, seen.sha256s(list(sources.values())), strict=True))
        found: dict[str, Version] = {}
        for key, each in shown.items():
            version = _plain_version(records.get(encode_key(key)), key)
            if version is None or version.sha256 != known[key]:
                continue
            if all(size == version.size for size in (sources[key].st_size, *(stat.size for stat in each.data))):
                found[key] = version
        return found

    def states(self, seen: Seen, key: str, source: Source) -> list[ReplicaState] | None:
        """Return what the replicas have of `key`, None unless all have what `source` has, as far as is known."""
        shown = self._shown(key)
        record = None if shown is None else seen.record(self._place, encode_key(key), shown.digest)
        if shown is None or record is None:
            return None
        try:
            manifest = load(record)
        except IntegrityError:
            return None
        if not isinstance(manifest, Manifest) or manifest.key != key or not _has_content_of(source, manifest):
            return None
        replicas = [
            ReplicaState(store, _as_on(store, manifest, stat), stat=stat)
            for store, stat in zip(self._stores, shown.data, strict=True)
        ]
        return replicas if all(each.is_intact for each in replicas) else None

    def remember(self, seen: Seen, key: str, replicas: Sequence[ReplicaState]) -> None:
        """Remember the version of `key` that was found on all replicas, unless it may have changed unnoticed."""
        shown, record = self._shown(key), _common_record(replicas)
        if shown is None or record is None or shown.stored > clock.now() - _SETTLED:
            return
        found = {each.backend: each.stat for each in replicas}
        if all(
            _is_same(found.get(store.name), stat) for store, stat in zip(self._stores, shown.data, strict=True)
        ):
            seen.remember_record(self._place, encode_key(key), shown.digest, record)

    def _shown(self, key: str) -> _Shown | None:
        """Return what the listings show, None unless each shows the data and a manifest for it."""
        name, beside = encode_key(key), manifest_name(key)
        listed = [
            (location, names.get(name), names.get(beside), inside) for location, names, inside in self._places
        ]
        data = tuple(stat for _, stat, _, _ in listed if stat is not None)
        if len(data) < len(self._stores) or any(inside != (each is None) for _, _, each, inside in listed):
            return None
        times = [each.modified for _, stat, record, _ in listed for each in (record or stat,) if each is not None]
        known = [each for each in times if each is not None]
        if len(known) < len(listed):
            return None
        shown = sorted((location, _numbers(stat), _numbers(each)) for location, stat, each, _ in listed)
        return _Shown(_digest(shown), data, max(known))


def _plain_version(record: bytes | None, key: str) -> Version | None:
    """Return what a record from the cache says of `key`, None where there is none, or stages made it."""
    try:
        fields = json.loads(record or b"")
        if fields["key"] != key or "stages" in fields:
            return None
        return Version(fields["size"], fields["sha256"], fields["generation"])
    except (ValueError, KeyError, TypeError):
        return None


def _has_content_of(source: Source, manifest: Manifest) -> bool:
    """Return whether the source is known, without reading it, to have the content of `manifest`."""
    if not isinstance(source, StagedSource):
        return source.known_sha256() == manifest.sha256
    plain = source.plain
    sha256 = plain.known_sha256() if isinstance(plain, FileSource) else None
    if sha256 is None or source.is_for_others(manifest):
        return False
    return source.tells_same(manifest, Plaintext(plain.replayable_bytes, sha256)) is True


def _common_record(replicas: Sequence[ReplicaState]) -> bytes | None:
    """Return the one manifest that all replicas have, each beside its data or inside it."""
    if not all(each.is_intact and each.record_object is None and each.tombstone is None for each in replicas):
        return None
    records = {dump(each.manifest.for_replica(None, None)) for each in replicas if each.manifest is not None}
    record = records.pop() if len(records) == 1 else None
    return record if record is not None and len(record) <= _MAX_RECORD else None


def _as_on(store: ObjectStore, manifest: Manifest, stat: ObjectStat) -> Manifest:
    return manifest if has_records_inside(store) else manifest.for_replica(stat.etag, stat.version_id)


def _is_same(one: ObjectStat | None, other: ObjectStat) -> bool:
    return one is not None and (one.size, one.etag) == (other.size, other.etag)


def _numbers(stat: ObjectStat | None) -> tuple[object, ...]:
    return () if stat is None else (stat.size, stat.etag, stat.modified, stat.version_id)


def _digest(value: object) -> bytes:
    return hashlib.sha256(repr(value).encode()).digest()[:16]
