"""Batches of keys that `verify` and `repair` submit to an executor: threads, processes, the workers of a cluster.

The coordinator (`verify_with`, `repair_with`) lists the set, cuts its keys into batches and submits each one
(`run_batches`). A worker (`run_in_worker`) opens the set from the configuration file, with the secrets of its own
environment, checks that it sees the same storage, processes the keys and returns a report; the coordinator adds
the reports up. The listing of the whole set shows which replicas are unreachable and which copies have expired:
both go with the batch.

A batch can run twice, since `verify` changes nothing and every step of `repair` checks what is there. So a worker
that dies costs time only, if the executor runs its batch again (Dask does); otherwise the run ends with an error.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Mapping, Sequence
from contextlib import aclosing, closing, suppress
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Protocol, TypeVar

from fsbackup import __version__
from fsbackup.engine import marker
from fsbackup.engine.replicas import ReplicaSet
from fsbackup.engine.survey import survey
from fsbackup.engine.versions import newest
from fsbackup.errors import BackendUnavailableError, ConfigError, FsbackupError, ReplicationError
from fsbackup.keys import intents_of
from fsbackup.loop import POLL_INTERVAL, iterate, run
from fsbackup.record import Manifest
from fsbackup.replication.classify import SOME_TIME, IsExpired, when_stored
from fsbackup.replication.walk import Unreachable, Walk
from fsbackup.sizing import MIB
from fsbackup.stores.base import ObjectStore

#: A batch ends at this number of keys, or at this number of bytes of objects.
BATCH_KEYS, BATCH_BYTES = 100, 256 * MIB
#: Batches submitted at once: per worker thread (one runs, one waits), or in all where the number is not known.
_PER_THREAD, _PENDING = 2, 32
#: Names of each backend that a worker compares: several, because one may be removed meanwhile.
_SAMPLE_NAMES = 3


@dataclass(frozen=True, slots=True)
class Announced:
    """The write intents of a key: the key, None where none of them can be read, and the backends that have one."""

    key: str | None = None
    stores: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class KeyTask:
    """One key to verify or repair, with what the listings say about it."""

    key: str
    #: When it was stored (epoch seconds); None where no listing says.
    stored: float | None = None
    #: Bytes of its largest copy.
    size: int = 0
    #: The backends that list a write intent of the key.
    intents: frozenset[str] = frozenset()
    #: The backends that were listed and do not have it.
    missing_on: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Batch:
    """Some keys, and what the listing of the whole set says about them."""

    tasks: tuple[KeyTask, ...]
    #: Replicas that workers do not ask, by name, and why.
    unreachable: Mapping[str, str]
    #: Pairs of backend and key: if the copy is not there, the backend's retention has deleted it.
    expired: frozenset[tuple[str, str]]

    def is_expired(self, backend: str, key: str, _stored: float | None) -> bool:
        """Implement `IsExpired`."""
        return (backend, key) in self.expired

    async def key_tasks(self) -> AsyncGenerator[tuple[KeyTask, Unreachable], None]:
        """Yield the keys as the function `key_tasks` does."""
        unreachable = {name: BackendUnavailableError(why) for name, why in self.unreachable.items()}
        for task in self.tasks:
            yield task, unreachable


async def key_tasks(
    walk: Walk,
    selects: Callable[[str], bool] | None = None,
    intents: dict[str, Announced] | None = None,
) -> AsyncGenerator[tuple[KeyTask, Unreachable], None]:
    """Yield the keys that `selects` accepts (None: all), each with the replicas that cannot be listed.

    `intents` are the write intents by how their names begin (`intents_of`); this function empties it. Keys of
    which only an intent is left come last.
    """
    remaining = intents if intents is not None else {}
    async with aclosing(walk.keys()) as keys:
        async for entry in keys:
            if selects is None or selects(entry.key):
                size = max((each.data.size for each in entry.replicas.values() if each and each.data), default=0)
                missing_on = tuple(name for name, each in entry.replicas.items() if each and not each.data)
                own = remaining.pop(intents_of(entry.key), Announced()) if remaining else Announced()
                yield KeyTask(entry.key, entry.stored_at, size, own.stores, missing_on), walk.errors
    for each in remaining.values():
        if each.key is not None:
            yield KeyTask(each.key, intents=each.stores), walk.errors
    remaining.clear()


async def batches(
    tasks: AsyncGenerator[tuple[KeyTask, Unreachable], None], expired: IsExpired | None, targets: ReplicaSet
) -> AsyncGenerator[Batch, None]:
    """Group keys into batches; all keys of a batch have the same unreachable replicas."""
    names = [store.name for store in targets.stores]
    group: list[KeyTask] = []
    known: Unreachable = {}
    async with aclosing(tasks) as each:
        async for task, unreachable in each:
            if group and (_is_full(group) or unreachable.keys() != known.keys()):
                yield _batch(group, known, expired, names)
                group = []
            group.append(await _with_manifest_date(task, expired, targets))
            known = unreachable
    if group:
        yield _batch(group, known, expired, names)


async def _with_manifest_date(task: KeyTask, expired: IsExpired | None, targets: ReplicaSet) -> KeyTask:
    """Return the task with the time by which retention judges the object.

    A copy that repair put back is listed as younger than the object. Where the age decides whether a backend's
    retention deleted the object, its manifest is read here, because workers do not know the retention rules.
    """
    if expired is None or not any(
        expired(name, task.key, SOME_TIME) and not expired(name, task.key, task.stored) for name in task.missing_on
    ):
        return task
    latest = newest(await survey(targets.stores, task.key), targets.min_copies)
    made = latest.created_timestamp if isinstance(latest, Manifest) else None
    return replace(task, stored=when_stored(task.stored, made))


def _is_full(group: list[KeyTask]) -> bool:
    return len(group) >= BATCH_KEYS or sum(task.size for task in group) >= BATCH_BYTES


def _batch(group: list[KeyTask], unreachable: Unreachable, expired: IsExpired | None, names: list[str]) -> Batch:
    pairs = [
        (name, each.key) for each in group for name in names if expired and expired(name, each.key, each.stored)
    ]
    return Batch(tuple(group), {name: str(error) for name, error in unreachable.items()}, frozenset(pairs))


class Executor(Protocol):
    """Runs functions elsewhere: a `concurrent.futures.Executor` or a `distributed.Client`."""

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> Any:
        """Return a future: `result()`, `cancel()` and `add_done_callback(fn)` as in `concurrent.futures`."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """How the coordinator sees one backend: its name, its location, the first names it lists, and from where."""

    backend: str
    location: str
    names: tuple[str, ...]
    machine: str


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker needs beside the batch: the configuration file, and the set in it. It holds no secret."""

    path: str
    name: str
    backends: tuple[Fingerprint, ...]
    version: str = __version__
    #: Differs between runs: a worker opens the set anew for each.
    run: str = field(default_factory=lambda: secrets.token_hex(8))


