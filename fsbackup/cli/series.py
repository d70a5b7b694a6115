"""How `prune` names series: what is a version of what on each backend, and which rule keeps how many."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from fsbackup.cli import render

if TYPE_CHECKING:
    from fsbackup.replication.prune import SeriesReport
    from fsbackup.retention import SeriesSummary

#: Whether to name a series: the backend, and the series' name.
Wanted = Callable[[str, str], bool]


def everything(backend: str, series: str) -> bool:  # noqa: ARG001 - the signature of `Wanted`
    """Name every series."""
    return True


def _chosen(report: SeriesReport, wanted: Wanted) -> Iterator[tuple[str, SeriesSummary]]:
    for backend, found in report.backends.items():
        for each in found.series:
            if wanted(backend, each.series):
                yield backend, each


def rows(report: SeriesReport, wanted: Wanted = everything) -> list[render.Row]:
    """Return the series as rows of a table."""
    return [
        {
            "series": each.series,
            "backend": backend,
            "members": each.members,
            "newest": render.time(each.newest_at),
            "kept by": _kept_by(each),
        }
        for backend, each in _chosen(report, wanted)
    ]


def lines(report: SeriesReport, wanted: Wanted) -> list[str]:
    """Return a line about each series."""
    return [
        f"series   {each.series}: {backend}: {render.count(each.members, 'member')}; newest {each.newest} "
        f"({render.time(each.newest_at)}); kept by {_kept_by(each)}"
        for backend, each in _chosen(report, wanted)
    ]


def without(report: SeriesReport) -> list[str]:
    """Return a line for each reason why objects have no series: how many on each backend."""
    counts: dict[str, list[str]] = {}
    for backend, found in report.backends.items():
        for reason, count in found.without.items():
            counts.setdefault(reason, []).append(f"{count:,} on {backend}")
    return [f"kept: {', '.join(each)}: {reason}" for reason, each in counts.items()]


def documents(report: SeriesReport, wanted: Wanted = everything) -> list[dict[str, Any]]:
    """Return series, then reasons why objects have none, as JSON objects."""
    found = {name: each.as_dict() for name, each in report.backends.items()}
    named = [
        {"kind": "series", "backend": name, **each}
        for name, backend in found.items()
        for each in backend["series"]
        if wanted(name, each["series"])
    ]
    return named + [
        {"kind": "without series", "backend": name, "objects": objects, "reason": reason}
        for name, backend in found.items()
        for reason, objects in backend["without"].items()
    ]


def _kept_by(summary: SeriesSummary) -> str:
    return ", ".join(f"{rule} {count:,}" for rule, count in summary.kept.items() if count) or "-"
