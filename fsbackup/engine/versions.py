"""Which version of an object is the newest, what comes after it, and whether a version is still current.

A version is *confirmed* when `min_copies` replicas have it. The newest version is the highest one that is
confirmed, or may be, because replicas that have it may be among those that did not answer. Where no version is,
the highest one that a replica has. So what a refused or unfinished write left on too few replicas does not hide
what the others hold, and neither does a forged or stray record. A confirmed delete is not that final: what was
stored after it counts on however few replicas it is.

The decisions are pure functions of what the replicas have; only `VersionGuard` reads from stores.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal

from fsbackup import __version__, clock
from fsbackup.engine import records
from fsbackup.engine.clock_skew import MAX_CLOCK_SKEW
from fsbackup.engine.hashing import Digest
from fsbackup.engine.records import ReplicaState
from fsbackup.engine.repairs import RepairMarks
from fsbackup.engine.replicas import ReplicaSet
from fsbackup.engine.source import Source
from fsbackup.errors import ConflictError
from fsbackup.record import Manifest, Origin, Record, Tombstone, version_order
from fsbackup.stores.base import ObjectStore


def highest(replicas: Iterable[ReplicaState]) -> Record | None:
    """Return the record of the highest version that any replica has, confirmed or not; None without a record."""
    return max((each.record for each in replicas if each.record), key=version_order, default=None)


def newest(replicas: Sequence[ReplicaState], min_copies: int, *, with_data: bool = True) -> Record | None:
    """Return the record of the newest version, None when no replica has a record.

    Parameters
    ----------
    replicas
        What every replica has, or why it did not answer.
    min_copies
        How many replicas confirm a version.
    with_data
        Whether the replicas were asked for their data, too; else a manifest stands for its data.
    """
    unknown = sum(replica.error is not None for replica in replicas)
    needed = min(min_copies, len(replicas)) - unknown
    known = sorted((each.record for each in replicas if each.record), key=version_order, reverse=True)
    confirmed = next((each for each in known if copies(replicas, each, with_data=with_data) >= needed), None)
    if confirmed is None or isinstance(confirmed, Tombstone):
        held = (each for each in known if copies(replicas, each, with_data=with_data))
        return next(held, next(iter(known), None))
    return confirmed


def copies(replicas: Iterable[ReplicaState], version: Record, *, with_data: bool = True) -> int:
    """Return how many replicas have a version: a manifest with data of its size, or its tombstone."""
    return sum(_has(replica, version, with_data=with_data) for replica in replicas)


def _has(replica: ReplicaState, version: Record, *, with_data: bool) -> bool:
    own = replica.record
    if isinstance(version, Tombstone):
        return isinstance(own, Tombstone) and own.generation >= version.generation
    if not isinstance(own, Manifest) or own.generation != version.generation or not replica.claims(version):
        return False
    return not with_data or (replica.stat is not None and replica.stat.size == own.size)


def is_proven_absent(targets: ReplicaSet, replicas: Sequence[ReplicaState], latest: Record | None) -> bool:
    """Return whether a quorum answers that there is no data, and no manifest, whose data may be elsewhere."""
    return not isinstance(latest, Manifest) and targets.is_quorum(records.clear_answers(replicas))


def is_conflict(replicas: Iterable[ReplicaState], latest: Record | None) -> bool:
    """Return whether a replica has other content than `latest` under the same generation."""
    return isinstance(latest, Manifest) and any(
        each.manifest is not None and each.manifest.generation == latest.generation and not each.claims(latest)
        for each in replicas
    )


@dataclass(frozen=True, slots=True)
class NextVersion:
    """What the manifest of a new version says about its order.

    Parameters
    ----------
    generation
        The generation of the new version.
    replaces
        SHA-256 of the version before, None when there was none.
    write_id
        Identifies the write on every replica.
    """

    generation: int
    replaces: str | None
    write_id: str


def next_version(latest: Record | None, highest: Record | None = None) -> NextVersion:
    """Return generation and predecessor of the version that comes after `latest`.

    Its generation is above that of the `highest` version, confirmed or not, that any replica has. What is made
    anew outranks all that it ever was, because a generation starts from the clock: also against a disk that comes
    back from a snapshot, or with versions from before a delete that no tombstone shows any more.
    """
    now = int(clock.now() * 1000)
    generation = max(now, *(each.generation + 1 for each in (latest, highest) if each is not None), 0)
    replaces = latest.sha256 if isinstance(latest, Manifest) else None
    return NextVersion(generation, replaces, records.new_id())


def origin(source: Source) -> Origin:
    """Return what a manifest says of the source of an upload."""
    uid, gid = source.owner or (None, None)
    return Origin(_host(int(clock.now()) // 60), source.mtime_ns, source.mode, source.directories, uid, gid)


@lru_cache(maxsize=1)
def _host(_minute: int) -> str:
    """Return the name of this machine, asked for once a minute."""
    return socket.gethostname()


def new_manifest(
    key: str,
    digest: Digest,
    source: Origin,
    part_size: int,
    version: NextVersion,
    series: str | None = None,
    stages: Sequence[Mapping[str, Any]] | None = None,
    content_etag: str | None = None,
) -> Manifest:
    """Return the manifest of a new version whose source was read to its end."""
    return Manifest(
        key=key,
        size=digest.size,
        sha256=digest.sha256,
        block_size=digest.block_size,
        blocks=digest.blocks,
        generation=version.generation,
        replaces=version.replaces,
        created_at=utc_now(),
        source=source,
        part_size=part_size,
        fsbackup_version=__version__,
        write_id=version.write_id,
        block_hash=digest.block_hash,
        series=series,
        stages=stages,
        content_etag=content_etag,
    )


def described_as(manifest: Manifest, original: Manifest) -> Manifest:
    """Return the manifest of a copy under another key: what `original` says of its bytes holds for it, too.

    That is where they come from, what was done to them, and fields that this version does not know. A series is
    one of keys, and a seal is one of a whole record.
    """
    return replace(manifest, source=original.source, stages=original.stages, unknown=original.unknown)


def utc_now() -> str:
    """Return the current time in the format of records: ISO 8601, UTC, to the second."""
    return datetime.fromtimestamp(clock.now(), UTC).isoformat(timespec="seconds")


#: Seconds that a generation may be ahead of now: beyond that its writer's clock was wrong, or it was forged.
_MAX_AHEAD = 86_400.0


def is_ahead(record: Record) -> bool:
    """Return whether a record's generation is of the future: more than a day ahead of now."""
    return record.generation / 1000 - clock.now() > _MAX_AHEAD


