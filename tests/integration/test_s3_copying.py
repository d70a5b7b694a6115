"""Giving an object other metadata: a copy onto itself, in the data plane, of exactly the object that was seen."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from fsbackup.errors import AccessDeniedError, BackendError, ConflictError, TransientError
from fsbackup.loop import run
from fsbackup.stores.base import ObjectStat, WritePlan
from fsbackup.stores.s3.control.filesystem import Control
from fsbackup.stores.s3.providers import R2
from fsbackup.stores.s3.store import S3Store
from fsbackup.stores.s3.writer import copying
from tests.integration.s3_helpers import PART, connect, outcome, upload
from tests.integration.test_s3_misbehaving import Answer, scripted
from tests.matrix import matrix
from tests.servers import s3
from tests.servers.endpoint import S3Endpoint
from tests.servers.faults import FaultProxy, Hold, LoseResponse, fault_proxy
from tests.servers.operations import S3Request

NAME = "dir/a+b %25 é&x"


@pytest.fixture(params=["strict_r2", "strict_b2", "seaweedfs", *map(matrix, ["moto", "rclone"])])
def server(request: pytest.FixtureRequest) -> S3Endpoint:
    """A server, its bucket empty."""
    endpoint: S3Endpoint = request.getfixturevalue(request.param)
    if not isinstance(endpoint, s3.StrictEndpoint):
        return s3.fresh_bucket(endpoint)
    endpoint.control.reset()
    endpoint.control.configure(unavailable_every=0, write_interval=0)
    return endpoint


@pytest.fixture
def proxy(server: S3Endpoint) -> Iterator[FaultProxy]:
    """A proxy before it."""
    with fault_proxy(server) as running:
        yield running


@pytest.fixture
def store(proxy: FaultProxy) -> Iterator[S3Store]:
    """A store behind the proxy."""
    made = connect(proxy.endpoint)
    yield made
    run(made.close())


def stored(store: S3Store, name: str = NAME) -> ObjectStat:
    """Return what HEAD says of an object."""
    found = run(store.stat(name))
    assert found is not None
    return found


def test_one_copy_between_two_looks_without_the_boto_client(
    store: S3Store, proxy: FaultProxy, server: S3Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(Control, "filesystem")
    run(store.put(NAME, b"bytes"))
    before = stored(store)
    proxy.forget()
    after = run(store.replace_metadata(before, {"made-by": "test"}))
    assert [one.operation for one in proxy.requests] == ["head", "copy_object", "head"]
    assert (after.name, after.size, dict(after.metadata)) == (NAME, 5, {"made-by": "test"})
    assert s3.read_bytes(server, NAME) == b"bytes"


@pytest.mark.parametrize("most", [copying.MAX_COPY, 0])
def test_what_else_another_program_gave_an_object_stays(
    seaweedfs: S3Endpoint, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy that replaces metadata replaces these headers, too."""
    monkeypatch.setattr(copying, "MAX_COPY", most)
    endpoint = s3.fresh_bucket(seaweedfs)
    given = {"ContentType": "text/html", "CacheControl": "max-age=5", "ContentDisposition": "inline"}
    s3.client(endpoint).put_object(Bucket=endpoint.bucket, Key=NAME, Body=b"<p>", **given)
    store = connect(endpoint)
    run(store.replace_metadata(stored(store), {"made-by": "test"}))
    run(store.close())
    found = s3.client(endpoint).head_object(Bucket=endpoint.bucket, Key=NAME)
    assert {name: found[name] for name in given} == given


def test_what_was_replaced_since_stays(store: S3Store, server: S3Endpoint) -> None:
    run(store.put(NAME, b"old"))
    before = stored(store)
    run(store.put(NAME, b"new"))
    newer = stored(store)
    assert type(outcome(store.replace_metadata(before, {"made-by": "test"}))) is ConflictError
    assert s3.read_bytes(server, NAME) == b"new"
    if server.name not in ("moto", "rclone"):  # they ignore the condition: an error, and its own metadata is lost
        assert stored(store) == newer


