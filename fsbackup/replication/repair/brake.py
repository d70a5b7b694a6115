"""The brake of repair: what would delete or replace much is held back until somebody has agreed to it.

A forged record, a clock that went wrong or a mistaken configuration shows as many objects at once whose proven
copies are to go. So objects of which a proven copy would be deleted, or replaced by another version, are held back
until all others are done. Then they are repaired, unless they are more than `OBJECTS` and more than the share
`SHARE` of all: these are reported. Missing and damaged copies are refilled in any case.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from fsbackup.engine.records import CopyState
from fsbackup.replication.batches import KeyTask
from fsbackup.replication.classify import ObjectStatus
from fsbackup.replication.repair.report import Action
from fsbackup.replication.walk import Unreachable

OBJECTS = 10
SHARE = 0.05
#: States of a copy that has another version than the newest.
_OTHER_VERSIONS: frozenset[CopyState] = frozenset({"stale", "conflict", "unconfirmed"})
#: Objects that are kept in memory to be repaired in the end; more are left to the next repair.
_MOST = 100_000


@dataclass(frozen=True, slots=True)
class HeldObject:
    """An object that was held back: what to repair, and whether it has too few copies."""

    each: tuple[KeyTask, Unreachable]
    under_replicated: bool


@dataclass(slots=True)
class Brake:
    """Counts and keeps the objects that were held back.

    Parameters
    ----------
    released
        Hold nothing back.
    """

    released: bool
    held: list[HeldObject] = field(default_factory=list)
    count: int = 0

    def holds(self, each: tuple[KeyTask, Unreachable], status: ObjectStatus, actions: Sequence[Action]) -> bool:
        """Return whether the object is held back, and remember it."""
        if self.released or not any(_destroys(action, status) for action in actions):
            return False
        self.count += 1
        if len(self.held) < _MOST:
            self.held.append(HeldObject(each, status.is_under_replicated))
        return True

    def trips(self, objects: int) -> bool:
        """Return whether too much of all `objects` was held back to be repaired without being asked."""
        return self.count > max(OBJECTS, SHARE * objects)


def _destroys(action: Action, status: ObjectStatus) -> bool:
    """Tell whether an action deletes a copy, or replaces one that is proven by another version."""
    replica = status.replicas.get(action.backend or "")
    if replica is None or replica.stat is None:
        return False
    return action.kind == "delete" or (
        action.kind == "refill" and status.states[replica.backend] in _OTHER_VERSIONS
    )
