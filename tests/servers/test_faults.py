"""Each fault of the proxy does what it says, and the record says what came."""

from __future__ import annotations

import contextlib
import gc
import socket
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trustme
from botocore.exceptions import (
    BotoCoreError,
    ConnectionClosedError,
    HTTPClientError,
    IncompleteReadError,
    ResponseStreamingError,
)

from tests.servers import s3
from tests.servers.endpoint import S3Endpoint
from tests.servers.fault_kinds import WRONG_ETAG
from tests.servers.faults import (
    Corrupt,
    Drop,
    FaultProxy,
    Hold,
    LoseResponse,
    Refuse,
    Stall,
    Status,
    Throttle,
    Truncate,
    WrongEtag,
    fault_proxy,
)
from tests.servers.ports import LOOPBACK

MIB = 1024 * 1024
DATA = bytes(range(256)) * 4096
CUT = (BotoCoreError, HTTPClientError)


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
def pool() -> Iterator[ThreadPoolExecutor]:
    """Threads for requests that do not come back."""
    with ThreadPoolExecutor() as running:
        yield running


def _is_waiting(future: Future[Any]) -> bool:
    return not wait([future], timeout=0.2).done


@pytest.mark.parametrize("name", ["moto", "seaweedfs", "rclone", "strict_r2"])
def test_without_faults_everything_passes(name: str, request: pytest.FixtureRequest) -> None:
    with fault_proxy(s3.fresh_bucket(request.getfixturevalue(name))) as proxy:
        s3.put_bytes(proxy.endpoint, "a/ü b+c", DATA)
        s3.put_parts(proxy.endpoint, "big", [b"a" * 5 * MIB, b"b"])
        assert s3.read_bytes(proxy.endpoint, "a/ü b+c") == DATA
        assert s3.list_keys(proxy.endpoint) == {"a/ü b+c": len(DATA), "big": 5 * MIB + 1}
        seen = [one.operation for one in proxy.requests]
        parts = ["create_multipart", "upload_part", "upload_part", "complete"]
        assert seen == ["put_object", *parts, "get", "list"]


def test_the_record_tells_what_passed(proxy: FaultProxy) -> None:
    s3.put_bytes(proxy.endpoint, "some/key", DATA)
    s3.read_bytes(proxy.endpoint, "some/key")
    put, get = proxy.requests
    assert (put.key, put.request_bytes, put.status, put.faults) == ("some/key", len(DATA), 200, [])
    assert (get.bucket, get.answer_bytes, get.status) == (proxy.endpoint.bucket, len(DATA), 200)
    assert put.started < get.started
    assert (proxy.count(), proxy.count("get"), proxy.count(key="other")) == (2, 1, 0)
    proxy.forget()
    assert proxy.requests == []


def test_rules_choose_by_operation_key_and_number(proxy: FaultProxy) -> None:
    rule = proxy.add(Status(503, "SlowDown"), on="put_object", key="wanted", first=2, times=2)
    s3.put_bytes(proxy.endpoint, "other", b"")
    outcomes = []
    for _ in range(4):
        try:
            outcomes.append(s3.error_of(lambda: s3.put_bytes(proxy.endpoint, "wanted", b""))[0])
        except AssertionError:
            outcomes.append(200)
    assert outcomes == [200, 503, 503, 200]
    assert rule.hits == 2


def test_clear_takes_the_faults_away(proxy: FaultProxy) -> None:
    proxy.add(Refuse())
    with pytest.raises(CUT):
        s3.list_keys(proxy.endpoint)
    proxy.clear()
    assert s3.list_keys(proxy.endpoint) == {}


def test_refuse_closes_at_accept(proxy: FaultProxy) -> None:
    rule = proxy.add(Refuse())
    url = urlsplit(proxy.endpoint.endpoint_url)
    with socket.create_connection((str(url.hostname), int(url.port or 0))) as connection:
        connection.settimeout(5)
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1) == b""
    assert rule.hits == 1
    assert proxy.requests == []


