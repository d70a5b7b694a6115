"""Running a job: its files, slice by slice, to every replica of its set."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar, cast

from fsbackup.factory import open_set
from fsbackup.jobs.found import Missed, Skipped
from fsbackup.jobs.plan import Planned, job_of, plan_job
from fsbackup.jobs.report import BackendTally, FileOutcome, FileStatus, JobReport
from fsbackup.transfer.results import ReplicaResult, Report

if TYPE_CHECKING:
    from fsspec.callbacks import Callback

    from fsbackup.config import Config
    from fsbackup.replication.batch import Outcome
    from fsbackup.replication.storage import ReplicatedStorage

T = TypeVar("T")

log = logging.getLogger("fsbackup.jobs")

#: Files planned and handed over at once: bounds memory, and one listing serves them all.
SLICE = 2000
#: Failed and degraded files that a report names; it counts them all.
NAMED = 100


def run_job(
    config: Config,
    name: str,
    *,
    now: datetime | None = None,
    on_file: Callable[[FileOutcome], None] | None = None,
    progress: Callable[[Any, str], Callback | None] | None = None,
) -> JobReport:
    """Store every file of a job in every replica of its set.

    A file that vanishes, changes while it is read or cannot be read is a failed outcome and logged as an ERROR;
    the rest go on.

    Parameters
    ----------
    config
        From `load_config`.
    name
        The job.
    now
        The time that ``{now}`` in the destination stands for; the local time by default.
    on_file
        Hears how each file fared, as it is known and in no particular order.
    progress
        Makes the fsspec callback for each (path, key), or None.

    Raises
    ------
    ConfigError
        When there is no such job, or a backend cannot be opened as it is configured.
    """
    job = job_of(config, name)
    store = open_set(config, job.replication)
    tally = _Tally(store, on_file)
    plan = plan_job(config, name, now=now)
    for files in _slices(_only_files(plan, tally), SLICE):
        items = [(file.path, file.key) for file in files]
        outcomes = store.replicate_many(items, overwrite=job.overwrite, callback=progress)
        # Closed on every way out: uploads that are under way end and clean up before a Ctrl-C goes on.
        with closing(cast("Generator[Outcome, None, None]", outcomes)) as results:
            for outcome in results:
                tally.outcome(outcome)
    return tally.report(name, job.replication)


def _slices(values: Iterable[T], length: int) -> Iterator[list[T]]:
    rest = iter(values)
    while part := list(islice(rest, length)):
        yield part


def _only_files(plan: Iterable[Planned | Missed | Skipped], tally: _Tally) -> Iterator[Planned]:
    for found in plan:
        if isinstance(found, Planned):
            yield found
        else:
            tally.no_file(found)


class _Tally:
    """Counts outcomes, and hands each one on."""

    def __init__(self, store: ReplicatedStorage, on_file: Callable[[FileOutcome], None] | None) -> None:
        self._started = time.monotonic()
        self._on_file = on_file
        self._files: Counter[str] = Counter()
        self._backends = {name: _BackendCount(each.location) for name, each in store.backends.items()}
        self._problems: list[FileOutcome] = []

    def no_file(self, found: Missed | Skipped) -> None:
        if isinstance(found, Skipped):
            self._files["skipped"] += 1
            log.log(found.level, "skipped: %s: %s", found.path, found.reason)
        else:
            self._unread(found.path, None, found.error)

    def outcome(self, outcome: Outcome) -> None:
        path, key = str(outcome.item.source), outcome.item.key
        if outcome.report is None:
            assert outcome.error is not None
            self._unread(path, key, outcome.error)
            return
        began = time.monotonic() - self._started - outcome.report.seconds
        for backend, result in outcome.report.replicas.items():
            self._backends[backend].add(result, began)
        self._files["bytes"] += outcome.report.size or 0
        self._count(_of_report(path, outcome.report))

    def _unread(self, path: str, key: str | None, error: Exception) -> None:
        fields = {"operation": "read", "key": key, "outcome": "failed", "error_type": type(error).__name__}
        log.error("not backed up: %s", error, extra={**fields, "error": str(error)})
        self._count(FileOutcome(path, key, "failed", error=str(error), error_type=type(error).__name__))

    def _count(self, outcome: FileOutcome) -> None:
        self._files[outcome.status] += 1
        if outcome.error is not None and len(self._problems) < NAMED:
            self._problems.append(outcome)
        if self._on_file:
            self._on_file(outcome)

    def report(self, job: str, replication: str) -> JobReport:
        return JobReport(
            job=job,
            replication=replication,
            stored=self._files["stored"],
            already=self._files["already"],
            degraded=self._files["degraded"],
            failed=self._files["failed"],
            skipped=self._files["skipped"],
            bytes_read=self._files["bytes"],
            seconds=time.monotonic() - self._started,
            backends={name: count.tally() for name, count in self._backends.items()},
            problems=tuple(self._problems),
        )


class _BackendCount:
    def __init__(self, location: str) -> None:
        self._location = location
        self._counts: Counter[str] = Counter()
        self._seconds = 0.0
        self._error: str | None = None

    def add(self, result: ReplicaResult, began: float) -> None:
        self._counts["already" if result.already else "stored" if result.ok else "failed"] += 1
        self._counts["bytes"] += result.bytes_sent
        self._seconds = max(self._seconds, began + result.seconds)
        self._error = self._error or result.error

    def tally(self) -> BackendTally:
        return BackendTally(
            location=self._location,
            stored=self._counts["stored"],
            already=self._counts["already"],
            failed=self._counts["failed"],
            bytes_sent=self._counts["bytes"],
            seconds=self._seconds,
            error=self._error,
        )


def _of_report(path: str, report: Report) -> FileOutcome:
    failed = [result for result in report.replicas.values() if not result.ok]
    error = str(report.failure()) if not report else "; ".join(result.error or "" for result in failed) or None
    kinds = {result.error_type for result in failed}
    return FileOutcome(
        path,
        report.key,
        _status(report),
        report,
        error,
        error_type=type(report.failure()).__name__ if not report else kinds.pop() if len(kinds) == 1 else None,
    )


def _status(report: Report) -> FileStatus:
    if report.status != "complete":
        return report.status
    return "already" if report.already else "stored"