R = TypeVar("R")
#: Processes one batch in a worker, with the options of the run, and returns a report.
ProcessBatch = Callable[[ReplicaSet, Batch, Any], Coroutine[Any, Any, R]]


async def prepare_job(
    path: str, name: str, stores: Sequence[ObjectStore], unreachable: Unreachable
) -> tuple[Job, Unreachable]:
    """Return the job for the workers, and why replicas cannot be listed; those in `unreachable` are not asked."""
    found: list[Fingerprint] = []
    errors = dict(unreachable)

    async def add(store: ObjectStore) -> None:
        try:
            names = await _first_names(store)
            await marker.check(store, empty=not names)
            found.append(Fingerprint(store.name, store.location, names, this_machine()))
        except FsbackupError as error:
            errors[store.name] = error

    await asyncio.gather(*(add(store) for store in stores if store.name not in unreachable))
    return Job(path, name, tuple(sorted(found, key=lambda each: each.backend))), errors


def run_batches(
    executor: Executor, process: ProcessBatch[R], job: Job, options: Any, source: AsyncGenerator[Batch, None]
) -> Generator[R, None, None]:
    """Submit every batch, and yield each report as it is done; batches not yet begun are cancelled at the end.

    Raises
    ------
    ConfigError
        When a worker cannot open the set or sees other storage; the message names the worker.
    ReplicationError
        When the executor fails on a batch.
    """
    done: SimpleQueue[Any] = SimpleQueue()
    pending: set[Any] = set()
    try:
        with closing(iterate(source, 1)) as submitted:
            for batch in submitted:
                future = executor.submit(run_in_worker, process, job, options, batch)
                pending.add(future)
                future.add_done_callback(done.put)
                while len(pending) >= _capacity(executor):
                    yield _next_report(done, pending)
            while pending:
                yield _next_report(done, pending)
    finally:
        for future in pending:
            with suppress(OSError, RuntimeError, TimeoutError):  # the scheduler may be gone
                future.cancel()


