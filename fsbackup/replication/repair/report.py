"""The actions and reports of repair: frozen values; every action has its reason in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from fsbackup.engine.results import BaseReport, Serializable, Status

Kind = Literal[
    "refill",  # copy the newest version, proven block by block
    "write manifest",  # the data is the newest version, only its manifest is not
    "finish",  # a replacement was announced and its data is there: write its manifest
    "clear intent",  # of a replacement that is stored, or was abandoned
    "delete",  # a copy of an object that was deleted while the replica did not answer
    "forget delete",  # remove the tombstones, once every replica has confirmed the delete
    "adopt",  # write a manifest for data that has none on any replica
    "refill key",  # copy an encrypted identity key that another replica has
    "clear leftover",  # what an unfinished write of fsbackup left behind
    "leave",  # nothing can or may be done; `problem` says what is wrong
]

#: Why an object stays as it is.
Unresolved = Literal["unrecoverable", "conflict", "no manifest", "unreachable", "busy", "held back", "newer"]


@dataclass(frozen=True, slots=True)
class Action(Serializable):
    """One thing to do, or to leave.

    Parameters
    ----------
    kind
        What to do.
    key
        The object; for a leftover, and the copy of a key, its own name.
    backend
        The replica; None for the whole set.
    reason
        Why, for people.
    problem
        What is wrong where nothing is done; None for every other action.
    names
        The objects below `.fsbackup/` that it removes, where the key does not say which.
    """

    kind: Kind
    key: str
    backend: str | None
    reason: str
    problem: Unresolved | None = None
    names: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the action as plain JSON types."""
        return {
            "action": self.kind,
            "key": self.key,
            "backend": self.backend,
            "reason": self.reason,
            "problem": self.problem,
        }


@dataclass(frozen=True, slots=True)
class Step(Serializable):
    """An action and its outcome.

    Parameters
    ----------
    action
        What was planned.
    outcome
        ``"done"``, ``"failed"``, ``"superseded"`` (another writer changed the object, and its version counts),
        ``"unresolved"`` (nothing can or may be done), or ``"planned"`` by a dry run.
    error
        Why the action was not done, None otherwise.
    bytes_sent
        Bytes of data sent to the backend.
    """

    action: Action
    outcome: Literal["done", "failed", "superseded", "unresolved", "planned"]
    error: str | None = None
    bytes_sent: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return the step as plain JSON types."""
        own = {"outcome": self.outcome, "error": self.error, "bytes_sent": self.bytes_sent}
        return {**self.action.as_dict(), **own}


#: Called with every step as it is done.
OnStep = Callable[[Step], None]
#: Steps that a report lists; it counts all of them.
NAMED = 1000


@dataclass(frozen=True, slots=True)
class RepairReport(BaseReport):
    """What a repair found and did; true unless some object has too few proven copies.

    Parameters
    ----------
    prefix, dry_run, deep
        The options of the repair.
    objects
        How many keys were inspected.
    done
        How many actions were done (by a dry run: planned), by kind.
    failed
        How many actions failed.
    unresolved
        How many objects are not right on every replica now.
    under_replicated
        How many of them have fewer proven copies than `min_copies`; a replica that did not answer may have one.
    unrecoverable
        How many of them no replica proves any more.
    unreachable
        Backends that could not be listed or did not answer, by name, and why.
    bytes_sent
        Bytes of data sent.
    seconds
        Wall time.
    steps
        The first 1,000 steps.
    """

    prefix: str
    dry_run: bool
    deep: bool
    objects: int
    done: Mapping[str, int]
    failed: int
    unresolved: int
    under_replicated: int
    unrecoverable: int
    unreachable: Mapping[str, str]
    bytes_sent: int
    seconds: float
    steps: tuple[Step, ...]

    @property
    def status(self) -> Status:
        """``"complete"``: all is right now; ``"degraded"``: something remains; ``"failed"``: too few copies."""
        if self.under_replicated or self.unrecoverable:
            return "failed"
        return "degraded" if self.unresolved or self.failed or self.unreachable else "complete"

    @classmethod
    def empty(cls, prefix: str, *, dry_run: bool, deep: bool) -> RepairReport:
        """Return the report of no object, to which others are added."""
        return cls(prefix, dry_run, deep, 0, {}, 0, 0, 0, 0, {}, 0, 0.0, ())

    def plus(self, other: RepairReport) -> RepairReport:
        """Return this report with that of other objects added."""
        return replace(
            self,
            objects=self.objects + other.objects,
            done=Counter(self.done) + Counter(other.done),
            failed=self.failed + other.failed,
            unresolved=self.unresolved + other.unresolved,
            under_replicated=self.under_replicated + other.under_replicated,
            unrecoverable=self.unrecoverable + other.unrecoverable,
            unreachable={**other.unreachable, **self.unreachable},
            bytes_sent=self.bytes_sent + other.bytes_sent,
            steps=(self.steps + other.steps)[:NAMED],
        )
