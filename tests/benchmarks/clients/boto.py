"""boto3 with its default transfer settings: several threads and 8 MiB parts for a large file."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
from botocore.config import Config

from tests.benchmarks.clients.copying import copy_locally
from tests.benchmarks.task import Task
from tests.servers.endpoint import S3Endpoint


def in_turn(task: Task) -> None:
    """Store in one place after the other."""
    copy_locally(task)
    for endpoint in task.endpoints:
        _send(task, endpoint)


def in_threads(task: Task) -> None:
    """Store in all places at once."""
    with ThreadPoolExecutor() as pool:
        copying = pool.submit(copy_locally, task)
        for sending in [pool.submit(_send, task, endpoint) for endpoint in task.endpoints]:
            sending.result()
        copying.result()


def back(task: Task) -> None:
    """Read one file back from the first place."""
    endpoint = task.endpoints[0]
    _client(endpoint).download_file(endpoint.bucket, task.files[0], str(task.back))


def _send(task: Task, endpoint: S3Endpoint) -> None:
    client = _client(endpoint)
    for name, path in zip(task.files, task.paths(), strict=True):
        client.upload_file(str(path), endpoint.bucket, name)


def _client(endpoint: S3Endpoint) -> Any:
    session = boto3.session.Session()
    return session.client(
        "s3",
        endpoint_url=endpoint.endpoint_url,
        aws_access_key_id=endpoint.access_key_id,
        aws_secret_access_key=endpoint.secret_access_key,
        region_name=endpoint.region,
        # What both providers ask for: they refuse the checksum headers that are boto3's default.
        config=Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required"),
    )
