"""A drill of dumps: the newest of a job is restored to a temporary place, and a command shows that it can be used.

Whatever the command makes of it (a database, a directory) is for the command to remove. The outcome is kept in the
backends, where `last_drill` finds it under `drill_name`.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from fsbackup import clock
from fsbackup.engine.process import Process
from fsbackup.engine.results import BaseReport, Status
from fsbackup.errors import ConfigError, FsbackupError
from fsbackup.jobs.plan import job_of
from fsbackup.jobs.template import Destination, local_now
from fsbackup.loop import run
from fsbackup.replication.drills import record_drill
from fsbackup.replication.storage import ReplicatedStorage
from fsbackup.retention.series import series_of

if TYPE_CHECKING:
    from fsbackup.config import Config
    from fsbackup.stages.undo import IdentityFiles

log = logging.getLogger("fsbackup.jobs")

#: Stands in a command for the path of the restored dump.
FILE = "{file}"
#: Seconds that a command may take, by default.
TIMEOUT = 3600.0
_READ = 1 << 16


@dataclass(frozen=True, slots=True)
class DrilledDump:
    """One dump of a drill: its key, the bytes that were restored, and what is wrong with it, None for nothing.

    Parameters
    ----------
    seconds
        To restore it, and until the command had ended.
    """

    key: str
    size: int | None
    seconds: float
    problem: str | None


@dataclass(frozen=True, slots=True)
class JobDrillReport(BaseReport):
    """A drill of a job's dumps.

    Parameters
    ----------
    job
        Its name.
    began_at
        ISO 8601.
    command
        What was run, with ``{file}`` for each dump.
    dumps
        Those that were restored.
    seconds
        Of all.
    away
        Backends that did not take part, or do not have the outcome, and why.
    """

    job: str
    began_at: str
    command: tuple[str, ...]
    dumps: tuple[DrilledDump, ...]
    seconds: float
    away: dict[str, str]

    json_properties: ClassVar[tuple[str, ...]] = ("status",)

    @property
    def status(self) -> Status:
        """``"failed"`` unless all went well, and for no dump at all; ``"degraded"`` when a backend was away."""
        if not self.dumps or any(each.problem is not None for each in self.dumps):
            return "failed"
        return "degraded" if self.away else "complete"


def drill_name(job: str) -> str:
    """Return the name under which the outcomes of a job's drills are kept."""
    return f"jobs/{job}"


def drill_job(
    config: Config,
    name: str,
    command: Sequence[str],
    *,
    every: bool = False,
    identity: IdentityFiles | None = None,
    directory: str | None = None,
    timeout: float = TIMEOUT,
) -> JobDrillReport:
    """Restore the newest dump of a job, and run a command that shows that it can be used.

    Parameters
    ----------
    config, name
        The job.
    command
        The program and its arguments, one of which has ``{file}`` for the path of the restored dump. It runs
        without a shell, in a temporary directory of its own; a program that is a relative path with a slash is
        relative to where this process is.
    every
        Take the newest dump of every series, one after the other: with `for_each`, of every item.
    identity
        The private key for dumps that are encrypted, as for `ReplicatedStorage.restore`.
    directory
        Where to make the temporary directory, with room for a dump; by default where the system has them.
    timeout
        Seconds that the command may take for one dump.

    Raises
    ------
    ConfigError
        When there is no such job, its destination makes no versions, or the command does not name the file.
    NoHealthyReplicaError
        When no replica can be listed.
    """
    if not any(FILE in word for word in command):
        hint = f"write {FILE} where the path of the restored dump belongs: pg_restore -d drill {FILE}"
        raise ConfigError("the restore command does not say what to restore", hint=hint)
    store = ReplicatedStorage.from_config(config, job_of(config, name).replication, errors="raise")
    began, started = clock.now(), time.monotonic()
    keys, place, words = _newest(config, name, store), _absolute(directory), _from_here(command)
    away: dict[str, str] = {}
    dumps = []
    for key in keys if every else keys[-1:]:
        home = Path(tempfile.mkdtemp(prefix="fsbackup-drill-", dir=place))
        try:
            dumps.append(_drill(store, key, words, home, identity, timeout, away))
        finally:
            shutil.rmtree(home, ignore_errors=True)
    report = JobDrillReport(
        job=name,
        began_at=clock.local(began).isoformat(timespec="seconds"),
        command=tuple(command),
        dumps=tuple(dumps),
        seconds=time.monotonic() - started,
        away=away,
    )
    unrecorded = run(record_drill(store.replica_set, drill_name(name), began, report.as_dict(), ok=bool(report)))
    for backend, why in unrecorded.items():
        away.setdefault(backend, str(why))
    return report


def _absolute(directory: str | None) -> str | None:
    """Return a directory so that the command, which runs elsewhere, finds it."""
    return None if directory is None else os.path.abspath(directory)


def _from_here(command: Sequence[str]) -> list[str]:
    """Return a command whose program is the one that its path means here: the command runs elsewhere."""
    program, *arguments = command
    is_path = "/" in program and FILE not in program
    return [os.path.abspath(program) if is_path else program, *arguments]


def _newest(config: Config, name: str, store: ReplicatedStorage) -> list[str]:
    """Return the key of the newest dump of each series of a job, the newest of all last."""
    job = job_of(config, name)
    destination = Destination(job.destination, job=name, now=local_now())
    if not destination.makes_series:
        hint = "a drill is for jobs whose destination has {now:...}; for another object, use `fsbackup get`"
        raise ConfigError(f"job {name}: its destination makes no versions", hint=hint)
    newest: dict[str, tuple[float, str]] = {}
    for entry in store.ls(destination.prefix):
        series = series_of(entry.key, None, (job.key_template,))
        if isinstance(series, str):
            newest[series] = max(newest.get(series, (0.0, "")), (entry.modified or 0.0, entry.key))
    return [key for _, key in sorted(newest.values())]


def _drill(
    store: ReplicatedStorage,
    key: str,
    command: Sequence[str],
    home: Path,
    identity: IdentityFiles | None,
    timeout: float,
    away: dict[str, str],
) -> DrilledDump:
    started = time.monotonic()
    size, problem = None, None
    try:
        restored = store.restore(key, home, identity=identity)
        away.update(restored.failed)
        size = restored.size if restored.plain_size is None else restored.plain_size
        _run([word.replace(FILE, str(restored.target)) for word in command], home, timeout)
    except ConfigError:
        raise
    except (FsbackupError, OSError) as error:
        problem = str(error)
        log.error("drill of %s: %s", key, problem)
    return DrilledDump(key, size, time.monotonic() - started, problem)


def _run(command: Sequence[str], home: Path, timeout: float) -> None:
    """Run the command to its end; what it writes to standard output is logged."""
    process = Process(
        command,
        name=Path(command[0]).name,
        timeout=timeout,
        directory=home,
        consequence="the dump was not restored",
    )
    try:
        while data := process.read(_READ):
            log.debug("%s", data.decode(errors="replace").rstrip())
        process.wait()
    finally:
        process.close()
