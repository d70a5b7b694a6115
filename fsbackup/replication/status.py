"""`status`: how much a set holds, which objects are not on every replica, and how old the newest of each group is.

While listings agree, only they are read: one LIST per 1,000 names for each replica's objects and one for their
records. `fsbackup.replication.classify.classify_listed` decides which keys need more; for these each replica's
manifest and metadata are read. Same-size damage that no listing shows is found by `verify` alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from fsbackup import clock
from fsbackup.aio import for_each
from fsbackup.engine.records import CopyState
from fsbackup.engine.replicas import ReplicaSet
from fsbackup.engine.results import BaseReport, Serializable, Status
from fsbackup.replication.classify import IsExpired, ObjectStatus, classify_listed
from fsbackup.replication.inspector import Inspector
from fsbackup.replication.walk import KeyEntry, Unreachable, Walk
from fsbackup.stores.base import PassedOver

#: Incomplete objects that a status has by name; it counts them all.
MAX_NAMED = 100
#: Objects that the replicas are queried about at the same time.
WORKERS = 16


@dataclass(frozen=True, slots=True)
class BackendStatus(Serializable):
    """What one backend holds.

    Parameters
    ----------
    objects, bytes
        What it lists, without fsbackup's own records.
    states
        How many objects of the set are in each state there.
    error
        Why it could not be listed, None when it could.
    passed_over
        What other programs left there, which is no object.
    """

    objects: int
    bytes: int
    states: Mapping[CopyState, int]
    error: str | None
    passed_over: PassedOver = field(default_factory=PassedOver)

    json_properties: ClassVar[tuple[str, ...]] = ("missing", "differing")

    @property
    def missing(self) -> int:
        """How many objects it lacks."""
        return self.states.get("missing", 0)

    @property
    def differing(self) -> int:
        """How many objects it has in another size."""
        return self.states.get("size differs", 0)


@dataclass(frozen=True, slots=True)
class Newest:
    """The object of a group that was stored last: its key, when (epoch seconds), and its age in seconds."""

    key: str
    modified: float
    age: float


@dataclass(frozen=True, slots=True)
class Group:
    """The objects below one prefix.

    Parameters
    ----------
    prefix
        Ends with a slash; empty for keys without a directory.
    objects, bytes
        How many there are, and how large they are: one copy of each.
    newest
        None when there is none, or no backend says when it was stored.
    too_old
        A maximum age was given, and the newest object is older, or there is none.
    """

    prefix: str
    objects: int
    bytes: int
    newest: Newest | None
    too_old: bool


@dataclass(frozen=True, slots=True)
class SetStatus(BaseReport):
    """The state of a set below a prefix.

    Parameters
    ----------
    prefix
        What was listed.
    objects, complete
        How many objects there are, and how many of them are complete.
    deleted
        How many were deleted and are still on a replica that missed the delete.
    under_replicated
        How many have too few proven copies.
    backends
        Each backend's part, by name.
    groups
        The objects by directory, in order.
    incomplete
        The first 100 objects that are not complete.
    """

    prefix: str
    objects: int
    complete: int
    deleted: int
    under_replicated: int
    backends: Mapping[str, BackendStatus]
    groups: tuple[Group, ...]
    incomplete: tuple[ObjectStatus, ...]

    json_properties: ClassVar[tuple[str, ...]] = ("status", "newest")
    json_excluded: ClassVar[tuple[str, ...]] = ("incomplete",)

    @property
    def newest(self) -> Newest | None:
        """The object stored last, None when there is none."""
        known = [group.newest for group in self.groups if group.newest is not None]
        return max(known, key=lambda each: each.modified, default=None)

    @property
    def too_old(self) -> tuple[Group, ...]:
        """The groups whose newest object is older than the maximum age."""
        return tuple(group for group in self.groups if group.too_old)

    @property
    def status(self) -> Status:
        """``"failed"``: an object is under-replicated or a group too old; ``"complete"``: all are complete."""
        if self.under_replicated or self.too_old:
            return "failed"
        whole = self.complete == self.objects and not self.deleted
        return "complete" if whole and not any(each.error for each in self.backends.values()) else "degraded"

    def as_dict(self) -> dict[str, Any]:
        """Return the status as plain JSON types; `incomplete` has one summary per object."""
        return {**BaseReport.as_dict(self), "incomplete": [each.summary() for each in self.incomplete]}


async def status(
    targets: ReplicaSet,
    prefix: str,
    *,
    depth: int = 1,
    max_age: float | None = None,
    expired: IsExpired | None = None,
    unreachable: Unreachable | None = None,
) -> SetStatus:
    """Compare all replicas' listings at or below `prefix`, streaming; those in `unreachable` are not asked.

    Raises
    ------
    NoHealthyReplicaError
        When no replica can be listed.
    """
    counter = _Counter(targets, prefix, depth, expired, unreachable)
    await for_each(counter.doubtful_keys(), counter.query, WORKERS)
    return counter.result(max_age)


class _Counter:
    """Counts the objects of a walk."""

    def __init__(
        self,
        targets: ReplicaSet,
        prefix: str,
        depth: int,
        expired: IsExpired | None,
        unreachable: Unreachable | None,
    ) -> None:
        self._stores = {store.name: store for store in targets.stores}
        self._prefix = prefix
        self._group_depth = (prefix.removesuffix("/").count("/") + 1 if prefix else 0) + depth
        self._min_copies = targets.min_copies
        self._expired = expired
        self._walk = Walk(targets.stores, prefix, unreachable=unreachable)
        self._inspector = Inspector(targets, expired=expired)
        self._totals: Counter[Literal["objects", "deleted", "complete", "under_replicated"]] = Counter()
        self._states: dict[str, Counter[CopyState]] = {name: Counter() for name in self._stores}
        self._objects: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self._incomplete: list[ObjectStatus] = []
        self._groups: dict[str, _GroupCounter] = {}

    async def doubtful_keys(self) -> AsyncGenerator[KeyEntry, None]:
        """Yield the keys for which listings do not suffice, and count the others."""
        async with aclosing(self._walk.keys()) as keys:
            async for entry in keys:
                found = classify_listed(entry, self._stores, self._min_copies, self._expired)
                if found is None:
                    yield entry
                else:
                    self._count(entry, found)

    async def query(self, entry: KeyEntry) -> None:
        """Count a key by its replicas' manifests and metadata."""
        found = await self._inspector.inspect(entry.key, entry.unreachable, entry.stored_at)
        if not found.is_gone:
            self._count(entry, found)

    def _count(self, entry: KeyEntry, found: ObjectStatus) -> None:
        if found.is_foreign:
            found.pass_over(self._walk.passed_over)
            return
        for name, state in found.states.items():
            listed = entry.replicas[name]
            if listed is not None and listed.data is not None:
                self._objects[name] += 1
                self._bytes[name] += listed.data.size
            if not (found.is_deleted and state == "missing"):
                self._states[name][state] += 1
        if found.is_deleted:
            self._totals["deleted"] += 1
        else:
            self._count_object(found)
        if not found.is_complete and len(self._incomplete) < MAX_NAMED:
            self._incomplete.append(found)

    def _count_object(self, found: ObjectStatus) -> None:
        self._totals["objects"] += 1
        self._totals["complete"] += found.is_complete
        self._totals["under_replicated"] += found.is_under_replicated
        prefix = "".join(f"{segment}/" for segment in found.key.split("/")[:-1][: self._group_depth])
        self._groups.setdefault(prefix, _GroupCounter()).add(found)

    def result(self, max_age: float | None) -> SetStatus:
        """Return what was counted."""
        now, errors = clock.now(), self._walk.errors
        if not self._groups and max_age is not None:
            self._groups[self._prefix] = _GroupCounter()  # no object at all is too old, too
        backends = {
            name: BackendStatus(
                self._objects[name],
                self._bytes[name],
                dict(states),
                str(errors[name]) if name in errors else None,
                self._walk.passed_over[name],
            )
            for name, states in self._states.items()
        }
        return SetStatus(
            prefix=self._prefix,
            objects=self._totals["objects"],
            complete=self._totals["complete"],
            deleted=self._totals["deleted"],
            under_replicated=self._totals["under_replicated"],
            backends=backends,
            groups=tuple(group.result(prefix, now, max_age) for prefix, group in sorted(self._groups.items())),
            incomplete=tuple(sorted(self._incomplete, key=lambda each: each.key)),
        )


class _GroupCounter:
    """Counts the objects of one group."""

    __slots__ = ("bytes", "newest", "objects")

    def __init__(self) -> None:
        self.objects = 0
        self.bytes = 0
        self.newest: tuple[str, float | None] | None = None

    def add(self, found: ObjectStatus) -> None:
        self.objects += 1
        self.bytes += found.size
        if self.newest is None or (found.modified or 0) > (self.newest[1] or 0):
            self.newest = found.key, found.modified

    def result(self, prefix: str, now: float, max_age: float | None) -> Group:
        key, modified = self.newest or ("", None)
        newest = None if modified is None else Newest(key, modified, now - modified)
        too_old = max_age is not None and (newest is None or newest.age > max_age)
        return Group(prefix, self.objects, self.bytes, newest, too_old)
