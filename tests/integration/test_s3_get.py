"""Reads go past boto: nothing of that shows, on the wire or in what is raised."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from fsbackup.errors import (
    AccessDeniedError,
    BackendError,
    BackendUnavailableError,
    ConflictError,
    ObjectNotFoundError,
    TransientError,
)
from fsbackup.keys import encode_key
from fsbackup.loop import run
from fsbackup.stores.s3.errors import answer_error, region_of
from fsbackup.stores.s3.store import S3Store
from fsbackup.testing import ODD_KEYS
from tests.integration.boto_helpers import assert_same_error, assert_same_request
from tests.integration.s3_helpers import MIB, PART, connect, names, outcome, upload
from tests.integration.test_s3_misbehaving import BRIEF, KEY_ID, SECRET, Answer, scripted
from tests.servers import s3
from tests.servers.endpoint import S3Endpoint
from tests.servers.faults import Drop, FaultProxy, Hold, Status
from tests.servers.operations import S3Request

DATA = bytes(range(256)) * 40
_REGION = b"<Error><Code>AuthorizationHeaderMalformed</Code><Message>x</Message><Region>eu-west-1</Region></Error>"


async def _by_boto(store: S3Store, name: str, **more: str) -> bytes:
    """Read by the client's own method."""
    client = await store.filesystem.set_session()
    answer = await client.get_object(Bucket=store.bucket, Key=name, **more)
    async with answer["Body"] as body:
        data: bytes = await body.read()
    return data


@pytest.mark.parametrize(("start", "end", "asked"), [(0, None, {}), (7, 4000, {"Range": "bytes=7-3999"})])
def test_the_same_headers_as_botos(
    store: S3Store, direct: S3Endpoint, proxy: FaultProxy, start: int, end: int | None, asked: dict[str, str]
) -> None:
    s3.put_bytes(direct, "any", DATA)
    assert run(store.read("any", start, end)) == run(_by_boto(store, "any", **asked)) == DATA[start:end]
    ours, botos = proxy.requests
    assert_same_request(ours, botos)


def test_every_name_is_signed_as_the_service_reads_it(seaweedfs: S3Endpoint) -> None:
    """The server checks signatures over the path that it was asked for."""
    endpoint = s3.fresh_bucket(seaweedfs)
    store = connect(endpoint)
    for name in map(encode_key, ODD_KEYS):
        s3.put_bytes(endpoint, name, DATA)
        assert outcome(store.read(name, 100, 200)) == DATA[100:200], name
    run(store.close())


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (403, "AccessDenied", AccessDeniedError),
        (404, "NoSuchBucket", BackendError),
        (404, "NoSuchKey", ObjectNotFoundError),
        (412, "PreconditionFailed", ConflictError),
        (503, "SlowDown", TransientError),
    ],
)
def test_the_same_errors_as_botos(proxy: FaultProxy, status: int, code: str, kind: type[BackendError]) -> None:
    store = connect(proxy.endpoint, timeout=BRIEF)
    proxy.add(Status(status, code, {"Retry-After": "0"}), on="get")
    ours, botos = outcome(store.read("any", 0, 10)), outcome(_by_boto(store, "any"))
    run(store.close())
    assert type(ours) is kind
    assert_same_error(ours, botos, status, code)


def test_a_range_behind_the_end_is_empty(store: S3Store, direct: S3Endpoint, proxy: FaultProxy) -> None:
    s3.put_bytes(direct, "any", DATA)
    assert run(store.read("any", len(DATA), len(DATA) + 10)) == b""
    assert proxy.count("get") == 1


def test_a_connection_cut_inside_a_range_is_asked_again(
    store: S3Store, direct: S3Endpoint, proxy: FaultProxy
) -> None:
    """What came before the cut counts for nothing, and whoever watches hears of the new beginning."""
    data, heard = bytes(range(256)) * 8192, list[int]()
    s3.put_bytes(direct, "any", data)
    proxy.add(Drop(answer_bytes=MIB), on="get", times=2)
    assert run(store.read("any", 5, 2 * MIB, on_progress=heard.append)) == data[5:]
    assert heard.count(0) >= 2
    assert sum(heard[-heard[::-1].index(0) :]) == len(data) - 5


