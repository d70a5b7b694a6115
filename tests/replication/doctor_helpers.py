"""What the tests of `diagnose` share."""

from __future__ import annotations

from typing import Any

from fsbackup import S3Storage
from fsbackup.backends import SingleBackend
from fsbackup.replication.doctor import Diagnosis, diagnose
from tests.replication.rig import connect
from tests.servers.endpoint import S3Endpoint


def open_s3(endpoint: S3Endpoint, prefix: str = "", **options: Any) -> SingleBackend:
    """Return the backend of the type that fits a server."""
    if endpoint.name == "strict-r2":
        return connect("r2", endpoint, prefix, **options)
    if endpoint.name == "strict-b2":
        return connect("b2", endpoint, prefix, **options)
    return S3Storage(
        endpoint.bucket,
        access_key_id=endpoint.access_key_id,
        secret_access_key=endpoint.secret_access_key,
        endpoint_url=endpoint.endpoint_url,
        prefix=prefix,
        **options,
    )


def one(backend: SingleBackend) -> Diagnosis:
    """Examine one backend."""
    [found] = diagnose([backend])
    return found


def outcomes(found: Diagnosis) -> dict[str, str]:
    """Return the outcome of each check."""
    return {check.name: check.outcome for check in found.checks}
