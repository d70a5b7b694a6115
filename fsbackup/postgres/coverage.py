"""Which commits of an archive can be recovered: arithmetic over the numbers of its segments. Pure.

A recovery begins at a base backup's first segment and follows the timelines up to its target. On the way it takes
the segments of each timeline up to the one in which the next branched off; that one it takes from the newer
timeline. Where a segment is missing the recovery ends, so what lies behind the gap can be reached from a later
base backup only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf

from fsbackup.retention.archive import Base
from fsbackup.wal import format_lsn, segment_name, segment_number


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
class Fork:
    """Where a timeline and the newest one diverge: up to there both have the same commits, behind it each its own.

    Parameters
    ----------
    timeline, position
        The last timeline that both have, and the position (LSN) on it, as PostgreSQL writes it.
    before
        The last segment that both have whole; None where no history tells.
    at
        The time of the first commit behind it, in epoch seconds; known where a recovery to a moment ended there.
    """

    timeline: int
    position: str
    before: str | None
    at: float | None


@dataclass(frozen=True, slots=True)
class Window:
    """Any archived commit from `begin` to `end` (epoch seconds) can be recovered from the base backup `base`.

    `end` is when the last segment was stored, or a base backup within these segments ended: what they have was
    committed before. The last commit is earlier, and PostgreSQL takes no target behind it. None where no listing
    tells. `timeline` is where recovery arrives, and `last` the last segment that it takes. `fork` is where the
    timeline and the newest one diverge; None for the newest, and where there is no WAL behind that: a timeline
    that ends where the newest one left it has nothing of its own.
    """

    begin: float
    end: float | None
    base: str
    timeline: int
    last: str = ""
    fork: Fork | None = None

    @property
    def position(self) -> str:
        """The position of the last segment, as names have it."""
        return self.last[8:]

    def has(self, when: float) -> bool:
        """Return whether a moment is in it."""
        return self.begin <= when and (self.end is None or when <= self.end)

    def ends_behind(self, other: Window) -> bool:
        """Return whether it goes on where another one has ended: on the same timeline, the WAL tells."""
        if self.timeline == other.timeline:
            return self.position > other.position
        return (self.end or inf) > (other.end or inf)


def merged(reaches: Iterable[Window]) -> list[Window]:
    """Return windows, which come oldest first, without those that are within another one."""
    windows: list[Window] = []
    for each in reaches:
        if all(each.ends_behind(other) for other in windows):
            windows.append(each)
    return windows


def _latest(stored_at: float) -> float:
    """Return the last moment that a time in a listing stands for: many services cut it to the second."""
    return stored_at + 0.999999 if stored_at % 1 == 0 else stored_at


@dataclass(slots=True)
class Coverage:
    """The segments and base backups that one backend has, or all together.

    Parameters
    ----------
    segment_size
        Bytes of a segment.
    histories
        By timeline, its ancestors, oldest first: the timeline, and the position (LSN) at which it was left.
    stops
        By timeline and position at which it was left, the time of the first commit that was left behind, where
        that is known.
    ends
        By label, the position at which a base backup ended, where the number of its last segment does not tell
        whether that was before a timeline was left.
    """

    segment_size: int
    histories: Mapping[int, Sequence[tuple[int, int]]] = field(default_factory=dict)
    stops: Mapping[tuple[int, int], float] = field(default_factory=dict)
    ends: Mapping[str, int] = field(default_factory=dict)
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
        found = {gap: None for base in self.bases for gap in self._walk(base, self._default(base))[1]}
        if self.bases:
            return list(found)
        return [
            self._gap(timeline, one.last + 1, other.first - 1)
            for timeline, runs in self.runs.items()
            for one, other in pairwise(runs)
        ]

    def windows(self) -> list[Window]:
        """Return the periods that can be recovered, oldest first, none within another one.

        From each base backup to the newest timeline, or on its own where it does not lead there.
        """
        bases = {base.label: self._default(base) for base in self.bases}
        return merged(each for each in self.reaches() if each.timeline == bases[each.base])

    def reaches(self) -> list[Window]:
        """Return what can be recovered from each base backup that has the WAL it needs, oldest first, on each
        timeline that it leads to.
        """
        timelines = sorted({*self.runs, *self.histories})
        leading = {each: [base for base in self.bases if self._leads(base, each)] for each in timelines}
        return [
            window
            for base in sorted(self.bases, key=lambda each: each.stopped)
            for timeline in timelines
            if base in leading[timeline] and (window := self._reach(base, timeline, leading[timeline])) is not None
        ]

    def _reach(self, base: Base, timeline: int, leading: Sequence[Base]) -> Window | None:
        """Return what can be recovered from a base backup, one of those leading to a timeline."""
        reached, _ = self._walk(base, timeline)
        if reached is None or reached.last < self._last(base):
            return None
        on = next(each for each, limit in self._way(base, timeline) if reached.last < limit)
        fork, end = self._fork(timeline, reached.last), self._end(reached, leading)
        return Window(base.stopped, end, base.label, timeline, self.name(on, reached.last), fork)

    def _end(self, reached: Run, leading: Sequence[Base]) -> float | None:
        """Return up to when recovery goes that reaches these segments, and with them the ends of base backups.

        A base backup ends after its last segment was stored: where nobody has written since, its end is later.
        """
        if reached.stored_at is None:
            return None
        ended = [base.stopped for base in leading if self._last(base) <= reached.last]
        return max(_latest(reached.stored_at), *ended)

    def _fork(self, timeline: int, reached: int) -> Fork | None:
        """Return where a timeline and the newest one diverge, if what was reached of it goes on behind that.

        The segment of that position counts as behind it: it is in the archive once it is full, or the server has
        switched to the next one, so that the timeline was written to behind the position. The one exception is a
        record at its end that was never written whole.
        """
        if timeline == self.newest_timeline:
            return None
        common = self._common(timeline, self.newest_timeline)
        if not common:
            return Fork(0, format_lsn(0), None, None)
        parent, position = common[-1]
        number = position // self.segment_size
        if reached < number:
            return None
        on = next((each for each, left in common if left // self.segment_size > number - 1), parent)
        return Fork(parent, format_lsn(position), self.name(on, number - 1), self.stops.get((parent, position)))

    def _common(self, one: int, other: int) -> list[tuple[int, int]]:
        """Return the timelines that two have in common, each with the position up to which they do."""
        lines = ([*self.histories.get(each, ()), (each, inf)] for each in (one, other))
        common: list[tuple[int, int]] = []
        for (timeline, left), (other_timeline, other_left) in zip(*lines, strict=False):
            if timeline != other_timeline:
                break
            common.append((timeline, int(min(left, other_left))))
            if left != other_left:
                break
        return common

    def _walk(self, base: Base, target: int) -> tuple[Run | None, list[Gap]]:
        """Return the last run of segments that recovery from a base backup to a timeline reaches, and all gaps on
        its way.
        """
        number, reached, gaps = segment_number(base.position, self.segment_size), None, list[Gap]()
        for timeline, limit in self._way(base, target):
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
        first, last = segment_number(base.position, self.segment_size), self._last(base)
        number = first if reached is None else reached.last + 1
        return self._gap(base.timeline, number, last) if number <= last else None

    def _last(self, base: Base) -> int:
        """Return the number of the last segment without which a base backup is no use."""
        return segment_number(base.last or base.position, self.segment_size)

    def _default(self, base: Base) -> int:
        """Return the timeline to which recovery goes when none is asked for: the newest, or else its own."""
        return self.newest_timeline if self._leads(base, self.newest_timeline) else base.timeline

    def _leads(self, base: Base, target: int) -> bool:
        """Return whether a base backup can be recovered to a timeline.

        Not if it is none of its history: of another branch, or made after its own timeline was left.
        """
        left = dict(self.histories.get(target, ())).get(base.timeline)
        end = self.ends.get(base.label, self._last(base) * self.segment_size)
        return base.timeline == target or (left is not None and end <= left)

    def undecided(self) -> list[Base]:
        """Return the base backups of which only their end tells whether they lead to a timeline: it was left in
        their last segment.
        """
        left = {
            (each, position // self.segment_size) for line in self.histories.values() for each, position in line
        }
        return [base for base in self.bases if (base.timeline, self._last(base)) in left]

    def _way(self, base: Base, target: int) -> list[tuple[int, float]]:
        """Return the timelines that recovery takes, each with the number of the segment that is the next one's."""
        way: list[tuple[int, float]] = [
            (timeline, left // self.segment_size)
            for timeline, left in self.histories.get(target, ())
            if timeline >= base.timeline
        ]
        return [*way, (target, inf)]

    def _gap(self, timeline: int, first: int, last: int) -> Gap:
        return Gap(self.name(timeline, first), self.name(timeline, last), last - first + 1)
