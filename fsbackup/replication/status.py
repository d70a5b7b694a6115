"""`status`: how much a set holds, what is not everywhere, and how old the newest of each kind is.

From listings alone while they agree: one LIST per 1,000 names for the objects of each replica and one for their
manifests. Replicas are asked only about keys that look wrong: sizes that differ, a manifest without its data (the
object may have been deleted), manifests of different lengths, ETags that differ between services that make them of
the content, what a backend lacks that its retention may have let go. Everything else of a same-size replacement
that a replica slept through, a disk's above all, only `verify` sees.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import asdict, dataclass
from typing import Any, Literal

from fsbackup.aio import for_each
from fsbackup.engine.replicas import ReplicaSet
from fsbackup.engine.results import Status
from fsbackup.replication.classify import CopyState, IsExpired, ObjectStatus, copies_needed
from fsbackup.replication.compare import state_from_listings, stored_at
from fsbackup.replication.inspect import Inspector
from fsbackup.replication.ls import ObjectEntry
from fsbackup.replication.problems import FINE, is_gone
from fsbackup.replication.walk import KeyEntry, Unreachable, Walk

#: Incomplete objects that a status names; it counts them all.
NAMED = 100
#: Objects that look wrong asked about at once.
WORKERS = 16
#: What a replica that has some version of an object may be in.
_COPIES: frozenset[CopyState] = frozenset({"present", "no manifest"})


async def status(
    targets: ReplicaSet,
    prefix: str,
    *,
    depth: int = 1,
    max_age: float | None = None,
    expired: IsExpired | None = None,
    away: Unreachable | None = None,
) -> SetStatus:
    """Compare all replicas' listings at or below `prefix`, streaming; those that are `away` are not asked.

    Raises
    ------
    NoHealthyReplicaError
        When no replica can be listed.
    """
    run = _Run(targets, prefix, depth, expired, away)
    await for_each(run.wrong(), run.ask, WORKERS)
    return run.result(max_age)


class _Run:
    def __init__(
        self, targets: ReplicaSet, prefix: str, depth: int, expired: IsExpired | None, away: Unreachable | None
    ) -> None:
        names = [store.name for store in targets.stores]
        self._prefix = prefix
        self._level = (prefix.removesuffix("/").count("/") + 1 if prefix else 0) + depth
        self._min_copies = targets.min_copies
        self._expired = expired
        self._capabilities = {store.name: store.capabilities for store in targets.stores}
        self._walk = Walk(targets.stores, prefix, away=away)
        self._examiner = Inspector(targets, expired=expired)
        self._totals: Counter[Literal["objects", "deleted", "complete", "short"]] = Counter()
        self._states: dict[str, Counter[CopyState]] = {name: Counter() for name in names}
        self._objects: Counter[str] = Counter(dict.fromkeys(names, 0))
        self._bytes: Counter[str] = Counter(dict.fromkeys(names, 0))
        self._incomplete: list[ObjectEntry] = []
        self._groups: dict[str, _Tally] = {}

    async def wrong(self) -> AsyncGenerator[tuple[KeyEntry, Unreachable], None]:
        """Yield the keys that must be asked about, and count the others."""
        async with aclosing(self._walk.keys()) as keys:
            async for seen in keys:
                states = state_from_listings(seen, self._capabilities, self._expired)
                if states is None:
                    yield seen, self._walk.errors
                else:
                    self._count(seen, states)

    async def ask(self, each: tuple[KeyEntry, Unreachable]) -> None:
        seen, away = each
        verdict = await self._examiner.inspect(seen.key, away, stored_at(seen))
        if not is_gone(verdict):
            self._count(seen, verdict.states, verdict)

    def _count(self, seen: KeyEntry, states: Mapping[str, CopyState], verdict: ObjectStatus | None = None) -> None:
        for name, state in states.items():
            listed = seen.replicas[name]
            if listed is not None and listed.data is not None:
                self._objects[name] += 1
                self._bytes[name] += listed.data.size
            if not (verdict and verdict.deleted and state == "missing"):
                self._states[name][state] += 1
        entry = ObjectEntry(seen.key, _size(seen, verdict), stored_at(seen), states)
        if verdict and verdict.deleted:
            self._totals["deleted"] += 1
        else:
            self._count_object(entry)
        if not FINE.issuperset(states.values()) and len(self._incomplete) < NAMED:
            self._incomplete.append(entry)

    def _count_object(self, entry: ObjectEntry) -> None:
        states = list(entry.replicas.values())
        copies = sum(state in _COPIES for state in states)
        needed = copies_needed(states, self._min_copies)
        self._totals["objects"] += 1
        self._totals["complete"] += FINE.issuperset(states)
        self._totals["short"] += copies + states.count("unknown") < needed
        group = "".join(f"{segment}/" for segment in entry.key.split("/")[:-1][: self._level])
        if group not in self._groups:
            self._groups[group] = _Tally()
        self._groups[group].add(entry)

    def result(self, max_age: float | None) -> SetStatus:
        now, errors = time.time(), self._walk.errors
        if not self._groups and max_age is not None:
            self._groups[self._prefix] = _Tally()  # nothing at all is too old, too
        return SetStatus(
            prefix=self._prefix,
            objects=self._totals["objects"],
            complete=self._totals["complete"],
            deleted=self._totals["deleted"],
            short=self._totals["short"],
            backends={
                name: BackendStatus(
                    self._objects[name],
                    self._bytes[name],
                    dict(states),
                    str(errors[name]) if name in errors else None,
                )
                for name, states in self._states.items()
            },
            groups=tuple(tally.group(name, now, max_age) for name, tally in sorted(self._groups.items())),
            incomplete=tuple(sorted(self._incomplete, key=lambda entry: entry.key)),
        )


class _Tally:
    """What is known of one group so far."""

    __slots__ = ("bytes", "newest", "objects")

    def __init__(self) -> None:
        self.objects = 0
        self.bytes = 0
        self.newest: ObjectEntry | None = None

    def add(self, entry: ObjectEntry) -> None:
        self.objects += 1
        self.bytes += entry.size
        if self.newest is None or (entry.modified or 0) > (self.newest.modified or 0):
            self.newest = entry

    def group(self, prefix: str, now: float, max_age: float | None) -> Group:
        last = self.newest
        newest = (
            None if last is None or last.modified is None else Newest(last.key, last.modified, now - last.modified)
        )
        too_old = max_age is not None and (newest is None or newest.age > max_age)
        return Group(prefix, self.objects, self.bytes, newest, too_old)


def _size(seen: KeyEntry, verdict: ObjectStatus | None) -> int:
    """Return the size of the newest version, or else of the first copy that is listed."""
    if verdict is not None and verdict.manifest is not None:
        return verdict.manifest.size
    return next((each.data.size for each in seen.replicas.values() if each and each.data), 0)


@dataclass(frozen=True, slots=True)
class BackendStatus:
    """What one backend holds.

    Parameters
    ----------
    objects, bytes
        What it lists, our own records not counted.
    states
        How many objects of the set are in each state there.
    error
        Why it could not be listed, None when it could.
    """

    objects: int
    bytes: int
    states: Mapping[CopyState, int]
    error: str | None

    @property
    def missing(self) -> int:
        """How many objects it lacks."""
        return self.states.get("missing", 0)

    @property
    def differing(self) -> int:
        """How many objects it has in another size."""
        return self.states.get("size differs", 0)

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain JSON types."""
        return {**asdict(self), "missing": self.missing, "differing": self.differing}


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
        How many, and how large they are: one copy of each.
    newest
        None when there is none, or no backend says when it was stored.
    too_old
        A greatest age was asked for, and the newest object is older, or there is none.
    """

    prefix: str
    objects: int
    bytes: int
    newest: Newest | None
    too_old: bool


@dataclass(frozen=True, slots=True)
class SetStatus:
    """The state of a set below a prefix.

    Parameters
    ----------
    prefix
        What was looked at.
    objects, complete
        How many objects there are, and how many of them every replica has (or has let go, as its retention says).
    deleted
        How many were deleted and are still on a replica that slept through that.
    short
        How many have fewer copies than `min_copies`.
    backends
        Each backend's part, by name.
    groups
        The objects by directory, in order.
    incomplete
        The first objects that are not as they should be everywhere (at most 100).
    """

    prefix: str
    objects: int
    complete: int
    deleted: int
    short: int
    backends: Mapping[str, BackendStatus]
    groups: tuple[Group, ...]
    incomplete: tuple[ObjectEntry, ...]

    @property
    def newest(self) -> Newest | None:
        """The object stored last, None when there is none."""
        known = [group.newest for group in self.groups if group.newest is not None]
        return max(known, key=lambda each: each.modified, default=None)

    @property
    def too_old(self) -> tuple[Group, ...]:
        """The groups whose newest object is older than what was asked for."""
        return tuple(group for group in self.groups if group.too_old)

    @property
    def status(self) -> Status:
        """``"complete"``, ``"degraded"`` (enough copies, not all) or ``"failed"`` (too few copies, or too old)."""
        if self.short or self.too_old:
            return "failed"
        whole = self.complete == self.objects and not self.deleted
        return "complete" if whole and not any(each.error for each in self.backends.values()) else "degraded"

    def __bool__(self) -> bool:
        return self.status != "failed"

    def as_dict(self) -> dict[str, Any]:
        """Return the status as plain JSON types."""
        return {
            "prefix": self.prefix,
            "status": self.status,
            "objects": self.objects,
            "complete": self.complete,
            "deleted": self.deleted,
            "short": self.short,
            "newest": asdict(self.newest) if self.newest else None,
            "groups": [asdict(group) for group in self.groups],
            "incomplete": [entry.as_dict() for entry in self.incomplete],
            "backends": {name: each.as_dict() for name, each in self.backends.items()},
        }
