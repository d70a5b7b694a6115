"""The report of prune: frozen values; every decision has its reason in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from fsbackup.engine.results import BaseReport, Serializable, Status
from fsbackup.retention import SeriesSummary

PruneOutcome = Literal[
    "deleted",  # from this backend
    "planned",  # a dry run: it would be deleted
    "cleared",  # a manifest without data, left by an interrupted prune
    "kept",  # the retention rule keeps it, or nothing is deleted on this backend now
    "blocked",  # expired, but something must be repaired first
    "locked",  # expired, but a lock of the backend keeps it for now
    "failed",  # the backend did not answer, or did not delete it
]


@dataclass(frozen=True, slots=True)
class PruneStep(Serializable):
    """The outcome for one object on one backend.

    Parameters
    ----------
    key, backend
        The copy.
    outcome
        What was done.
    reason
        Why, for people; for ``"failed"`` and ``"locked"`` with the backend's error.
    size
        Bytes of the data; 0 where there is none.
    created_at
        When this version was made, by its manifest (ISO 8601); None where the manifest was not read.
    series
        The name of the series that it is a version of, by this backend's rule; None without one.
    """

    key: str
    backend: str
    outcome: PruneOutcome
    reason: str
    size: int = 0
    created_at: str | None = None
    series: str | None = None


#: Called with every step, also for copies that are kept.
OnStep = Callable[[PruneStep], None]
#: Steps that a report lists; it counts all of them.
NAMED = 1000


@dataclass(frozen=True, slots=True)
class PruneCounts(Serializable):
    """The outcomes on one backend.

    Parameters
    ----------
    outcomes
        How many objects had each outcome.
    bytes_freed
        Bytes of data deleted (by a dry run: that would be).
    stopped
        Why nothing is deleted on this backend; None when deleting is possible.
    """

    outcomes: Mapping[str, int]
    bytes_freed: int
    stopped: str | None

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain JSON types."""
        return {**self.outcomes, "bytes_freed": self.bytes_freed, "stopped": self.stopped}


@dataclass(frozen=True, slots=True)
class BackendSeries(Serializable):
    """The series on one backend.

    Parameters
    ----------
    series
        Each series, by name.
    without
        How many objects have no series, and so are kept, by the reason.
    """

    series: tuple[SeriesSummary, ...]
    without: Mapping[str, int]

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain JSON types."""
        return {"series": [asdict(each) for each in self.series], "without": dict(self.without)}


@dataclass(frozen=True, slots=True)
class SeriesReport(BaseReport):
    """What the retention of each backend takes for versions of one thing, and what of it is kept by which rule.

    Parameters
    ----------
    backends
        The series of each backend that has a rule which deletes, by the backend's name.
    stopped
        Why a backend's listing is not complete, or cannot be trusted, by name.
    """

    backends: Mapping[str, BackendSeries]
    stopped: Mapping[str, str]

    @property
    def status(self) -> Status:
        """``"degraded"`` when a backend's series are not all known, else ``"complete"``."""
        return "degraded" if self.stopped else "complete"


@dataclass(frozen=True, slots=True)
class PruneReport(BaseReport):
    """What a prune did; true unless something failed.

    Parameters
    ----------
    prefix, dry_run
        The options of the prune.
    backends
        The counts of each backend, by name.
    seconds
        Wall time.
    steps
        The first 1,000 steps other than ``"kept"``.
    series
        All series of the set, whatever the prefix; None unless it was a dry run.
    """

    prefix: str
    dry_run: bool
    backends: Mapping[str, PruneCounts]
    seconds: float
    steps: tuple[PruneStep, ...]
    series: SeriesReport | None = None

    def count(self, outcome: str) -> int:
        """Return how many copies had this outcome, over all backends."""
        return sum(each.outcomes.get(outcome, 0) for each in self.backends.values())

    @property
    def status(self) -> Status:
        """``"failed"``, ``"degraded"`` (something must be repaired first) or ``"complete"``, also when locked."""
        if self.count("failed"):
            return "failed"
        stopped = any(each.stopped for each in self.backends.values())
        return "degraded" if stopped or self.count("blocked") else "complete"
