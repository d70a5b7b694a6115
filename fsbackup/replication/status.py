"""`status`: how many objects a set holds, and which replicas lack some, from listings alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from fsbackup.objects import ObjectStore
from fsbackup.replication.listing import Listing, ObjectEntry
from fsbackup.transfer.results import Status

#: Incomplete objects that a status names; it counts them all.
NAMED = 100


@dataclass(frozen=True, slots=True)
class BackendStatus:
    """What one backend holds: objects and bytes, how many it lacks or has in another size, why it is unknown."""

    objects: int
    bytes: int
    missing: int
    differing: int
    error: str | None


@dataclass(frozen=True, slots=True)
class SetStatus:
    """The state of a set below a prefix.

    Parameters
    ----------
    prefix
        What was looked at.
    objects, complete
        How many objects there are, and how many of them every replica lists alike.
    short
        How many have fewer copies than `min_copies`.
    backends
        Each backend's part, by name.
    newest
        The object stored last, None when there is none.
    incomplete
        The first incomplete objects (at most 100).
    """

    prefix: str
    objects: int
    complete: int
    short: int
    backends: Mapping[str, BackendStatus]
    newest: ObjectEntry | None
    incomplete: tuple[ObjectEntry, ...]

    @property
    def status(self) -> Status:
        """``"complete"``, ``"degraded"`` (enough copies, not all) or ``"failed"`` (some object has too few)."""
        if self.short:
            return "failed"
        healthy = self.complete == self.objects and not any(each.error for each in self.backends.values())
        return "complete" if healthy else "degraded"

    def __bool__(self) -> bool:
        return self.status != "failed"

    def as_dict(self) -> dict[str, Any]:
        """Return the status as plain JSON types."""
        return {
            "prefix": self.prefix,
            "status": self.status,
            "objects": self.objects,
            "complete": self.complete,
            "short": self.short,
            "newest": self.newest.as_dict() if self.newest else None,
            "incomplete": [entry.as_dict() for entry in self.incomplete],
            "backends": {
                name: {
                    "objects": each.objects,
                    "bytes": each.bytes,
                    "missing": each.missing,
                    "differing": each.differing,
                    "error": each.error,
                }
                for name, each in self.backends.items()
            },
        }


async def status(stores: tuple[ObjectStore, ...], prefix: str, min_copies: int) -> SetStatus:
    """Compare all replicas' listings below `prefix`, streaming."""
    listing = Listing(stores, prefix)
    seen: dict[str, Counter[str]] = {store.name: Counter() for store in stores}
    sizes: Counter[str] = Counter()
    totals: Counter[str] = Counter()
    newest: ObjectEntry | None = None
    incomplete: list[ObjectEntry] = []
    async with aclosing(listing.entries()) as entries:
        async for entry in entries:
            totals["objects"] += 1
            for name, presence in entry.replicas.items():
                seen[name][presence] += 1
                sizes[name] += entry.size if presence == "present" else 0
            unknown = sum(presence == "unknown" for presence in entry.replicas.values())
            totals["short"] += entry.copies + unknown < min_copies
            if entry.copies == len(stores):
                totals["complete"] += 1
            elif len(incomplete) < NAMED:
                incomplete.append(entry)
            if newest is None or (entry.modified or 0) > (newest.modified or 0):
                newest = entry
    backends = {
        name: BackendStatus(
            objects=counts["present"] + counts["size differs"],
            bytes=sizes[name],
            missing=counts["missing"],
            differing=counts["size differs"],
            error=str(listing.errors[name]) if name in listing.errors else None,
        )
        for name, counts in seen.items()
    }
    return SetStatus(
        prefix, totals["objects"], totals["complete"], totals["short"], backends, newest, tuple(incomplete)
    )
