"""Verify and repair whose work on single objects other processes do: who walks here also counts, and tells."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from fsbackup.engine.replicas import ReplicaSet
from fsbackup.loop import iterate, run
from fsbackup.replication import places
from fsbackup.replication.classify import IsExpired
from fsbackup.replication.portions import Part, Portion, Question, Spread, Task, Work, portions, questions
from fsbackup.replication.repair.orphans import list_intents
from fsbackup.replication.repair.repairer import Repairer, RepairOptions
from fsbackup.replication.repair.report import OnStep as HearStep
from fsbackup.replication.repair.report import RepairReport
from fsbackup.replication.repair.run import RepairTask, clean_up
from fsbackup.replication.sample import Sample
from fsbackup.replication.verify import CopyProblem, VerifyReport, VerifyTask, empty_report, finish_report
from fsbackup.replication.verify import OnProblem as HearProblem
from fsbackup.replication.walk import Unreachable, Walk


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Other processes that can open the same set.

    Parameters
    ----------
    spread
        Has them do work.
    path, name
        The configuration file that they read, and the set in it.
    """

    spread: Spread
    path: str
    name: str

    @contextmanager
    def parts(
        self, task: Task[Any, Any], found: tuple[places.Place, ...], cut: Iterator[Portion]
    ) -> Generator[Iterator[Part[Any, Any]], None, None]:
        """Yield what comes of each portion."""
        work = Work(self.path, self.name, task, found, secrets.token_hex(8))
        with closing(self.spread(work, cut)) as parts:
            yield parts


def verify(
    targets: ReplicaSet,
    elsewhere: Elsewhere,
    prefix: str,
    *,
    deep: bool,
    sample: Sample | None,
    hear: HearProblem | None,
    expired: IsExpired | None,
    away: Unreachable,
) -> VerifyReport:
    """Verify as `fsbackup.replication.verify.verify` does, from synchronous code."""
    started = time.monotonic()
    found, errors = run(places.look(targets.stores, away))
    walk = Walk(targets.stores, prefix, unreachable=errors)
    report = empty_report(targets, prefix, deep=deep, sample=sample)
    asked = questions(walk, sample.includes if sample else None)
    with _cut(targets, asked, expired) as cut, elsewhere.parts(VerifyTask(deep), found, cut) as parts:
        part: Part[VerifyReport, CopyProblem]
        for part in parts:
            report = report.plus(part.report)
            _tell(hear, part)
    return finish_report(report, walk.errors, time.monotonic() - started)


def repair(
    targets: ReplicaSet, elsewhere: Elsewhere, options: RepairOptions, hear: HearStep | None = None
) -> RepairReport:
    """Repair as `fsbackup.replication.repair.repair` does, from synchronous code."""
    started = time.monotonic()
    found, errors = run(places.look(targets.stores, options.away or {}))
    pending, errors = run(list_intents(targets.stores, options.prefix, errors))
    walk = Walk(targets.stores, options.prefix, unreachable=errors)
    task = RepairTask(options.dry_run, options.deep, options.adopt, options.safe_age)
    report = RepairReport.blank(options.prefix, dry_run=options.dry_run, deep=options.deep)
    asked = questions(walk, pending=pending)
    with _cut(targets, asked, options.expired) as cut, elsewhere.parts(task, found, cut) as parts:
        part: Part[RepairReport, Any]
        for part in parts:
            report = report.plus(part.report)
            _tell(hear, part)
    report = report.plus(run(_rest(targets, options, hear, report, walk.errors)))
    return replace(report, seconds=time.monotonic() - started)


async def _rest(
    targets: ReplicaSet, options: RepairOptions, hear: HearStep | None, report: RepairReport, errors: Unreachable
) -> RepairReport:
    """Do what is done once per set, after all objects."""
    mender = Repairer(targets, options, hear)
    there = replace(targets, stores=tuple(each for each in targets.stores if each.name not in report.away))
    return mender.report(await clean_up(there, options, mender, errors))


def _tell(hear: Callable[[Any], None] | None, part: Part[Any, Any]) -> None:
    if hear is not None:
        for each in part.heard:
            hear(each)


def _cut(
    targets: ReplicaSet, asked: AsyncGenerator[tuple[Question, Unreachable], None], expired: IsExpired | None
) -> closing[Generator[Portion, None, None]]:
    """Yield portions as they are taken; the walk ends with the block."""
    return closing(iterate(portions(asked, expired, targets), 1))
