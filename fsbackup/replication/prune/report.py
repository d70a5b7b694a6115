"""What prune reports: frozen values, every decision with its reason in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from fsbackup.engine.results import Status

PruneOutcome = Literal[
    "let go",  # removed from this backend
    "planned",  # it would be, but this is a dry run
    "cleared",  # a manifest without data, which a prune that was cut short left
    "kept",  # its rule keeps it, or nothing is let go on this backend now
    "held",  # its rule lets it go, but something else must be mended first
    "not yet",  # its rule lets it go, but the backend's own lock does not
    "failed",  # the backend could not be asked, or did not remove it
]


@dataclass(frozen=True, slots=True)
class PruneStep:
    """What became of one object on one backend.

    Parameters
    ----------
    key, backend
        Which.
    outcome
        What was done.
    reason
        Why, for people; for ``"failed"`` and ``"not yet"`` what the backend said.
    size
        Bytes of the data; 0 where there is none.
    created_at
        When this version was made, by its manifest (ISO 8601); None where that was not read.
    """

    key: str
    backend: str
    outcome: PruneOutcome
    reason: str
    size: int = 0
    created_at: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the step as plain JSON types."""
        return asdict(self)


#: Hears of every step, also of what is kept.
OnStep = Callable[[PruneStep], None]
#: Steps that a report names; it counts them all.
NAMED = 1000


@dataclass(frozen=True, slots=True)
class PruneCounts:
    """What became of one backend's objects.

    Parameters
    ----------
    outcomes
        How many had each outcome.
    bytes_freed
        Bytes of data let go (by a dry run: that would be).
    stopped
        Why nothing is let go here, None when it could be.
    """

    outcomes: Mapping[str, int]
    bytes_freed: int
    stopped: str | None

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain JSON types."""
        return {**self.outcomes, "bytes_freed": self.bytes_freed, "stopped": self.stopped}


@dataclass(frozen=True, slots=True)
class PruneReport:
    """What a prune did; true unless something failed.

    Parameters
    ----------
    prefix, dry_run
        What was asked for.
    backends
        Each backend's part, by name.
    seconds
        Wall time.
    steps
        The first 1,000 that are not simply kept.
    """

    prefix: str
    dry_run: bool
    backends: Mapping[str, PruneCounts]
    seconds: float
    steps: tuple[PruneStep, ...]

    def count(self, outcome: str) -> int:
        """Return how many steps on all backends had this outcome."""
        return sum(each.outcomes.get(outcome, 0) for each in self.backends.values())

    @property
    def status(self) -> Status:
        """``"failed"``, ``"degraded"`` (something must be mended first) or ``"complete"``, also when locked."""
        if self.count("failed"):
            return "failed"
        stopped = any(each.stopped for each in self.backends.values())
        return "degraded" if stopped or self.count("held") else "complete"

    def __bool__(self) -> bool:
        return self.status != "failed"

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON types."""
        return {
            "prefix": self.prefix,
            "dry_run": self.dry_run,
            "status": self.status,
            "backends": {name: each.as_dict() for name, each in self.backends.items()},
            "seconds": round(self.seconds, 3),
            "steps": [step.as_dict() for step in self.steps],
        }