def test_refuse_one_operation(proxy: FaultProxy) -> None:
    proxy.add(Refuse(), on="list")
    s3.put_bytes(proxy.endpoint, "key", b"")
    with pytest.raises(ConnectionClosedError):
        s3.list_keys(proxy.endpoint)


@pytest.mark.parametrize("count", [0, 1000, len(DATA)])
def test_drop_in_the_request(proxy: FaultProxy, count: int) -> None:
    proxy.add(Drop(request_bytes=count), on="put_object")
    with pytest.raises(CUT):
        s3.put_bytes(proxy.endpoint, "key", DATA)
    assert (proxy.requests[0].request_bytes, proxy.requests[0].status) == (count, None)


def test_drop_in_the_answer(proxy: FaultProxy, direct: S3Endpoint) -> None:
    s3.put_bytes(direct, "key", DATA)
    proxy.add(Drop(answer_bytes=1000), on="get")
    with pytest.raises((IncompleteReadError, ResponseStreamingError)):
        s3.read_bytes(proxy.endpoint, "key")
    assert proxy.requests[0].answer_bytes == 1000


def test_stall_in_the_request(proxy: FaultProxy, direct: S3Endpoint, pool: ThreadPoolExecutor) -> None:
    rule = proxy.add(Stall(request_bytes=1000), on="put_object")
    going = pool.submit(s3.put_bytes, proxy.endpoint, "key", DATA)
    rule.wait_reached()
    assert _is_waiting(going)
    assert s3.list_keys(direct) == {}
    proxy.cut_connections()
    with pytest.raises(CUT):
        going.result()


def test_stall_in_the_answer(proxy: FaultProxy, direct: S3Endpoint, pool: ThreadPoolExecutor) -> None:
    s3.put_bytes(direct, "key", DATA)
    rule = proxy.add(Stall(answer_bytes=1000), on="get")
    going = pool.submit(s3.read_bytes, proxy.endpoint, "key")
    rule.wait_reached()
    assert _is_waiting(going)
    proxy.cut_connections()
    with pytest.raises(CUT):
        going.result()


@pytest.mark.parametrize(
    ("status", "code"),
    [(403, "AccessDenied"), (500, "InternalError"), (503, "SlowDown"), (503, "ServiceUnavailable"), (418, "Tea")],
)
def test_status(proxy: FaultProxy, direct: S3Endpoint, status: int, code: str) -> None:
    proxy.add(Status(status, code, {"Retry-After": "1"}), on="put_object", times=1)
    assert s3.error_of(lambda: s3.put_bytes(proxy.endpoint, "key", DATA)) == (status, code)
    assert s3.list_keys(direct) == {}
    s3.put_bytes(proxy.endpoint, "key", DATA)


def test_status_of_a_head_has_no_body(proxy: FaultProxy) -> None:
    proxy.add(Status(503, "SlowDown"), on="head", times=1)
    assert s3.error_of(lambda: s3.head(proxy.endpoint, "key"))[0] == 503
    assert s3.head(proxy.endpoint, "key") is None


def test_lose_response(proxy: FaultProxy, direct: S3Endpoint) -> None:
    proxy.add(LoseResponse(), on="complete")
    with pytest.raises(ConnectionClosedError):
        s3.put_parts(proxy.endpoint, "key", [b"data"])
    assert s3.read_bytes(direct, "key") == b"data"
    assert proxy.requests[-1].status is None


def test_wrong_etag(proxy: FaultProxy) -> None:
    proxy.add(WrongEtag(), on="put_object")
    proxy.add(WrongEtag(), on="complete")
    assert s3.put_bytes(proxy.endpoint, "key", b"data")["ETag"] == WRONG_ETAG
    assert s3.put_parts(proxy.endpoint, "big", [b"data"])["ETag"] == WRONG_ETAG


def test_corrupt(proxy: FaultProxy, direct: S3Endpoint) -> None:
    s3.put_bytes(direct, "key", DATA)
    proxy.add(Corrupt(at=700_000), on="get")
    got = s3.read_bytes(proxy.endpoint, "key")
    assert [index for index in range(len(DATA)) if got[index] != DATA[index]] == [700_000]
    assert s3.read_bytes(direct, "key") == DATA


