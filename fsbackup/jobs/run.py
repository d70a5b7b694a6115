"""Running a job: its files, slice by slice, to every replica of its set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar, cast

from fsbackup.config.sources import CommandConfig, SourceConfig
from fsbackup.factory import stages_of
from fsbackup.jobs.counts import JobCounts
from fsbackup.jobs.plan import Planned, job_of, plan_job
from fsbackup.jobs.report import FileResult, JobReport
from fsbackup.jobs.shrink import LastOfSeries, refusal_of
from fsbackup.jobs.sources import Note, Skipped, Unreadable
from fsbackup.jobs.template import Destination, local_now
from fsbackup.keys import FoundKeys
from fsbackup.replication.batch import BatchItem
from fsbackup.replication.storage import ReplicatedStorage
from fsbackup.seen import Seen
from fsbackup.state import run_lock, state_directory

if TYPE_CHECKING:
    from fsspec.callbacks import Callback

    from fsbackup.config import Config, JobConfig
    from fsbackup.replication.batch import ItemResult

T = TypeVar("T")

#: Files planned and handed over at once, as many as one LIST returns: bounds memory.
SLICE = 1000


def run_job(
    config: Config,
    name: str,
    *,
    now: datetime | None = None,
    on_file: Callable[[FileResult], None] | None = None,
    progress: Callable[[Any, str], Callback | None] | None = None,
    lock_wait: float = 0.0,
    reread: bool = False,
) -> JobReport:
    """Store every file of a job, or what its commands write, in every replica of its set; prune where it says so.

    A file that vanishes, changes while it is read or cannot be read is a failed outcome and logged as an ERROR,
    as is a command that fails, and an object that is too small for the job (`shrink`); the rest go on. After a
    run with a failed file or item, or with an object that is suspiciously small (`shrink`), nothing is pruned,
    and never a key that the run found at its source.

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
    lock_wait
        Seconds to wait for another run of this job to end.
    reread
        Read also the files that have not changed since an earlier run read them (see `fsbackup.seen`).

    Raises
    ------
    ConfigError
        When there is no such job, or a backend cannot be opened as it is configured.
    AlreadyRunningError
        When another run of this job still holds its lock (see `fsbackup.state`).
    """
    job = job_of(config, name)
    store = ReplicatedStorage.from_config(config, job.replication)
    state = state_directory(config.state_dir)
    with (
        run_lock(state, _lock_name(name, job, store), f"job {name}", wait=lock_wait),
        Seen(state, believed=not reread) as seen,
    ):
        return _run(config, name, store, now or local_now(), seen, on_file, progress)


def _lock_name(name: str, job: JobConfig, store: ReplicatedStorage) -> str:
    """Return a name for this job into this set: another file's job of the same name is another job."""
    identity = [job.destination, *sorted(backend.location for backend in store.backends.values())]
    return f"{name}-{hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]}"


def _run(
    config: Config,
    name: str,
    store: ReplicatedStorage,
    now: datetime,
    seen: Seen,
    on_file: Callable[[FileResult], None] | None,
    progress: Callable[[Any, str], Callback | None] | None,
) -> JobReport:
    job = config.jobs[name]
    last = LastOfSeries(store, job.key_template, is_staged=bool(job.suffix)) if job.shrink_below else None
    stages = stages_of(config, job.compress, job.encrypt)
    counts, found_keys = JobCounts(store, on_file, last, job.shrink_below), FoundKeys()
    parallel = job.source.parallel if isinstance(job.source, CommandConfig) else None
    may_grow = isinstance(job.source, SourceConfig) and job.source.changing == "keep"
    plan = plan_job(config, name, now=now, walk_archives=False)
    for files in _slices(_only_files(plan, counts), SLICE):
        items = [
            BatchItem(
                file.source,
                file.key,
                file.series,
                may_grow,
                refusal_of(file.path, file.key, last, job),
                seen,
                stages,
            )
            for file in files
        ]
        if job.prune:
            for file in files:
                found_keys.add(file.key)
        outcomes = store.replicate_many(items, overwrite=job.overwrite, parallel=parallel, callback=progress)
        # Closed on every way out: uploads that are under way end and clean up before a Ctrl-C goes on.
        with closing(cast("Generator[ItemResult, None, None]", outcomes)) as results:
            for outcome in results:
                counts.add_result(outcome)
    prefix = Destination(job.destination, job=name, now=now).prefix
    report = counts.report(name, job, prefix)
    if job.prune and not report.failed and not report.shrunk:
        return replace(report, prune=store.prune(prefix, dry_run=False, found_at_source=found_keys))
    return report


def _slices(values: Iterable[T], length: int) -> Iterator[list[T]]:
    rest = iter(values)
    while part := list(islice(rest, length)):
        yield part


def _only_files(plan: Iterable[Planned | Unreadable | Skipped | Note], counts: JobCounts) -> Iterator[Planned]:
    for found in plan:
        if isinstance(found, Planned):
            yield found
        else:
            counts.add_entry(found)
