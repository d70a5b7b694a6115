"""What a run of a job will do: every file or command with its key, or why it has none, before anything is sent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from fsbackup.config.sources import SourceConfig
from fsbackup.engine.open_source import TreePath
from fsbackup.errors import ConfigError, SourceError
from fsbackup.jobs.archive import archive, look_through
from fsbackup.jobs.commands import find_commands
from fsbackup.jobs.sources import Note, Skipped, SourceEntry, SourceFile, Unreadable, find_files
from fsbackup.jobs.template import Destination, local_now

if TYPE_CHECKING:
    from fsbackup.config import CommandConfig, Config, JobConfig
    from fsbackup.engine.command import Command
    from fsbackup.engine.open_source import SourceLike


@dataclass(frozen=True, slots=True)
class Planned:
    """What is to be stored under which key.

    Parameters
    ----------
    path
        The file, or what messages call the command.
    key
        The key.
    series
        What the key is a version of, as the manifest has it; None where the destination has no ``{now}``.
    command
        The command whose output is to be stored; None for a file.
    """

    path: str
    key: str
    series: str | None = None
    command: Command | None = None

    @property
    def source(self) -> SourceLike:
        """What to upload."""
        return self.command or self.path


def plan_job(
    config: Config, name: str, *, now: datetime | None = None, walk_archives: bool = True
) -> Iterator[Planned | Unreadable | Skipped | Note]:
    """Yield what a run of the job would store, streaming; touches no backend.

    Files that would share a key are all `Unreadable`, none of them wins. Finding them takes a look at the whole
    source first, unless the destination has ``{relpath}``. A command that lists items is run; those whose
    output would be stored are not. A tree that is one archive is walked through for what there is to say of it,
    unless `walk_archives` is False: a run says it while tar is given the names.

    Raises
    ------
    ConfigError
        When there is no such job.
    """
    job = job_of(config, name)
    destination = Destination(job.destination, job=name, now=now or local_now(), suffix=job.suffix)
    if isinstance(job.source, SourceConfig):
        keep_out = _backend_directories(config, job)
        if job.source.archive:
            return _plan_archive(job.source, destination, keep_out, walk=walk_archives)
        return _plan_files(job.source, destination, keep_out, job.allow_empty)
    return _plan_commands(job.source, destination, job.allow_empty)


def job_of(config: Config, name: str) -> JobConfig:
    """Return the settings of job `name`.

    Raises
    ------
    ConfigError
        When there is none, naming those there are.
    """
    if name not in config.jobs:
        raise ConfigError(f"no job is called {name!r}", hint=f"there are: {', '.join(config.jobs) or 'none'}")
    return config.jobs[name]


def _plan_commands(
    source: CommandConfig, destination: Destination, allow_empty: bool
) -> Iterator[Planned | Unreadable | Skipped | Note]:
    for found in find_commands(source, destination, allow_empty=allow_empty):
        if isinstance(found, Unreadable):
            yield found
        else:
            command, key, series = found
            yield Planned(command.name, key, series, command)


def _plan_archive(
    source: SourceConfig, destination: Destination, keep_out: frozenset[str], *, walk: bool
) -> Iterator[Planned | Unreadable | Skipped | Note]:
    try:
        notes = look_through(source, keep_out) if walk else []
    except SourceError as error:
        yield Unreadable(source.path, error)
        return
    yield Planned(source.path, *destination.of_item(None), archive(source, keep_out))
    yield from notes


def _plan_files(
    source: SourceConfig, destination: Destination, keep_out: frozenset[str], allow_empty: bool
) -> Iterator[Planned | Unreadable | Skipped | Note]:
    shared = _shared_keys(source, destination, keep_out)
    for found in find_files(source, keep_out=keep_out, allow_empty=allow_empty):
        yield _planned(found, destination, shared)


def _planned(
    found: SourceEntry, destination: Destination, shared: frozenset[str]
) -> Planned | Unreadable | Skipped | Note:
    if not isinstance(found, SourceFile):
        return found
    try:
        key, series = destination.of_file(found)
    except SourceError as error:
        return Unreadable(found.path, error)
    if key in shared:
        return Unreadable(found.path, _shared_key_error(found.path, key))
    return Planned(_tree_path(found, key.removesuffix(destination.suffix)), key, series)


def _tree_path(file: SourceFile, key: str) -> str:
    """Return the file's path; where its directories are those of the key, their modes go into the record."""
    is_tree = f"/{key}".endswith(f"/{file.relpath}")
    return TreePath.at(file.path, file.relpath.count("/") if is_tree else 0)


def _shared_key_error(path: str, key: str) -> SourceError:
    hint = "use {relpath} in the job's destination, which tells them apart"
    return SourceError(f"{path}: another file would be stored under the same key {key!r}", hint=hint)


def _shared_keys(source: SourceConfig, destination: Destination, keep_out: frozenset[str]) -> frozenset[str]:
    """Return the keys that several files would have. Hashes stand for the keys: there may be a million."""
    if destination.is_unique_per_file:
        return frozenset()
    seen: set[int] = set()
    shared: set[str] = set()
    for found in find_files(source, keep_out=keep_out):
        planned = _planned(found, destination, frozenset())
        if isinstance(planned, Planned):
            if hash(planned.key) in seen:
                shared.add(planned.key)
            seen.add(hash(planned.key))
    return frozenset(shared)


def _backend_directories(config: Config, job: JobConfig) -> frozenset[str]:
    """Return the directories of the job's own local backends, or each run would back up the run before."""
    names = config.replication[job.replication].backends
    paths = (getattr(config.backends[name], "path", None) for name in names)
    return frozenset(os.path.realpath(path) for path in paths if path)