def is_doubtful(latest: Record, own: Record) -> bool:
    """Return whether `latest` outranks `own` by its generation, against all else that the two say.

    Only `latest` is of the future; or it is the older one by its date, by more than clocks may differ, and was not
    made to replace `own`. Repair acts on neither.
    """
    if is_ahead(latest):
        return not is_ahead(own)
    if isinstance(latest, Tombstone) or isinstance(own, Tombstone) or latest.generation <= own.generation:
        return False
    is_older = own.created_timestamp - latest.created_timestamp > MAX_CLOCK_SKEW
    return is_older and latest.replaces != own.sha256


#: Tells versions apart: the generation, and the SHA-256 of the content, None for a tombstone.
VersionId = tuple[int, str | None]


def version_id(record: Record) -> VersionId:
    """Return what tells a version from others of its key."""
    return record.generation, record.sha256 if isinstance(record, Manifest) else None


def rivals_of(manifest: Manifest, replicas: Iterable[ReplicaState]) -> list[Record]:
    """Return the records that come after `manifest`, or have other content under its generation."""
    return [
        each.record
        for each in replicas
        if each.record is not None
        and each.record.generation >= manifest.generation
        and version_id(each.record) != version_id(manifest)
    ]


Currency = Literal["newest", "replaced", "deleted", "gone", "unknown"]


@dataclass(frozen=True, slots=True)
class VersionGuard:
    """Checks, before a repair writes a version to a replica, that the version is still the newest.

    Parameters
    ----------
    stores
        The stores that answered when the repair was planned; their records are read again at each check.
    manifest
        The version.
    holders
        Names of the stores that had its manifest then.
    marks
        Show deletes, before the first look, that a repair is running.
    outranked
        Records of higher order, or of other content under its generation, that replicas had then and that do not
        count: too few have them.
    """

    stores: Sequence[ObjectStore]
    manifest: Manifest
    holders: frozenset[str]
    marks: RepairMarks
    outranked: frozenset[VersionId] = frozenset()

    async def currency(self, own: str) -> Currency:
        """Return whether the version is the newest, replaced, deleted or gone, by the records of the stores now.

        Unknown when no holder but the store named `own` answers.

        It is gone when such holders answer and none of them has its manifest any more:
        deleted before the marks of the repair were there, or let go there by a prune, which may have counted on
        the repair's copy (see `engine.repairs`). A store that does not answer counts for nothing.
        """
        key = self.manifest.key
        replicas = await asyncio.gather(
            *(records.query(each, key, with_data=False, since=None) for each in self.stores)
        )
        if any(each.is_newer for each in replicas):
            return "replaced"
        rivals = rivals_of(self.manifest, replicas)
        latest = max(
            (each for each in rivals if version_id(each) not in self.outranked), key=version_order, default=None
        )
        if latest is not None:
            return "deleted" if isinstance(latest, Tombstone) else "replaced"
        holders = [each for each in replicas if each.store.name in self.holders - {own}]
        answered = [each for each in holders if each.error is None]
        if not holders or any(each.damaged or each.claims(self.manifest) for each in answered):
            return "newest"
        return "gone" if answered else "unknown"

    async def require(self, store: ObjectStore) -> None:
        """Put the mark and raise unless the version is still the newest, before it is written to `store`.

        Raises
        ------
        ConflictError
            When it was replaced or deleted.
        """
        await self.marks.put(store)
        currency = await self.currency(store.name)
        if currency != "newest":
            raise superseded(store, self.manifest.key, currency)


def other_content(backend: str | None = None, key: str | None = None) -> ConflictError:
    """Return the error for a create-only upload where other content is stored."""
    return ConflictError(
        "other content is stored under this key",
        backend=backend,
        operation="upload",
        key=key,
        hint="choose another key, or replace it with overwrite",
    )


def superseded(store: ObjectStore, key: str, currency: str) -> ConflictError:
    """Return the error for a repair whose version is no longer the newest, because of another writer."""
    what = {
        "replaced": "replaced by another writer during the repair; the newer version was kept",
        "deleted": "deleted by another writer during the repair; the delete was kept",
        "unknown": "no replica from which it was to be copied answers any more",
    }
    return ConflictError(
        what.get(currency, "removed by another writer during the repair, from where it was to be copied"),
        backend=store.name,
        operation="repair",
        key=key,
        hint="run repair again when the other writer has finished",
    )
