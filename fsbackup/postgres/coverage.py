"""Which points in time an archive can be recovered to: arithmetic over the numbers of its segments. Pure.

A recovery begins at a base backup's first segment and follows the timelines up to its target. On the way it takes
the segments of each timeline up to the one in which the next branched off; that one it takes from the newer
timeline. Where a segment is missing the recovery ends, so what lies behind the gap can be reached from a later
base backup only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf

from fsbackup.retention.archive import Base
from fsbackup.wal import segment_name, segment_number


@dataclass(slots=True)
class Run:
    """Segments of one timeline without a gap between them: their numbers, and when the last one was stored."""

    first: int
    last: int
    stored_at: float | None = None


@dataclass(frozen=True, slots=True)
class Gap:
    """Segments that are missing, by the names of the first and the last, and how many."""

    first: str
    last: str
    count: int

    def __str__(self) -> str:
        return self.first if self.count == 1 else f"{self.first} to {self.last} ({self.count})"


@dataclass(frozen=True, slots=True)
class Window:
    """Any point in time from `begin` to `end` (epoch seconds) can be recovered from the base backup `base`.

    `end` is when the last segment was stored: what it has was committed before. None where no listing tells.
    `timeline` is where recovery arrives.
    """

    begin: float
    end: float | None
    base: str
    timeline: int

    def has(self, when: float) -> bool:
        """Return whether a moment is in it."""
        return self.begin <= when and (self.end is None or when <= self.end)


@dataclass(slots=True)
class Coverage:
    """The segments and base backups that one backend has, or all together.

    Parameters
    ----------
    segment_size
        Bytes of a segment.
    histories
        By timeline, its ancestors, oldest first: the timeline, and the position (LSN) at which it was left.
    """

    segment_size: int
    histories: Mapping[int, Sequence[tuple[int, int]]] = field(default_factory=dict)
    bases: list[Base] = field(default_factory=list)
    runs: dict[int, list[Run]] = field(default_factory=dict)

    def add(self, timeline: int, position: str, stored_at: float | None) -> None:
        """Add a segment; those of a timeline must come in order."""
        number, runs = segment_number(position, self.segment_size), self.runs.setdefault(timeline, [])
        if runs and runs[-1].last + 1 == number:
            runs[-1].last, runs[-1].stored_at = number, stored_at
        elif not runs or runs[-1].last < number:
            runs.append(Run(number, number, stored_at))

    def name(self, timeline: int, number: int) -> str:
        """Return the name of a segment."""
        return segment_name(timeline, number * self.segment_size, self.segment_size)

    @property
    def newest_timeline(self) -> int:
        """The highest timeline that has segments or a history; 0 when there is none."""
        return max([*self.runs, *self.histories], default=0)

    def gaps(self) -> list[Gap]:
        """Return what is missing on the way of any base backup; without one, between any two segments."""
        found = {gap: None for base in self.bases for gap in self._walk(base)[1]}
        if self.bases:
            return list(found)
        return [
            self._gap(timeline, one.last + 1, other.first - 1)
            for timeline, runs in self.runs.items()
            for one, other in pairwise(runs)
        ]

    def windows(self) -> list[Window]:
        """Return the periods that can be recovered, oldest first, none within another one."""
        windows: list[Window] = []
        for each in self.reaches():
            if not windows or (each.end or inf) > (windows[-1].end or inf):
                windows.append(each)
        return windows

    def reaches(self) -> list[Window]:
        """Return what can be recovered from each base backup that has the WAL it needs, oldest first."""
        found = []
        for base in sorted(self.bases, key=lambda each: each.stopped):
            end, _ = self._walk(base)
            if end is not None and end.last >= segment_number(base.last or base.position, self.segment_size):
                # What nobody has written to since ends where the base backup does, by another clock even before.
                last = None if end.stored_at is None else max(end.stored_at, base.stopped)
                found.append(Window(base.stopped, last, base.label, self._way(base)[-1][0]))
        return found

    def _walk(self, base: Base) -> tuple[Run | None, list[Gap]]:
        """Return the last run of segments that recovery from a base backup reaches, and all gaps on its way."""
        number, reached, gaps = segment_number(base.position, self.segment_size), None, list[Gap]()
        for timeline, limit in self._way(base):
            runs = [run for run in self.runs.get(timeline, []) if run.last >= number]
            for run in runs:
                if run.first >= limit:
                    break
                if run.first > number:
                    gaps.append(self._gap(timeline, number, run.first - 1))
                if not gaps:
                    reached = Run(run.first, int(min(run.last, limit - 1)), run.stored_at)
                number = run.last + 1
            if limit < inf:
                if number < limit:
                    gaps.append(self._gap(timeline, number, int(limit) - 1))
                number = int(limit)
        if not gaps and (least := self._next_needed(base, reached)) is not None:
            gaps.append(least)
        return reached, gaps

    def _next_needed(self, base: Base, reached: Run | None) -> Gap | None:
        """Return what is missing of the segments without which a base backup is no use, at the end of the WAL."""
        first, last = (
            segment_number(each, self.segment_size) for each in (base.position, base.last or base.position)
        )
        number = first if reached is None else reached.last + 1
        return self._gap(base.timeline, number, last) if number <= last else None

    def _way(self, base: Base) -> list[tuple[int, float]]:
        """Return the timelines that recovery takes, each with the number of the segment that is the next one's.

        They lead to the newest timeline, unless the base backup is none of its history: of another branch, or made
        after its own timeline was left.
        """
        target = self.newest_timeline
        ancestors = self.histories.get(target, ())
        left_at = dict(ancestors).get(base.timeline, 0) // self.segment_size
        if base.timeline != target and segment_number(base.last or base.position, self.segment_size) > left_at:
            return [(base.timeline, inf)]
        way: list[tuple[int, float]] = [
            (timeline, left // self.segment_size) for timeline, left in ancestors if timeline >= base.timeline
        ]
        return [*way, (target, inf)]

    def _gap(self, timeline: int, first: int, last: int) -> Gap:
        return Gap(self.name(timeline, first), self.name(timeline, last), last - first + 1)
