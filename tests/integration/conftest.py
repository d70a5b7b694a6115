"""A bucket behind a proxy that makes faults, and a store that sees the bucket through it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fsbackup.loop import run
from fsbackup.stores.s3.providers import R2
from fsbackup.stores.s3.store import S3Store
from tests.integration.s3_helpers import connect
from tests.servers import s3
from tests.servers.endpoint import S3Endpoint
from tests.servers.faults import FaultProxy, fault_proxy


@pytest.fixture
def direct(moto: S3Endpoint) -> S3Endpoint:
    """A fresh bucket, seen past the proxy."""
    return s3.fresh_bucket(moto)


@pytest.fixture
def proxy(direct: S3Endpoint) -> Iterator[FaultProxy]:
    """A proxy before that bucket."""
    with fault_proxy(direct) as running:
        yield running


@pytest.fixture
def store(proxy: FaultProxy) -> Iterator[S3Store]:
    """A store that sees the bucket through the proxy, and takes its conditional writes for granted."""
    made = connect(proxy.endpoint, profile=R2)
    yield made
    run(made.close())
