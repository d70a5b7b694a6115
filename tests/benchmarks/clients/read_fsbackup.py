"""`fsbackup://`, every byte proven, from all servers there are."""

from __future__ import annotations

from functools import partial
from typing import Any

import botocore.session
import s3fs
import tenacity
import yaml
from aiobotocore.session import AioSession

import fsbackup.config
from fsbackup.filesystem import FsbackupFileSystem
from tests.benchmarks.clients import reads
from tests.benchmarks.task import Task
from tests.servers.endpoint import S3Endpoint

# Loaded lazily, and not timed for s3fs either.
__all__ = ["AioSession", "FsbackupFileSystem", "botocore", "cats", "csv", "fsbackup", "parquet", "s3fs", "seeks"]
__all__ += ["tenacity", "together", "whole"]


def _place(task: Task) -> reads.Place:
    config = task.scratch / "fsbackup.yaml"
    backends = {f"s{number}": _backend(endpoint) for number, endpoint in enumerate(task.endpoints)}
    sets = {"set": {"backends": list(backends)}}
    config.write_text(yaml.safe_dump({"version": 1, "backends": backends, "replication": sets}))
    return reads.Place(f"fsbackup://set/{task.files[0]}", {"config": str(config)}, task.count)


def _backend(endpoint: S3Endpoint) -> dict[str, Any]:
    return {
        "type": "s3",
        "endpoint_url": endpoint.endpoint_url,
        "region": endpoint.region,
        "bucket": endpoint.bucket,
        "access_key_id": endpoint.access_key_id,
        "secret_access_key": endpoint.secret_access_key,
    }


parquet, csv, whole = (partial(reads.on, _place, each) for each in (reads.parquet, reads.csv, reads.whole))
together, seeks, cats = (partial(reads.on, _place, each) for each in (reads.together, reads.seeks, reads.cats))
