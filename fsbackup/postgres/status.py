"""`survey`: what an archive has on each backend, what is missing in it, and to which moment one can go back.

Reads listings, ``cluster.json`` and the ``.history`` files, which are few and small, and the description of a base
backup in whose last segment a timeline was left; no segment.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import ClassVar

from fsbackup import clock
from fsbackup.engine import restore
from fsbackup.engine.results import BaseReport, Serializable, Status
from fsbackup.errors import FsbackupError
from fsbackup.loop import run
from fsbackup.postgres.archive import Archive, read_cluster
from fsbackup.postgres.coverage import Coverage, Gap, Window, merged
from fsbackup.replication.drills import last_drill
from fsbackup.replication.walk import KeyEntry, Walk
from fsbackup.retention.archive import ArchivePlan, ArchiveRule, Base
from fsbackup.wal import WalName, description_key, parse_history, parse_key, parse_lsn, parse_stops, wal_key

#: Of an archive that has no segment yet.
_DEFAULT_SEGMENT_SIZE = 16 << 20


@dataclass(frozen=True, slots=True)
class Holding(Serializable):
    """What one backend has of an archive, or all together.

    Parameters
    ----------
    bases
        The complete base backups, oldest first.
    unfinished
        Labels of base backups without a description, or without data: under way, or interrupted.
    timelines
        By timeline, the names of the first and the last of each run of segments without a gap between them.
    histories
        The timelines whose ``.history`` it has: without that, nothing is recovered to one.
    gaps
        What is missing on the way of any base backup; without one, between any two segments.
    windows
        The periods that can be recovered; one, unless there is a gap.
    reaches
        What each base backup can be recovered to, oldest first, on each timeline that it leads to; without those
        that lack WAL they need.
    newest_timeline
        The highest timeline that has segments or a history; 0 without one.
    newest, newest_at
        The last segment of the highest timeline, and when it was stored, in epoch seconds; None without one.
    error
        Why the backend could not be listed; nothing else is known then.
    """

    bases: tuple[Base, ...] = ()
    unfinished: tuple[str, ...] = ()
    timelines: Mapping[int, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    histories: tuple[int, ...] = ()
    gaps: tuple[Gap, ...] = ()
    windows: tuple[Window, ...] = ()
    reaches: tuple[Window, ...] = ()
    newest_timeline: int = 0
    newest: str | None = None
    newest_at: float | None = None
    error: str | None = None

    def windows_on(self, timeline: int) -> list[Window]:
        """Return the periods that can be recovered on one timeline, oldest first, none within another one."""
        return merged(each for each in self.reaches if each.timeline == timeline)

    def lacks(self, other: Holding) -> bool:
        """Return whether it has less than `other`, as far as recovery is concerned."""
        own, others = ((each.bases, each.timelines, each.histories) for each in (self, other))
        return own != others


@dataclass(frozen=True, slots=True)
class ArchiveStatus(BaseReport):
    """An archive, backend by backend.

    Parameters
    ----------
    cluster, prefix
        Its name and prefix.
    system_identifier
        The cluster's; None while nothing is archived.
    backends
        What each backend has, by name.
    together
        What those that answered have together: this is what can be recovered.
    problems
        What is wrong with the archive as a whole, for people.
    lag
        Seconds since the newest segment was stored; None without one.
    drilled_at
        When the last drill that succeeded began, in epoch seconds; None when no backend knows of one.
    """

    cluster: str
    prefix: str
    system_identifier: str | None
    backends: Mapping[str, Holding]
    together: Holding
    problems: tuple[str, ...]
    lag: float | None
    drilled_at: float | None

    json_properties: ClassVar[tuple[str, ...]] = ("status",)

    @property
    def status(self) -> Status:
        """``"failed"`` with a problem; ``"degraded"`` while a backend is away, or lacks what others have."""
        if self.problems:
            return "failed"
        poor = any(each.error or each.lacks(self.together) for each in self.backends.values())
        return "degraded" if poor else "complete"


def survey(archive: Archive, *, max_lag: float | None = None) -> ArchiveStatus:
    """Return what the archive has on each backend, what is missing, and the window one can go back to.

    Parameters
    ----------
    archive
        What to look at.
    max_lag
        Seconds: an older newest segment is a problem, also of a server that has nothing to archive.

    Raises
    ------
    NoHealthyReplicaError
        When no backend can be listed, or nobody can tell whose archive it is.
    """
    return run(_Survey(archive).run(max_lag))


def window(archive: Archive) -> tuple[Window, ...]:
    """Return the periods of which every archived commit can be recovered; one, unless there is a gap.

    Raises
    ------
    NoHealthyReplicaError
        As `survey`.
    """
    return survey(archive).together.windows


@dataclass
class _Collected:
    """What is seen of one backend: the plan knows base backups, the coverage segments."""

    plan: ArchivePlan
    coverage: Coverage
    histories: set[int] = field(default_factory=set)


class _Survey:
    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._stops: dict[tuple[int, int], float] = {}
        self._problems: list[str] = []
        #: By backend; under "" all together.
        self._collected: dict[str, _Collected] = {}

    async def run(self, max_lag: float | None) -> ArchiveStatus:
        cluster = await read_cluster(self._archive)
        size = int(cluster["segment_size"]) if cluster else _DEFAULT_SEGMENT_SIZE
        stores, now = self._archive.targets.stores, clock.now()
        rule = ArchiveRule(self._archive.prefix)
        self._collected = {
            name: _Collected(ArchivePlan(rule, now), Coverage(size))
            for name in ["", *(each.name for each in stores)]
        }
        walk = Walk(stores, f"{self._archive.prefix}/")
        async with aclosing(walk.keys()) as keys:
            async for entry in keys:
                self._add(entry)
        await self._read_histories()
        together = self._holding("")
        backends = {
            store.name: Holding(error=walk.errors[store.name].reason)
            if store.name in walk.errors
            else self._holding(store.name)
            for store in stores
        }
        lag = None if together.newest_at is None else now - together.newest_at
        self._judge(together, lag, max_lag)
        whose = str(cluster["system_identifier"]) if cluster else None
        archive = self._archive
        drilled_at = await last_drill(archive.targets, archive.name)
        return ArchiveStatus(
            archive.name, archive.prefix, whose, backends, together, tuple(self._problems), lag, drilled_at
        )

    def _add(self, entry: KeyEntry) -> None:
        part = parse_key(self._archive.prefix, entry.key)
        if isinstance(part, WalName) and part.kind == "history":
            self._collected[""].histories.add(part.timeline)
        for name, listed in [("", None), *entry.replicas.items()]:
            has_data = listed is not None and listed.data is not None if name else _is_anywhere(entry)
            if not has_data:
                continue
            self._collected[name].plan.see(entry.key)
            if isinstance(part, WalName) and part.kind == "history":
                self._collected[name].histories.add(part.timeline)
            if isinstance(part, WalName) and part.kind == "segment":
                when = listed.recorded_at if listed is not None else entry.stored_at
                self._collected[name].coverage.add(part.timeline, part.position, when)

    async def _read_histories(self) -> None:
        """Read where timelines branched off; a timeline with segments and without a history is a problem."""
        known = self._collected[""].histories
        found = {timeline: await self._history(timeline) for timeline in sorted(known)}
        for timeline in self._collected[""].coverage.runs:
            if timeline > 1 and timeline not in known:
                self._problems.append(f"{timeline:08X}.history is missing: nobody knows where that timeline began")
        for each in self._collected.values():
            each.coverage.histories = {timeline: found[timeline] for timeline in sorted(each.histories)}
            each.coverage.stops = self._stops
            each.coverage.bases = each.plan.bases
        ends = {base.label: await self._end(base) for base in self._collected[""].coverage.undecided()}
        for each in self._collected.values():
            each.coverage.ends = {label: end for label, end in ends.items() if end is not None}

    async def _end(self, base: Base) -> int | None:
        """Return the position at which a base backup ended, as its description has it; None where it does not."""
        prefix, last = self._archive.prefix, f"{base.timeline:08X}{base.last}"
        key = description_key(prefix, base.label, base.stopped, base.segment, last)
        try:
            return parse_lsn(json.loads(await restore.read_range(self._archive.targets, key, 0, None))["stop"])
        except (FsbackupError, ValueError, KeyError, TypeError):
            return None

    async def _history(self, timeline: int) -> list[tuple[int, int]]:
        """Return the ancestors of a timeline; none where they cannot be read: nothing leads there then."""
        name = f"{timeline:08X}.history"
        try:
            data = await restore.read_range(self._archive.targets, wal_key(self._archive.prefix, name), 0, None)
            ancestors = parse_history(data.decode())
            self._stops |= parse_stops(data.decode())
        except (FsbackupError, ValueError) as error:
            self._problems.append(f"{name} cannot be read: {error}")
            return []
        return ancestors

    def _holding(self, name: str) -> Holding:
        coverage, plan = self._collected[name].coverage, self._collected[name].plan
        last = coverage.runs.get(max(coverage.runs, default=0), [])
        timelines = {
            timeline: tuple(
                (coverage.name(timeline, run.first), coverage.name(timeline, run.last)) for run in runs
            )
            for timeline, runs in sorted(coverage.runs.items())
        }
        return Holding(
            bases=tuple(plan.bases),
            unfinished=tuple(plan.unfinished),
            timelines=timelines,
            histories=tuple(coverage.histories),
            gaps=tuple(coverage.gaps()),
            windows=tuple(coverage.windows()),
            reaches=tuple(coverage.reaches()),
            newest_timeline=coverage.newest_timeline,
            newest=timelines[max(timelines)][-1][1] if timelines else None,
            newest_at=last[-1].stored_at if last else None,
        )

    def _judge(self, together: Holding, lag: float | None, max_lag: float | None) -> None:
        self._problems += [f"gap: {gap} missing on every backend that answered" for gap in together.gaps]
        if not together.bases:
            self._problems.append("no base backup is complete: without one, WAL restores nothing")
        elif not together.windows:
            self._problems.append("no base backup has the WAL that it needs")
        elif together.newest_timeline not in {each.timeline for each in together.reaches}:
            self._problems.append(f"no base backup leads to timeline {together.newest_timeline}, the newest")
        if max_lag is not None and (lag is None or lag > max_lag):
            since = "nothing is archived" if lag is None else f"the newest segment is {lag:.0f} s old"
            why = "the server is idle, or does not archive; `fsbackup doctor` asks it"
            self._problems.append(f"{since}, and at most {max_lag:.0f} s are allowed: {why}")


def _is_anywhere(entry: KeyEntry) -> bool:
    return any(listed is not None and listed.data is not None for listed in entry.replicas.values())
