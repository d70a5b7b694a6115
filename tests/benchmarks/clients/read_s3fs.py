"""Plain s3fs on the first server."""

from __future__ import annotations

from functools import partial

import s3fs
from aiobotocore.session import AioSession

from tests.benchmarks.clients import reads
from tests.benchmarks.task import Task

# Loaded lazily, and not timed for fsbackup either.
__all__ = ["AioSession", "cats", "csv", "parquet", "s3fs", "seeks", "together", "whole"]


def _place(task: Task) -> reads.Place:
    endpoint = task.endpoints[0]
    options = {
        "key": endpoint.access_key_id,
        "secret": endpoint.secret_access_key,
        "endpoint_url": endpoint.endpoint_url,
        "client_kwargs": {"region_name": endpoint.region},
        "config_kwargs": {"s3": {"addressing_style": "path"}, "request_checksum_calculation": "when_required"},
    }
    return reads.Place(f"s3://{endpoint.bucket}/{task.files[0]}", options, task.count)


parquet, csv, whole = (partial(reads.on, _place, each) for each in (reads.parquet, reads.csv, reads.whole))
together, seeks, cats = (partial(reads.on, _place, each) for each in (reads.together, reads.seeks, reads.cats))
