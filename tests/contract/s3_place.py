"""A place of the contract suites in a bucket: the store under a prefix of its own, and boto3 for raw access."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fsbackup.backends import ErrorMode, S3Storage
from fsbackup.loop import run
from fsbackup.stores.s3.providers import Profile
from fsbackup.stores.s3.store import S3Store
from fsbackup.testing import BackendPlace, ObjectPlace, Place, RawAccess
from tests.servers import bucket
from tests.servers.endpoint import S3Endpoint
from tests.servers.s3 import StrictEndpoint

#: Few enough that the suite's larger listings take several pages.
PAGE_SIZE = 7


def bucket_access(endpoint: S3Endpoint, prefix: str) -> RawAccess:
    """Return raw access to the objects below a prefix."""

    def get(name: str) -> bytes | None:
        there = bucket.head(endpoint, prefix + name)
        return None if there is None else bucket.read_bytes(endpoint, prefix + name)

    def put(name: str, data: bytes) -> None:
        bucket.put_bytes(endpoint, prefix + name, data)

    return RawAccess(
        put=put,
        get=get,
        names=lambda: {key.removeprefix(prefix) for key in bucket.list_keys(endpoint, prefix)},
        unfinished=lambda: [upload.key.removeprefix(prefix) for upload in bucket.list_uploads(endpoint, prefix)],
    )


@contextmanager
def lenient(endpoint: StrictEndpoint) -> Iterator[None]:
    """Have a strict server, emptied, take small parts and writes in a row, and never be too busy."""
    endpoint.control.reset()
    endpoint.control.configure(min_part_size=1, write_interval=0, unavailable_every=0)
    yield
    endpoint.control.reset()


#: Gives a test the place that its class has, emptied.
Emptied = Callable[[], ObjectPlace]


@contextmanager
def object_place(endpoint: S3Endpoint, profile: Profile) -> Iterator[Emptied]:
    """Yield what gives a place that nobody else uses, emptied: for each test a new client would take too long."""
    prefix = secrets.token_hex(8)
    store = S3Store(
        endpoint.name,
        bucket=endpoint.bucket,
        endpoint_url=endpoint.endpoint_url,
        region=endpoint.region,
        access_key_id=endpoint.access_key_id,
        secret_access_key=endpoint.secret_access_key,
        prefix=prefix,
        profile=profile,
        ca_bundle=str(endpoint.ca_bundle) if endpoint.ca_bundle else None,
        page_size=PAGE_SIZE,
    )

    def emptied() -> ObjectPlace:
        bucket.empty_bucket(endpoint, f"{prefix}/")
        return Place(store, bucket_access(endpoint, f"{prefix}/"))

    yield emptied
    run(store.close())


def backend_place(endpoint: S3Endpoint) -> BackendPlace:
    """Return a place that nobody else uses for the five methods; broken is a bucket that does not exist."""
    prefix = secrets.token_hex(8)

    def storage(bucket: str, errors: ErrorMode) -> S3Storage:
        return S3Storage(
            bucket,
            access_key_id=endpoint.access_key_id,
            secret_access_key=endpoint.secret_access_key,
            endpoint_url=endpoint.endpoint_url,
            prefix=prefix,
            errors=errors,
        )

    return BackendPlace(
        backend=lambda errors: storage(endpoint.bucket, errors),
        broken=lambda errors: storage("no-such-bucket", errors),
        raw=bucket_access(endpoint, f"{prefix}/"),
    )