def test_a_copy_whose_response_is_lost_is_found(store: S3Store, proxy: FaultProxy) -> None:
    """Also where the copy has another ETag, so that the repetition is refused."""
    for data in (b"one part", b"two parts" * (PART // 8)):
        upload(store, NAME, data)
        proxy.add(LoseResponse(), on="copy_object", times=1)
        assert dict(run(store.replace_metadata(stored(store), {"made-by": "test"})).metadata) == {
            "made-by": "test"
        }


def test_a_copy_of_parts(seaweedfs: S3Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above what one request copies; the third part is the rest."""
    monkeypatch.setattr(copying, "MAX_COPY", PART)
    monkeypatch.setattr(copying, "PART", PART)
    endpoint, data = s3.fresh_bucket(seaweedfs), b"parts" * (PART // 2)
    store = connect(endpoint)
    upload(store, NAME, data)
    copied = run(store.replace_metadata(stored(store), {"made-by": "test"}))
    assert (copied.size, dict(copied.metadata)) == (len(data), {"made-by": "test"})
    assert s3.read_bytes(endpoint, NAME) == data
    run(store.put(NAME, b"x" * (PART + 1)))
    assert type(outcome(store.replace_metadata(copied, {"made-by": "another"}))) is ConflictError
    assert s3.list_uploads(endpoint) == []
    run(store.close())


def test_a_copy_of_parts_that_is_cancelled_leaves_no_upload(
    seaweedfs: S3Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the service has created the upload and has not been told yet whose it is."""
    monkeypatch.setattr(copying, "MAX_COPY", 0)
    with fault_proxy(s3.fresh_bucket(seaweedfs)) as proxy:
        store = connect(proxy.endpoint)
        upload(store, NAME, b"bytes")
        found = stored(store)
        note = proxy.add(Hold(), on="put_object", key=".fsbackup/")

        async def cancel() -> None:
            task = asyncio.ensure_future(store.replace_metadata(found, {"made-by": "test"}))
            await asyncio.to_thread(note.wait_reached)
            task.cancel()
            await asyncio.sleep(0)
            note.release()
            with pytest.raises(asyncio.CancelledError):
                await task

        run(cancel())
        assert s3.list_uploads(proxy.endpoint) == []
        assert set(s3.list_keys(proxy.endpoint)) == {NAME}
        run(store.close())


def test_a_copy_that_is_not_made_says_nothing_of_other_writes() -> None:
    """A service may know the condition of a write, and not that of a copy."""

    def script(request: S3Request) -> Answer:
        if request.operation == "put_object":
            return Answer(b"<Error><Code>NotImplemented</Code></Error>", status=501)
        return Answer(status=404 if request.key else 200)

    async def copy(store: S3Store) -> None:
        copier = store.copier(
            "b", WritePlan(1, create_only=True), store, ObjectStat("a", 1, etag="0" * 32), "0" * 32
        )
        assert copier is not None
        await copier.copy()
        await copier.commit()

    with scripted(script, profile=R2) as store:
        assert store.capabilities.conditional_create
        with pytest.raises(BackendError, match="does not make this copy"):
            run(copy(store))
        assert store.capabilities.conditional_create


@pytest.mark.parametrize(
    ("code", "kind"),
    [("InternalError", TransientError), ("AccessDenied", AccessDeniedError), ("", TransientError)],
)
def test_an_error_after_the_status(code: str, kind: type[Exception]) -> None:
    """A service may answer 200 before it copies, and say in the body that it failed."""

    def script(request: S3Request) -> Answer:
        if request.operation == "put_object":
            return Answer(f"<?xml version='1.0'?>\n<Error><Code>{code}</Code></Error>".encode())
        return Answer(headers={"ETag": '"0"', "Content-Length": "1"}, status=200)

    with scripted(script, timeout=0.3) as store:
        error = outcome(store.replace_metadata(ObjectStat("a", 1, etag="0"), {"made-by": "test"}))
        assert isinstance(error, kind)
