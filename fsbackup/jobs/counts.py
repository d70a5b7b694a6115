"""Counting how the files of a job fare."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from fsbackup.config.sources import CommandConfig
from fsbackup.engine.results import ReplicaResult, Report
from fsbackup.errors import reasons
from fsbackup.jobs.report import BackendCounts, FileResult, JobReport, SourceKind
from fsbackup.jobs.sources import Note, Skipped, Unreadable

if TYPE_CHECKING:
    from fsbackup.config import JobConfig
    from fsbackup.config.sources import JobSource
    from fsbackup.jobs.shrink import LastOfSeries
    from fsbackup.replication.batch import ItemResult
    from fsbackup.replication.storage import ReplicatedStorage

log = logging.getLogger("fsbackup.jobs")

#: Failed and degraded files that a report names; it counts them all.
NAMED = 100


class JobCounts:
    """Counts outcomes, and hands each one on.

    Parameters
    ----------
    store
        The set that the job stores to.
    on_file
        Hears of each file.
    last
        Knows how large the last object of each series is; None where nothing is compared.
    shrink_below
        The fraction of that size below which an object is suspiciously small.
    """

    def __init__(
        self,
        store: ReplicatedStorage,
        on_file: Callable[[FileResult], None] | None,
        last: LastOfSeries | None = None,
        shrink_below: float = 0,
    ) -> None:
        self._last, self._shrink_below = last, shrink_below
        self._started = time.monotonic()
        self._on_file = on_file
        self._files: Counter[str] = Counter()
        self._backends = {name: _BackendCount(each.location) for name, each in store.backends.items()}
        self._problems: list[FileResult] = []

    def add_entry(self, found: Unreadable | Skipped | Note) -> None:
        """Count what cannot be sent at all."""
        if isinstance(found, Note):
            log.info("%s: %s", found.path, found.text)
        elif isinstance(found, Skipped):
            self._files["skipped"] += 1
            log.log(found.level, "skipped: %s: %s", found.path, found.reason)
        else:
            self._unread(found.path, None, found.error)

    def add_result(self, outcome: ItemResult) -> None:
        """Count what was sent, or could not be read after all."""
        path, key = str(outcome.item.source), outcome.item.key
        if outcome.report is None:
            assert outcome.error is not None
            self._unread(path, key, outcome.error)
            return
        began = time.monotonic() - self._started - outcome.report.seconds
        for backend, result in outcome.report.replicas.items():
            self._backends[backend].add(result, began)
        self._files["bytes"] += _source_bytes(outcome.report) or 0
        file, before = _of_report(path, outcome.report), self._before(outcome.report)
        self._count(file if before is None else replace(file, before=before))

    def _before(self, report: Report) -> int | None:
        """Return the size of the last of the series, if this object is suspiciously small beside it, else None."""
        size = _source_bytes(report)
        if self._last is None or not report or report.already or size is None:
            return None
        before = self._last.size_before(report.key)
        if before is None or size >= before * self._shrink_below:
            return None
        log.warning(
            "much smaller than the last one: %s has %s bytes, the one before it %s",
            report.key,
            f"{size:,}",
            f"{before:,}",
            extra={"key": report.key, "size": size},
        )
        return before

    def _unread(self, path: str, key: str | None, error: Exception) -> None:
        fields = {"operation": "read", "key": key, "outcome": "failed", "error_type": type(error).__name__}
        log.error("not backed up: %s", error, extra={**fields, "error": str(error)})
        self._count(FileResult(path, key, "failed", error=str(error), error_type=type(error).__name__))

    def _count(self, outcome: FileResult) -> None:
        self._files[outcome.status] += 1
        self._files["shrunk"] += outcome.before is not None
        if (outcome.error or outcome.before) is not None and len(self._problems) < NAMED:
            self._problems.append(outcome)
        if self._on_file:
            self._on_file(outcome)

    def report(self, name: str, job: JobConfig, prefix: str) -> JobReport:
        """Return the counts as they are now; the job's keys lie below `prefix`."""
        return JobReport(
            job=name,
            replication=job.replication,
            source=_kind(job.source),
            stored=self._files["stored"],
            already=self._files["already"],
            degraded=self._files["degraded"],
            failed=self._files["failed"],
            skipped=self._files["skipped"],
            shrunk=self._files["shrunk"],
            bytes_read=self._files["bytes"],
            seconds=time.monotonic() - self._started,
            backends={name: count.counts() for name, count in self._backends.items()},
            problems=tuple(self._problems),
            prefix=prefix,
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

    def counts(self) -> BackendCounts:
        return BackendCounts(
            location=self._location,
            stored=self._counts["stored"],
            already=self._counts["already"],
            failed=self._counts["failed"],
            bytes_sent=self._counts["bytes"],
            seconds=self._seconds,
            error=self._error,
        )


def _source_bytes(report: Report) -> int | None:
    """Return the bytes of the source: what is stored may be compressed."""
    return report.size if report.plain_size is None else report.plain_size


def _kind(source: JobSource) -> SourceKind:
    if isinstance(source, CommandConfig):
        return "items" if source.for_each else "command"
    return "files"


def _of_report(path: str, report: Report) -> FileResult:
    status = report.status
    if status == "complete":
        return FileResult(path, report.key, "already" if report.already else "stored", report)
    failed = [result for result in report.replicas.values() if not result.ok]
    error = str(report.failure()) if not report else "; ".join(reasons(report.errors)) or None
    kinds = {result.error_type for result in failed}
    return FileResult(
        path,
        report.key,
        status,
        report,
        error,
        error_type=type(report.failure()).__name__ if not report else kinds.pop() if len(kinds) == 1 else None,
    )
