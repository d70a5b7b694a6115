"""`fsbackup://`, every byte proven, from all servers there are."""

from __future__ import annotations

from functools import partial

import botocore.session
import s3fs
import yaml
from aiobotocore.session import AioSession

import fsbackup.config
from fsbackup.filesystem import FsbackupFileSystem
from fsbackup.stores.s3.http import pool as s3_http
from tests.benchmarks.clients import reads
from tests.benchmarks.task import Task

# Loaded lazily, and not timed for s3fs either.
__all__ = ["AioSession", "FsbackupFileSystem", "botocore", "cats", "csv", "fsbackup", "parquet", "s3fs", "seeks"]
__all__ += ["s3_http", "together", "whole"]


def _place(task: Task) -> reads.Place:
    config = task.scratch / "fsbackup.yaml"
    backends = {f"s{number}": endpoint.backend for number, endpoint in enumerate(task.endpoints)}
    sets = {"set": {"backends": list(backends)}}
    config.write_text(yaml.safe_dump({"version": 1, "backends": backends, "replication": sets}))
    return reads.Place(f"fsbackup://set/{task.files[0]}", {"config": str(config)}, task.count)


parquet, csv, whole = (partial(reads.on, _place, each) for each in (reads.parquet, reads.csv, reads.whole))
together, seeks, cats = (partial(reads.on, _place, each) for each in (reads.together, reads.seeks, reads.cats))
