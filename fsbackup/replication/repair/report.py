"""What repair plans and reports: frozen values, every action with its reason in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from fsbackup.engine.results import Status

Kind = Literal[
    "refill",  # bring the newest version, proven block by block
    "write manifest",  # its data is the newest version, only its manifest is not
    "finish",  # its replacement was announced and its data is there: write its manifest
    "clear announcement",  # of a replacement that is done, or never came
    "delete",  # of what was deleted while it was away
    "forget delete",  # the tombstones, which nobody needs once all have confirmed
    "adopt",  # data without a manifest anywhere gets one
    "clear leftover",  # what an unfinished write of ours left behind
    "leave",  # nothing can or may be done; `problem` says what is wrong
]

#: Why something is left as it is.
Unresolved = Literal["lost", "conflict", "no manifest", "away", "busy"]


@dataclass(frozen=True, slots=True)
class Action:
    """One thing to do, or to leave.

    Parameters
    ----------
    kind
        What to do.
    key
        The object; a leftover's own name.
    backend
        Where; None: in the whole set.
    reason
        Why, for people.
    problem
        What is wrong where nothing is done; None for everything that is.
    """

    kind: Kind
    key: str
    backend: str | None
    reason: str
    problem: Unresolved | None = None

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
class Step:
    """An action and how it went.

    Parameters
    ----------
    action
        What was to do.
    outcome
        ``"done"``, ``"failed"``, ``"overtaken"`` (somebody else wrote the object meanwhile, which counts),
        ``"left"`` (nothing can or may be done), or ``"planned"`` by a dry run.
    error
        Why it was not done, None otherwise.
    bytes_sent
        Bytes of data sent to the backend.
    """

    action: Action
    outcome: Literal["done", "failed", "overtaken", "left", "planned"]
    error: str | None = None
    bytes_sent: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return the step as plain JSON types."""
        known = {"outcome": self.outcome, "error": self.error, "bytes_sent": self.bytes_sent}
        return {**self.action.as_dict(), **known}


#: Hears of every step as it is done.
OnStep = Callable[[Step], None]
#: Steps that a report names; it counts them all.
NAMED = 1000


@dataclass(frozen=True, slots=True)
class RepairReport:
    """What a repair found and did; true unless some object has too few proven copies.

    Parameters
    ----------
    prefix, dry_run, deep
        What was asked for.
    objects
        How many keys were examined.
    done
        How many actions were done (by a dry run: planned), by kind.
    failed
        How many actions failed.
    left
        How many objects are not right everywhere now.
    short
        How many of them have fewer proven copies than `min_copies`, as far as could be asked.
    lost
        How many of them no replica can prove any more.
    away
        Backends that could not be listed or asked, by name, and why.
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
    left: int
    short: int
    lost: int
    away: Mapping[str, str]
    bytes_sent: int
    seconds: float
    steps: tuple[Step, ...]

    @property
    def status(self) -> Status:
        """``"complete"``: all is right now; ``"degraded"``: something remains; ``"failed"``: too few copies."""
        if self.short or self.lost:
            return "failed"
        return "degraded" if self.left or self.failed or self.away else "complete"

    def __bool__(self) -> bool:
        return self.status != "failed"

    @classmethod
    def blank(cls, prefix: str, *, dry_run: bool, deep: bool) -> RepairReport:
        """Return the report on nothing, to which others are added."""
        return cls(prefix, dry_run, deep, 0, {}, 0, 0, 0, 0, {}, 0, 0.0, ())

    def plus(self, other: RepairReport) -> RepairReport:
        """Return this report with what was done to other objects added."""
        return replace(
            self,
            objects=self.objects + other.objects,
            done=Counter(self.done) + Counter(other.done),
            failed=self.failed + other.failed,
            left=self.left + other.left,
            short=self.short + other.short,
            lost=self.lost + other.lost,
            away={**other.away, **self.away},
            bytes_sent=self.bytes_sent + other.bytes_sent,
            steps=(self.steps + other.steps)[:NAMED],
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON types."""
        fields = {name: getattr(self, name) for name in self.__slots__ if name != "steps"}
        own = {"done": dict(self.done), "away": dict(self.away), "seconds": round(self.seconds, 3)}
        steps = [step.as_dict() for step in self.steps]
        return {"status": self.status, **fields, **own, "steps": steps}
