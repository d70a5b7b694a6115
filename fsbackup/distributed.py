"""Connects to a running Dask cluster, whose client is an executor for `verify` and `repair`.

This is the only module that imports Dask. See `fsbackup.replication.batches` for what goes to the workers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fsbackup.errors import ConfigError, ReplicationError, missing_package

#: Seconds to reach the scheduler, and until it has a worker.
_CONNECT, _FIRST_WORKER = 10, 30


@contextmanager
def connect(scheduler: str) -> Iterator[Any]:
    """Yield a `distributed.Client` of the scheduler at an address such as ``tcp://host:8786``.

    TLS is as Dask's own configuration says.

    Raises
    ------
    ConfigError
        When the package ``distributed`` is not installed, or the address is not valid.
    ReplicationError
        When the scheduler cannot be reached or has no worker.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise missing_package("a Dask cluster", "dask", error) from error
    try:
        client = Client(scheduler, timeout=_CONNECT, set_as_default=False)
    except ValueError as error:
        raise ConfigError(f"{scheduler}: {error}", hint="give an address of the form tcp://host:8786") from error
    except OSError as error:
        raise ReplicationError(
            f"no Dask scheduler answers at {scheduler}: {error}", hint="check that it runs"
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=_FIRST_WORKER)
        except TimeoutError as error:
            raise ReplicationError(
                f"the Dask scheduler at {scheduler} has no worker", hint="start workers: dask worker ADDRESS"
            ) from error
        yield client
