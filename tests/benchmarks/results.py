"""Figures of many rounds as medians, and the tables they are shown in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from tests.benchmarks.measure import Cost


@dataclass
class Series:
    """One contender's costs, a round after the other."""

    name: str
    costs: list[Cost] = field(default_factory=list)

    @property
    def wall(self) -> float:
        return median(cost.wall for cost in self.costs)

    @property
    def cpu(self) -> float:
        return median(cost.cpu for cost in self.costs)

    @property
    def rss(self) -> float:
        return median(cost.rss for cost in self.costs)

    def as_dict(self) -> dict[str, Any]:
        """Return all figures as plain JSON types."""
        rounds = [[round(cost.wall, 3), round(cost.cpu, 3), round(cost.rss, 1)] for cost in self.costs]
        return {"wall": self.wall, "cpu": self.cpu, "rss": self.rss, "rounds": rounds}


def ratio(series: Series, other: Series) -> str:
    """Return how many times as fast as `other` it is: the median of the rounds' own ratios."""
    pairs = zip(series.costs, other.costs, strict=True)
    return f"{median(theirs.wall / ours.wall for ours, theirs in pairs):.2f}x"


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table as text: the first column to the left, figures to the right."""
    columns = list(zip(head, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]

    def line(cells: Sequence[str]) -> str:
        first, *rest = zip(cells, widths, strict=True)
        return "  ".join([first[0].ljust(first[1]), *(text.rjust(width) for text, width in rest)]).rstrip()

    return "\n".join([title, line(head), line(["-" * width for width in widths]), *map(line, rows)])


def as_dict(series: Mapping[str, Series]) -> dict[str, Any]:
    """Return several series as plain JSON types."""
    return {name: each.as_dict() for name, each in series.items()}
