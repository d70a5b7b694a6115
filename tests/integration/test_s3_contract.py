"""The contract suite over the S3 adapter and real S3 servers, seen through plain boto3."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from fsbackup.backends.s3 import S3Objects
from fsbackup.loop import run
from fsbackup.testing import ObjectPlace, ObjectStoreContract, Place, SideDoor
from fsbackup.testing.listing import ListingContract
from fsbackup.testing.reading import ReadingContract
from fsbackup.testing.removing import RemovingContract
from tests.integration.s3_kit import connect
from tests.servers import s3
from tests.servers.endpoint import S3Endpoint


def _door(endpoint: S3Endpoint, prefix: str = "") -> SideDoor:
    """Return the side door into a bucket."""

    def get(name: str) -> bytes | None:
        there = s3.head(endpoint, prefix + name) is not None
        return s3.read_bytes(endpoint, prefix + name) if there else None

    return SideDoor(
        put=lambda name, data: _put(endpoint, prefix + name, data),
        get=get,
        names=lambda: {key.removeprefix(prefix) for key in s3.list_keys(endpoint, prefix)},
        leftovers=lambda: [upload.key for upload in s3.list_uploads(endpoint)],
    )


def _put(endpoint: S3Endpoint, key: str, data: bytes) -> None:
    s3.put_bytes(endpoint, key, data)


def _store(endpoint: S3Endpoint, **options: Any) -> Iterator[S3Objects]:
    """Give a store to all tests of a class: pages of seven names, so that few objects take several."""
    store = connect(endpoint, page_size=7, **options)
    yield store
    run(store.close())


@pytest.fixture(scope="module")
def bucket(moto: S3Endpoint) -> S3Endpoint:
    """Return a bucket of the tests of one class."""
    return s3.fresh_bucket(moto)


@pytest.fixture(scope="module")
def moto_store(bucket: S3Endpoint) -> Iterator[S3Objects]:
    """Return the store of that bucket."""
    yield from _store(bucket)


_OTHERS = {"a", "team", "team/a", "team/ours", "team/ours!", "team/ours.txt", "team/ours0", "z"}


@pytest.fixture(scope="module")
def shared_bucket(moto: S3Endpoint) -> Iterator[S3Endpoint]:
    """Return a bucket with other people's objects, all of which are still there afterwards."""
    endpoint = s3.fresh_bucket(moto)
    for key in _OTHERS:
        s3.put_bytes(endpoint, key, key.encode())
    yield endpoint
    assert {key for key in s3.list_keys(endpoint) if not key.startswith("team/ours/")} == _OTHERS


@pytest.fixture(scope="module")
def prefix_store(shared_bucket: S3Endpoint) -> Iterator[S3Objects]:
    """Return the store of a prefix in that bucket."""
    yield from _store(shared_bucket, prefix="team/ours")


@pytest.fixture(scope="module")
def r2_store(strict_r2: s3.StrictEndpoint) -> Iterator[S3Objects]:
    """Return the store of the strict R2."""
    yield from _store(strict_r2)


@pytest.fixture(scope="module")
def b2_store(strict_b2: s3.StrictEndpoint) -> Iterator[S3Objects]:
    """Return the store of the strict B2."""
    yield from _store(strict_b2)


class TestMoto(ObjectStoreContract):
    """Any S3 service, as moto plays it."""

    @pytest.fixture
    def place(self, bucket: S3Endpoint, moto_store: S3Objects) -> ObjectPlace:
        """Return the bucket, empty."""
        s3.empty_bucket(bucket)
        return Place(moto_store, _door(bucket))


class TestPrefix(ListingContract, ReadingContract, RemovingContract):
    """Names under a prefix, in a bucket that others use too."""

    @pytest.fixture
    def place(self, shared_bucket: S3Endpoint, prefix_store: S3Objects) -> ObjectPlace:
        """Return the prefix, empty."""
        s3.empty_bucket(shared_bucket, "team/ours/")
        return Place(prefix_store, _door(shared_bucket, "team/ours/"))


class TestR2(ObjectStoreContract):
    """Cloudflare R2's rules, over TLS."""

    @pytest.fixture
    def place(self, strict_r2: s3.StrictEndpoint, r2_store: S3Objects) -> Iterator[ObjectPlace]:
        """Return the server, empty and without its limit on rewriting one key; no rule of it may be broken."""
        strict_r2.control.reset()
        strict_r2.control.configure(write_interval=0)
        yield Place(r2_store, _door(strict_r2))
        assert strict_r2.control.report().refusals == []


class TestB2(ObjectStoreContract):
    """Backblaze B2's rules, over TLS, with a 503 for every seventh write."""

    @pytest.fixture
    def place(self, strict_b2: s3.StrictEndpoint, b2_store: S3Objects) -> Iterator[ObjectPlace]:
        """Return the server, empty; no rule of it may be broken."""
        strict_b2.control.reset()
        yield Place(b2_store, _door(strict_b2))
        assert strict_b2.control.report().refusals == []