@pytest.mark.parametrize("size", [1, 1000, 100_000, 3 * MIB])
def test_every_byte_of_a_body_is_heard_of_once(seaweedfs: S3Endpoint, size: int) -> None:
    """Not those of the head, which may arrive together with it, on a new connection or on one that was used."""
    endpoint = s3.fresh_bucket(seaweedfs)
    s3.put_bytes(endpoint, "any", bytes(size))
    store = connect(endpoint)
    for _ in range(4):
        heard: list[int] = []
        run(store.read("any", on_progress=heard.append))
        assert (heard[0], sum(heard)) == (0, size)
    run(store.close())


def test_a_connection_is_used_again() -> None:
    """The server has a thread for each connection."""
    threads = set()

    def script(_: S3Request) -> Answer:
        threads.add(threading.get_ident())
        return Answer(DATA[:10], 206, {"Content-Range": f"bytes 0-9/{len(DATA)}"})

    with scripted(script) as store:
        for _ in range(5):
            run(store.read("any", 0, 10))
    assert len(threads) == 1


def test_a_cancelled_read_leaves_no_connection_half_read(
    store: S3Store, direct: S3Endpoint, proxy: FaultProxy
) -> None:
    s3.put_bytes(direct, "any", DATA)
    held = Hold("after")
    proxy.add(held, on="get", times=1)

    async def cancelled() -> bytes:
        reading = asyncio.ensure_future(store.read("any", 0, 1000))
        await asyncio.to_thread(held.wait_reached)
        reading.cancel()
        await asyncio.wait({reading})
        return await store.read("any", 1000, 2000)

    assert run(cancelled()) == DATA[1000:2000]
    held.release()


def test_another_region_is_signed_for(store: S3Store, direct: S3Endpoint, proxy: FaultProxy) -> None:
    """The service names it in its answer; it is remembered."""
    s3.put_bytes(direct, "any", DATA)
    wrong = Status(400, "AuthorizationHeaderMalformed", {"x-amz-bucket-region": "eu-west-1"})
    proxy.add(wrong, on="get", times=1)
    assert run(store.read("any", 0, 10)) == run(store.read("any", 0, 10)) == DATA[:10]
    signed = [dict(one.headers)["Authorization"] for one in proxy.requests]
    assert ["/eu-west-1/s3/" in each for each in signed] == [False, True, True]


def test_a_region_in_the_answer_is_taken_once() -> None:
    """A service that goes on naming regions is not followed for ever."""
    asked: list[str] = []

    def script(request: S3Request) -> Answer:
        asked.append(request.operation)
        return Answer(_REGION, 400)

    with scripted(script) as store, pytest.raises(AccessDeniedError, match="AuthorizationHeaderMalformed"):
        run(store.read("first", 0, 10))
    assert asked == ["get"] * 2


@pytest.mark.parametrize("status", [301, 307, 400])
def test_a_region_is_learned_from_an_answer_without_a_body(
    store: S3Store, direct: S3Endpoint, proxy: FaultProxy, status: int
) -> None:
    """As of HEAD, by which a backend looks first; it has no code."""
    s3.put_bytes(direct, "any", DATA)
    proxy.add(Status(status, "NobodySeesThis", {"x-amz-bucket-region": "eu-west-1"}), on="head", times=1)
    for _ in range(2):
        found = run(store.stat("any"))
        assert found is not None
        assert found.size == len(DATA)
    signed = [dict(one.headers)["Authorization"] for one in proxy.requests]
    assert ["/eu-west-1/s3/" in each for each in signed] == [False, True, True]


@pytest.mark.parametrize("region", ["us-east-1", "eu-west-1"])
def test_a_bad_request_that_names_a_region_is_not_tried_for_ever(region: str) -> None:
    """Nor at all, where the request was signed for it: then something else is bad."""
    asked: list[str] = []

    def script(request: S3Request) -> Answer:
        asked.append(request.operation)
        return Answer(b"", 400, {"x-amz-bucket-region": region})

    with scripted(script) as store, pytest.raises(BackendError, match="HTTP 400"):
        run(store.stat("any"))
    assert len(asked) == (1 if region == "us-east-1" else 2)


