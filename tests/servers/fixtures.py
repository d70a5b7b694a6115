"""Session-scoped servers; loaded by ``pytest_plugins = ["tests.servers.fixtures"]``.

Each worker of a parallel run starts its own, and only those its tests ask for.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers import s3
from tests.servers.endpoint import S3Endpoint


@pytest.fixture(scope="session")
def moto() -> Iterator[S3Endpoint]:
    """Moto's S3 server."""
    with s3.moto_server() as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def seaweedfs() -> Iterator[S3Endpoint]:
    """SeaweedFS with its S3 gateway."""
    with s3.seaweedfs_server() as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def rclone() -> Iterator[S3Endpoint]:
    """`rclone serve s3` over a folder."""
    with s3.rclone_s3_server() as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def strict_r2() -> Iterator[s3.StrictEndpoint]:
    """A server with the rules of Cloudflare R2. Tests share it: call `control.reset()` first."""
    with s3.strict_r2() as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def strict_b2() -> Iterator[s3.StrictEndpoint]:
    """A server with the rules of Backblaze B2. Tests share it: call `control.reset()` first."""
    with s3.strict_b2() as endpoint:
        yield endpoint
