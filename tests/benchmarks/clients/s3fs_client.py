"""s3fs: one filesystem per endpoint, a file or a batch of files with `put`."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import s3fs
from aiobotocore.session import AioSession

from tests.benchmarks.clients.copying import copy_locally
from tests.benchmarks.task import Task
from tests.servers.endpoint import S3Endpoint

__all__ = ["AioSession", "in_threads", "many"]


def in_threads(task: Task) -> None:
    """Store one file in all places at once."""
    with ThreadPoolExecutor() as pool:
        copying = pool.submit(copy_locally, task)
        for sending in [pool.submit(_send, task, endpoint) for endpoint in task.endpoints]:
            sending.result()
        copying.result()


def many(task: Task) -> None:
    """Store many files, as many at once as s3fs sees fit."""
    for endpoint in task.endpoints:
        targets = [f"{endpoint.bucket}/{name}" for name in task.files]
        _filesystem(endpoint).put([str(path) for path in task.paths()], targets)


def _send(task: Task, endpoint: S3Endpoint) -> None:
    _filesystem(endpoint).put_file(str(task.paths()[0]), f"{endpoint.bucket}/{task.files[0]}")


def _filesystem(endpoint: S3Endpoint) -> Any:
    return s3fs.S3FileSystem(
        key=endpoint.access_key_id,
        secret=endpoint.secret_access_key,
        endpoint_url=endpoint.endpoint_url,
        client_kwargs={"region_name": endpoint.region},
        config_kwargs={"s3": {"addressing_style": "path"}, "request_checksum_calculation": "when_required"},
    )
