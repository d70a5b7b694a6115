"""obstore (Rust's object_store): one store per endpoint."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import obstore
from obstore.store import S3Store

from tests.benchmarks.clients.copying import copy_locally
from tests.benchmarks.task import Task
from tests.servers.endpoint import S3Endpoint

#: Small files at once, as many as fsbackup has on their way.
_AT_ONCE = 24


def in_threads(task: Task) -> None:
    """Store one file in all places at once."""
    with ThreadPoolExecutor() as pool:
        copying = pool.submit(copy_locally, task)
        for sending in [pool.submit(_send, task, endpoint) for endpoint in task.endpoints]:
            sending.result()
        copying.result()


def back(task: Task) -> None:
    """Read one file back from the first place, as a stream."""
    with task.back.open("wb") as out:
        for piece in obstore.get(_store(task.endpoints[0]), task.files[0]).stream(min_chunk_size=8 << 20):
            out.write(piece)


def many(task: Task) -> None:
    """Store many files from a pool of threads."""
    for endpoint in task.endpoints:
        send = partial(obstore.put, _store(endpoint))
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(send, task.files, task.paths()))


def _send(task: Task, endpoint: S3Endpoint) -> None:
    obstore.put(_store(endpoint), task.files[0], task.paths()[0])


def _store(endpoint: S3Endpoint) -> S3Store:
    return S3Store(
        endpoint.bucket,
        endpoint=endpoint.endpoint_url,
        access_key_id=endpoint.access_key_id,
        secret_access_key=endpoint.secret_access_key,
        region=endpoint.region,
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
    )
