"""Verify and repair spread over the workers of a Dask cluster that is there already: the one file that knows Dask.

To scheduler and workers goes the path of the configuration file, never what is in it: each worker reads the file
itself, and opens the backends with the secrets of its own environment.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from fsbackup import __version__
from fsbackup.engine.breaker import CircuitBreaker
from fsbackup.errors import ConfigError, FsbackupError, ReplicationError
from fsbackup.loop import run
from fsbackup.replication import places
from fsbackup.replication.portions import Part, Portion, Work
from fsbackup.replication.storage import ReplicatedStorage

#: Seconds for reaching the scheduler, and for the first worker to show up.
_CONNECT, _FIRST_WORKER = 10, 30
#: Portions under way per thread of the cluster: one being worked on, and one that waits for it.
_PER_THREAD = 2


class Cluster:
    """Workers that do the work on single objects; given as `spread` to `verify` or `repair` of a set.

    The set must come from a configuration file (`ReplicatedStorage.from_config`) that every worker can read under
    the same path. A worker that dies costs nothing but time: what it had in hand goes to another one. When the
    caller is interrupted, what no worker has begun is taken back; what one has in hand it ends.

    Parameters
    ----------
    scheduler
        The address of the Dask scheduler, such as ``tcp://host:8786``. TLS is as Dask's own configuration says.

    Raises
    ------
    ConfigError
        When the package ``distributed`` is not installed.
    """

    def __init__(self, scheduler: str) -> None:
        try:
            import distributed
        except ImportError as error:
            raise ConfigError(
                f"working on a Dask cluster needs another package: {error}", hint="pip install 'fsbackup[dask]'"
            ) from error
        self._dask: Any = distributed
        self.scheduler = scheduler

    def __call__(self, work: Work, portions: Iterator[Portion]) -> Generator[Part[Any, Any], None, None]:
        """Yield what comes of each portion, as it comes; only a few portions are taken ahead.

        Raises
        ------
        ReplicationError
            When the cluster cannot be reached, or gave up on a portion.
        ConfigError
            When a worker cannot do the work: the message names it.
        """
        with self._client() as client:
            under_way: set[Any] = set()
            done = self._dask.as_completed(loop=client.loop)
            try:
                for portion in portions:
                    future = client.submit(work_on, work, portion, __version__, pure=False)
                    under_way.add(future)
                    done.add(future)
                    while len(under_way) >= _PER_THREAD * max(1, sum(client.nthreads().values())):
                        yield self._next(done, under_way)
                while under_way:
                    yield self._next(done, under_way)
            finally:
                with suppress(OSError, RuntimeError, TimeoutError):  # it may be gone by now
                    client.cancel(list(under_way))

    def _client(self) -> Any:
        try:
            client = self._dask.Client(self.scheduler, timeout=_CONNECT, set_as_default=False)
        except ValueError as error:
            raise ConfigError(
                f"{self.scheduler}: {error}", hint="an address looks like tcp://host:8786"
            ) from error
        except OSError as error:
            raise ReplicationError(
                f"no Dask scheduler answers at {self.scheduler}: {error}", hint="check that it runs"
            ) from error
        try:
            client.wait_for_workers(1, timeout=_FIRST_WORKER)
        except TimeoutError as error:
            client.close()
            raise ReplicationError(
                f"the Dask scheduler at {self.scheduler} has no worker", hint="start some: dask worker ADDRESS"
            ) from error
        return client

    def _next(self, done: Any, under_way: set[Any]) -> Part[Any, Any]:
        future = next(done)
        under_way.discard(future)
        try:
            result = future.result()
        except Exception as error:
            raise ReplicationError(
                f"the Dask cluster at {self.scheduler} gave up: {type(error).__name__}: {error}",
                hint="what was done stays done; see the logs of its workers, and run it again",
            ) from error
        if isinstance(result, Refusal):
            raise ConfigError(f"Dask worker {result.worker}: {result.why}", hint=result.hint)
        part: Part[Any, Any] = result
        return part


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a worker cannot do the work: a value, so that Dask does not log what it was asked with the error."""

    worker: str
    why: str
    hint: str | None


def work_on(work: Work, portion: Portion, version: str) -> Part[Any, Any] | Refusal:
    """Do the work on one portion; runs on a worker."""
    if version != __version__:
        return _refusal(f"it has fsbackup {__version__}, not {version}", "install the same version everywhere")
    try:
        store, outages = _opened(work)
    except FsbackupError as error:
        hint = None if error.hint else "every worker needs the configuration's secrets in its own environment"
        return _refusal(str(error), hint)
    except OSError as error:
        hint = "every worker needs the configuration file under the same path"
        return _refusal(f"{work.path}: {error.strerror or error}", hint)
    part: Part[Any, Any] = run(work.task(store.replica_set, outages, portion))
    return part


@lru_cache(maxsize=2)
def _opened(work: Work) -> tuple[ReplicatedStorage, CircuitBreaker]:
    """Return the set, opened once per run and process, if this worker sees the same places."""
    os.stat(work.path)  # tells more simply than a parser that it is not there
    store = ReplicatedStorage.from_config(work.path, work.name)
    run(places.compare(store.replica_set.stores, work.places))
    return store, CircuitBreaker()


def _refusal(why: str, hint: str | None) -> Refusal:
    from distributed import get_worker

    return Refusal(str(get_worker().address), why, hint)
