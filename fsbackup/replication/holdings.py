"""What `status` reports: frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fsbackup.replication.listing import ObjectEntry
from fsbackup.replication.states import ReplicaState
from fsbackup.transfer.results import Status


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
    states: Mapping[ReplicaState, int]
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
