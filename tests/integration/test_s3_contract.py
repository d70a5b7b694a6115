"""The contract suite where only the S3 adapter can go wrong: a whole bucket, a shared one, a busy service."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from fsbackup.loop import run
from fsbackup.stores.s3.store import S3Store
from fsbackup.testing import ObjectPlace, Place, RawAccess
from fsbackup.testing.creating import CreatingContract
from fsbackup.testing.listing import ListingContract
from fsbackup.testing.removing import RemovingContract
from fsbackup.testing.writing import WritingContract
from tests.integration.s3_helpers import connect
from tests.servers import s3
from tests.servers.endpoint import S3Endpoint


def _raw_access(endpoint: S3Endpoint, prefix: str = "") -> RawAccess:
    def get(name: str) -> bytes | None:
        there = s3.head(endpoint, prefix + name) is not None
        return s3.read_bytes(endpoint, prefix + name) if there else None

    return RawAccess(
        put=lambda name, data: _patiently(lambda: s3.put_bytes(endpoint, prefix + name, data)),
        get=get,
        names=lambda: {key.removeprefix(prefix) for key in s3.list_keys(endpoint, prefix)},
        unfinished=lambda: [upload.key for upload in s3.list_uploads(endpoint)],
    )


def _patiently(action: Callable[[], object]) -> None:
    """Do it again when the service was busy, which it never is twice in a row."""
    try:
        action()
    except ClientError as error:
        if error.response["Error"]["Code"] != "ServiceUnavailable":
            raise
        action()


def _store(endpoint: S3Endpoint, **options: Any) -> Iterator[S3Store]:
    """Give a store to all tests of a class: pages of seven names, so that few objects take several."""
    store = connect(endpoint, page_size=7, **options)
    yield store
    run(store.close())


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
def prefix_store(shared_bucket: S3Endpoint) -> Iterator[S3Store]:
    """Return the store of a prefix in that bucket."""
    yield from _store(shared_bucket, prefix="team/ours")


@pytest.fixture(scope="module")
def r2_store(strict_r2: s3.StrictEndpoint) -> Iterator[S3Store]:
    """Return the store of the strict R2."""
    yield from _store(strict_r2)


@pytest.fixture(scope="module")
def b2_store(strict_b2: s3.StrictEndpoint) -> Iterator[S3Store]:
    """Return the store of the strict B2."""
    yield from _store(strict_b2)


@pytest.mark.matrix
class TestSharedBucket(ListingContract, RemovingContract):
    """Names under a prefix, in a bucket that others use too."""

    @pytest.fixture
    def place(self, shared_bucket: S3Endpoint, prefix_store: S3Store) -> ObjectPlace:
        """Return the prefix, empty."""
        s3.empty_bucket(shared_bucket, "team/ours/")
        return Place(prefix_store, _raw_access(shared_bucket, "team/ours/"))


@pytest.mark.matrix
class TestWholeBucketOfR2(WritingContract, CreatingContract, ListingContract):
    """Cloudflare R2's rules for parts, over TLS, without a prefix."""

    @pytest.fixture
    def place(self, strict_r2: s3.StrictEndpoint, r2_store: S3Store) -> Iterator[ObjectPlace]:
        """Return the server, empty and without its limit on rewriting one key; no rule of it may be broken."""
        strict_r2.control.reset()
        strict_r2.control.configure(write_interval=0)
        yield Place(r2_store, _raw_access(strict_r2))
        assert strict_r2.control.report().refusals == []
        strict_r2.control.reset()


class TestBusyB2(WritingContract, CreatingContract, RemovingContract):
    """Backblaze B2's rules, over TLS, with a 503 for every seventh write."""

    @pytest.fixture
    def place(self, strict_b2: s3.StrictEndpoint, b2_store: S3Store) -> Iterator[ObjectPlace]:
        """Return the server, empty; no rule of it may be broken."""
        strict_b2.control.reset()
        yield Place(b2_store, _raw_access(strict_b2))
        assert strict_b2.control.report().refusals == []
        strict_b2.control.reset()


def test_r2_writes_one_key_again_after_a_second(strict_r2: s3.StrictEndpoint, r2_store: S3Store) -> None:
    """Its limit of one write per second and key is waited out by the retries."""
    strict_r2.control.reset()
    for content in (b"1", b"22", b"333"):
        run(r2_store.put("often", content))
    assert s3.read_bytes(strict_r2, "often") == b"333"
    assert {refusal.code for refusal in strict_r2.control.report().refusals} == {"TooManyRequests"}
    strict_r2.control.reset()