def _capacity(executor: Executor) -> int:
    """Return how many batches to submit at once; a `distributed.Client` says how many threads there are now."""
    nthreads = getattr(executor, "nthreads", None)
    return _PENDING if nthreads is None else _PER_THREAD * max(1, sum(nthreads().values()))


def _next_report(done: SimpleQueue[Any], pending: set[Any]) -> Any:
    future = None
    while future is None:
        with suppress(Empty):  # a wait without a limit could miss Ctrl-C
            future = done.get(timeout=POLL_INTERVAL)
    pending.discard(future)
    try:
        result = future.result()
    except Exception as error:
        raise ReplicationError(
            f"the executor failed on a batch of keys: {type(error).__name__}: {error}",
            hint="see the logs of its workers, and run it again: what was done stays done",
        ) from error
    if isinstance(result, Refusal):
        raise ConfigError(f"worker {result.worker}: {result.reason}", hint=result.hint)
    return result


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a worker cannot process batches: returned, because Dask logs a raised error with all arguments."""

    worker: str
    reason: str
    hint: str | None


def run_in_worker(process: ProcessBatch[R], job: Job, options: Any, batch: Batch) -> R | Refusal:
    """Process one batch; the executor calls this in a worker."""
    if job.version != __version__:
        return _refuse(f"it has fsbackup {__version__}, not {job.version}", "install the same version everywhere")
    try:
        targets = _open(job)
    except FsbackupError as error:
        hint = None if error.hint else "set the configuration's secrets in the environment of every worker"
        return _refuse(str(error), hint)
    except OSError as error:
        return _refuse(f"{job.path}: {error.strerror}", "give every worker the file under the same path")
    return run(process(targets, batch, options))


@lru_cache(maxsize=2)
def _open(job: Job) -> ReplicaSet:
    """Return the set, opened once per run and process, if this worker sees the same storage."""
    from fsbackup.replication.storage import ReplicatedStorage

    os.stat(job.path)  # a missing file gives a simpler error than the parser's
    targets = ReplicatedStorage.from_config(job.path, job.name).replica_set
    run(check_same_storage(targets.stores, job.backends))
    return targets


async def check_same_storage(stores: Sequence[ObjectStore], backends: Sequence[Fingerprint]) -> None:
    """Check that this machine sees the storage that the coordinator sees.

    A path or an address may mean other storage on another machine. Repaired from the wrong machine, a disk that is
    mounted only there would look empty, and would be filled.

    Raises
    ------
    ConfigError
        When the storage differs, or when nothing proves that it is the same. A backend that cannot be reached from
        here is no error: nothing is known about it and nothing is written to it.
    """
    known = {store.name: store for store in stores}
    if not known.keys() >= {each.backend for each in backends}:
        raise ConfigError("the set has other backends here", hint="give every worker the same configuration file")
    await asyncio.gather(*(_check_same(known[each.backend], each) for each in backends))


async def _check_same(store: ObjectStore, there: Fingerprint) -> None:
    if there.location != store.location:
        raise _differs(store, there, f"there it is {there.location}")
    if there.machine == this_machine():
        return
    if not there.names:
        if store.capabilities.is_shared:
            return
        raise _differs(store, there, "it is empty, so nothing shows whether it is the same")
    try:
        found = [await store.stat(name) for name in there.names]
    except FsbackupError:
        return
    if not any(found):
        raise _differs(store, there, "none of the objects listed there is here")


def _differs(store: ObjectStore, there: Fingerprint, why: str) -> ConfigError:
    return ConfigError(
        f"{store.location} seems to be other storage than on {there.machine.partition('/')[0]}: {why}",
        backend=store.name,
        hint="give every worker access to the same storage, or run without an executor",
    )


async def _first_names(store: ObjectStore) -> tuple[str, ...]:
    names: list[str] = []
    async with aclosing(store.list("")) as listing:  # type: ignore[type-var]  # all of them are generators
        async for stat in listing:
            names.append(stat.name)
            if len(names) == _SAMPLE_NAMES:
                break
    return tuple(names)


@cache
def this_machine() -> str:
    """Return what identifies this machine or container: its host name and, where known, the id of this boot."""
    boot = ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{socket.gethostname()}/{boot}"


def _refuse(reason: str, hint: str | None) -> Refusal:
    return Refusal(f"{socket.gethostname()}:{os.getpid()}", reason, hint)
