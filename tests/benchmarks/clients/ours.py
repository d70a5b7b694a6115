"""fsbackup with everything on: manifests, confirmation, a result per replica."""

from __future__ import annotations

import os
from typing import Any

from fsbackup import clock, seen
from fsbackup.backends import BackblazeB2Storage, CloudflareR2Storage, LocalStorage, SingleBackend
from fsbackup.engine.results import Report
from fsbackup.replication.batch import BatchItem
from fsbackup.replication.storage import ReplicatedStorage
from fsbackup.seen import Seen
from fsbackup.stores.s3.http import pool as s3_http
from tests.benchmarks.task import Task
from tests.servers.endpoint import S3Endpoint

# Loaded lazily by fsbackup, and not timed for the others either.
__all__ = ["back", "many", "many_again", "one", "s3_http"]


def one(task: Task) -> dict[str, Any]:
    """Store one file in all places."""
    report = _set(task).replicate(task.paths()[0], task.files[0])
    _demand(report)
    return {"seconds": {name: result.seconds for name, result in report.replicas.items()}}


def back(task: Task) -> dict[str, Any]:
    """Read one file back from all places at once, every block proven."""
    report = _set(task).restore(task.files[0], task.back)
    return {"taken": dict(report.replicas), "failed": dict(report.failed)}


def many(task: Task, known: Seen | None = None) -> dict[str, Any]:
    """Store many files in all places, and say how many were there already."""
    items = [BatchItem(path, key, seen=known) for path, key in zip(task.paths(), task.files, strict=True)]
    already = 0
    for outcome in _set(task).replicate_many(items):
        if outcome.report is None:
            raise RuntimeError(f"{outcome.item.key}: {outcome.error}")
        _demand(outcome.report)
        already += outcome.report.already
    return {"already": already}


def many_again(task: Task) -> dict[str, Any]:
    """As `many`, by a job that remembers what it saw, as if all of it were an hour old."""
    now = clock.now
    seen.SETTLED_NS, clock.now = 0, lambda: now() + 3600
    with Seen(task.scratch / "state") as known:
        return many(task, known)


def _demand(report: Report) -> None:
    if report.status != "complete":
        raise RuntimeError(str(report.as_dict()))


def _set(task: Task) -> ReplicatedStorage:
    local = [LocalStorage(base_path=os.fspath(task.local))] if task.local else []
    clouds = [_cloud(role, endpoint) for role, endpoint in zip(task.roles, task.endpoints, strict=True)]
    return ReplicatedStorage([*local, *clouds])


def _cloud(role: str, endpoint: S3Endpoint) -> SingleBackend:
    signed_in: dict[str, Any] = {
        "bucket": endpoint.bucket,
        "access_key_id": endpoint.access_key_id,
        "secret_access_key": endpoint.secret_access_key,
        "endpoint_url": endpoint.endpoint_url,
    }
    if role == "r2":
        return CloudflareR2Storage(**signed_in)
    return BackblazeB2Storage(**signed_in, region=endpoint.region)