@pytest.mark.parametrize(
    ("headers", "named", "expected"),
    [
        ({}, "\n  eu-west-1\n", "eu-west-1"),
        ({"x-amz-bucket-region": " eu-west-1 "}, "", "eu-west-1"),
        ({}, "eu\nx-amz-acl: public-read", ""),
        ({}, "eu/west", ""),
        ({"x-amz-bucket-region": "eu_west"}, "", ""),
        ({}, "", ""),
        ({}, "us-east-1", ""),
    ],
)
def test_what_is_no_region_is_not_signed_for(headers: dict[str, str], named: str, expected: str) -> None:
    """It would be in the headers of all requests that follow, and none of them could be made."""
    said = f"<Error><Code>AuthorizationHeaderMalformed</Code><Region>{named}</Region></Error>"
    error = BackendError("any")
    error.__cause__ = answer_error(400, headers, said.encode(), ())
    assert region_of(error, "us-east-1") == expected


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("operation", ["read", "put", "list", "remove", "upload"])
def test_a_redirect_is_refused_and_named(status: int, operation: str) -> None:
    """Nothing goes to a host that no configuration names, and the target's query is a secret."""
    asked: list[str] = []

    def elsewhere(request: S3Request) -> Answer:
        asked.append(request.operation)
        return Answer(DATA)

    with scripted(elsewhere) as other:
        assert other.endpoint_url is not None
        location = other.endpoint_url.replace("127.0.0.1", "localhost") + "/bucket/any?signature=" + SECRET
        with scripted(lambda _: Answer(b"", status, {"Location": location})) as store:
            works: dict[str, Callable[[], Any]] = {
                "read": lambda: run(store.read("any", 0, 10)),
                "put": lambda: run(store.put("any", DATA)),
                "list": lambda: names(store),
                "remove": lambda: run(store.remove("any")),
                "upload": lambda: upload(store, "any", bytes(PART + 1)),
            }
            with pytest.raises(BackendError, match="redirect") as caught:
                works[operation]()
    assert asked == []
    assert not isinstance(caught.value, (ObjectNotFoundError, TransientError))
    assert f"redirect to localhost: HTTP {status}" in str(caught.value)
    assert SECRET not in _everything(caught.value)


def test_a_redirect_to_nowhere_is_one() -> None:
    with (
        scripted(lambda _: Answer(b"", 301, {"Location": "http://[::1"})) as store,
        pytest.raises(BackendError, match="a redirect: HTTP 301"),
    ):
        run(store.read("any"))


@pytest.mark.parametrize("body", [b"", b"<Error><Code>InvalidRange</Code></Error>"])
def test_a_416_is_an_empty_range_whatever_its_body_says(body: bytes) -> None:
    """Also where the service says so by the status alone."""
    with scripted(lambda _: Answer(body, 416)) as store:
        assert run(store.read("any", 10, 20)) == b""


@pytest.mark.parametrize("answer", [Answer(b"<html>bad gateway</html>", 502), Answer(b"", 500)])
def test_an_error_without_words_is_transient(answer: Answer) -> None:
    with scripted(lambda _: answer, timeout=BRIEF) as store, pytest.raises(TransientError):
        run(store.read("any", 0, 10))


def test_no_error_names_the_keys(proxy: FaultProxy) -> None:
    """Neither a refusal that repeats them nor a connection that breaks, whose error would hold the request."""
    said = f"<Error><Code>AccessDenied</Code><Message>{KEY_ID} {SECRET}</Message></Error>".encode()
    with scripted(lambda _: Answer(said, 403)) as store:
        refused = outcome(store.read("any", 0, 10))
    proxy.add(Drop(), on="get")
    store = connect(proxy.endpoint, timeout=BRIEF)
    broken = outcome(store.read("any", 0, 10))
    run(store.close())
    assert (type(refused), type(broken)) == (AccessDeniedError, BackendUnavailableError)
    secrets = {KEY_ID, SECRET, proxy.endpoint.access_key_id, proxy.endpoint.secret_access_key}
    for error in (refused, broken):
        shown = _everything(error)
        assert not [secret for secret in secrets if secret in shown]


def _everything(error: Any) -> str:
    """Return all that is said of an error and of what caused it."""
    texts = []
    while error is not None:
        texts += [repr(error), str(error), repr(vars(error))]
        error = error.__cause__ or error.__context__
    return "\n".join(texts)


def test_a_tls_certificate_is_checked(strict_r2: s3.StrictEndpoint) -> None:
    """The bundle that is trusted, and nothing else."""
    strict_r2.control.reset()
    trusting, wary = connect(strict_r2), connect(strict_r2, ca_bundle=None)
    run(trusting.put("any", DATA))
    assert run(trusting.read("any", 3, 30)) == DATA[3:30]
    error = outcome(wary.read("any", 3, 30))
    run(trusting.close())
    run(wary.close())
    assert isinstance(error, BackendError)
    assert "ca_bundle" in (error.hint or "")