def test_truncate(proxy: FaultProxy, direct: S3Endpoint) -> None:
    s3.put_bytes(direct, "key", DATA)
    proxy.add(Truncate(keep=100), on="get")
    assert s3.read_bytes(proxy.endpoint, "key") == DATA[:100]


def test_throttle(proxy: FaultProxy, direct: S3Endpoint) -> None:
    proxy.add(Throttle(up=1_000_000, down=2_000_000))
    start = time.monotonic()
    s3.put_bytes(proxy.endpoint, "key", DATA[:300_000])
    put = time.monotonic()
    s3.read_bytes(proxy.endpoint, "key")
    assert put - start >= 0.25
    assert time.monotonic() - put >= 0.12
    assert s3.read_bytes(direct, "key") == DATA[:300_000]


def test_hold_before(proxy: FaultProxy, direct: S3Endpoint, pool: ThreadPoolExecutor) -> None:
    gate = proxy.add(Hold(), on="put_object")
    going = pool.submit(s3.put_bytes, proxy.endpoint, "key", b"data")
    gate.wait_reached()
    assert s3.list_keys(direct) == {}
    gate.release()
    going.result()
    assert s3.list_keys(direct) == {"key": 4}


def test_hold_after(proxy: FaultProxy, direct: S3Endpoint, pool: ThreadPoolExecutor) -> None:
    gate = proxy.add(Hold("after"), on="complete")
    going = pool.submit(s3.put_parts, proxy.endpoint, "key", [b"data"])
    gate.wait_reached()
    assert s3.read_bytes(direct, "key") == b"data"
    assert _is_waiting(going)
    proxy.clear()
    going.result()


def test_not_reached_is_an_error(proxy: FaultProxy) -> None:
    gate = proxy.add(Hold())
    with pytest.raises(AssertionError, match="Hold was not reached"):
        gate.wait_reached(timeout=0.01)


def test_faults_act_together(proxy: FaultProxy) -> None:
    slow = proxy.add(Throttle(up=2_000_000))
    proxy.add(Drop(request_bytes=200_000), on="put_object")
    start = time.monotonic()
    with pytest.raises(CUT):
        s3.put_bytes(proxy.endpoint, "key", DATA)
    assert time.monotonic() - start >= 0.08
    assert slow.hits == 1


def test_many_at_once(proxy: FaultProxy, pool: ThreadPoolExecutor) -> None:
    keys = [f"key{number}" for number in range(32)]
    list(pool.map(lambda key: s3.put_bytes(proxy.endpoint, key, DATA), keys))
    assert all(content == DATA for content in pool.map(lambda key: s3.read_bytes(proxy.endpoint, key), keys))


def test_a_server_that_is_gone_is_a_cut_connection(direct: S3Endpoint) -> None:
    with s3.unreachable(direct) as nowhere, fault_proxy(nowhere) as proxy, pytest.raises(ConnectionClosedError):
        s3.list_keys(proxy.endpoint)


def test_stopping_leaves_no_connection_to_a_server_that_is_slow_to_close_tls(
    direct: S3Endpoint, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    authority, listener = trustme.CA(), socket.create_server((LOOPBACK, 0))
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(LOOPBACK).configure_cert(context)

    def answer_and_say_nothing_more() -> ssl.SSLSocket:
        connection = context.wrap_socket(listener.accept()[0], server_side=True)
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        return connection

    url = f"https://{LOOPBACK}:{listener.getsockname()[1]}"
    slow = replace(direct, endpoint_url=url, ca_bundle=tmp_path / "ca.pem")
    serving = pool.submit(answer_and_say_nothing_more)
    with listener, fault_proxy(slow) as proxy:
        assert s3.read_bytes(proxy.endpoint, "key") == b""
    gc.collect()  # what is still open then is a warning, and that an error
    serving.result().close()
