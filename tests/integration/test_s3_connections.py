"""The ways to a service: proxies, certificates, addresses, temporary keys; and connections that die or are cut."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from fsbackup.errors import AccessDeniedError, BackendError, BackendUnavailableError, TransientError
from fsbackup.loop import run
from fsbackup.stores.s3.http import pool
from fsbackup.stores.s3.http.requests import Request
from fsbackup.stores.s3.http.responses import read_small
from fsbackup.stores.s3.http.settings import Address, Secret, Settings
from fsbackup.stores.s3.store import S3Store
from tests.integration.s3_helpers import MIB, PART, connect, names, outcome, upload
from tests.integration.test_s3_misbehaving import Answer, scripted
from tests.servers import s3
from tests.servers.endpoint import S3Endpoint
from tests.servers.faults import Drop, FaultProxy, fault_proxy
from tests.servers.http_proxy import USER, ProxyPlace, http_proxy
from tests.servers.operations import S3Request

DATA = bytes(range(256)) * 40
TOKEN = "temporary-t0ken=="
_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in _VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def everything(error: BaseException | None) -> str:
    """Return all that is said of an error and of what caused it."""
    texts = []
    while error is not None:
        texts += [repr(error), str(error), repr(vars(error))]
        error = error.__cause__ or error.__context__
    return "\n".join(texts)


# --- proxies ----------------------------------------------------------------------------------------------------


@pytest.fixture
def forwarding() -> Iterator[ProxyPlace]:
    """A proxy that asks for a password."""
    with http_proxy() as place:
        yield place


def _round_trip(store: S3Store) -> None:
    run(store.put("any", DATA))
    assert run(store.read("any", 3, 30)) == DATA[3:30]
    upload(store, "large", bytes(PART + 1))  # boto's requests take the same way
    assert names(store) == ["any", "large"]
    run(store.close())


def test_plain_http_goes_through_the_proxy(
    direct: S3Endpoint, forwarding: ProxyPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", forwarding.with_login())
    _round_trip(connect(direct))
    assert len(forwarding.asked) >= 8
    assert all(f" {direct.endpoint_url}/" in each for each in forwarding.asked)


def test_tls_goes_through_a_tunnel(
    strict_r2: s3.StrictEndpoint, forwarding: ProxyPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict_r2.control.reset()
    monkeypatch.setenv("HTTPS_PROXY", forwarding.with_login())
    _round_trip(connect(strict_r2))
    assert set(forwarding.asked) == {f"CONNECT {strict_r2.endpoint_url.removeprefix('https://')}"}


def test_tls_goes_through_the_tls_of_a_proxy(
    strict_r2: s3.StrictEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict_r2.control.reset()
    assert strict_r2.ca_bundle is not None
    with http_proxy(tmp_path) as place:
        both = tmp_path / "both.pem"
        both.write_text(strict_r2.ca_bundle.read_text() + (tmp_path / "proxy-ca.pem").read_text())
        monkeypatch.setenv("HTTPS_PROXY", place.with_login())
        store = connect(strict_r2, ca_bundle=str(both))
        run(store.put("any", DATA * 100))
        assert run(store.read("any")) == DATA * 100
        run(store.close())
    assert set(place.asked) == {f"CONNECT {strict_r2.endpoint_url.removeprefix('https://')}"}


@pytest.mark.parametrize("server", ["moto", "strict_r2"])
def test_a_refused_password_is_said_and_never_shown(
    server: str, forwarding: ProxyPlace, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """At once, since it will not pass."""
    wrong = forwarding.with_login(password="wr0ng/p@ss")
    for name in ("HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, wrong)
    store = connect(request.getfixturevalue(server))
    for work in (store.read("any"), store.put("any", DATA)):
        error = outcome(work)
        assert isinstance(error, AccessDeniedError)
        assert "407" in str(error)
        assert "HTTPS_PROXY" in (error.hint or "")
        shown = everything(error)
        assert [text for text in (wrong, "wr0ng/p@ss", "wr0ng%2Fp%40ss") if text in shown] == []
    assert len(forwarding.asked) == 2
    run(store.close())


def test_a_proxy_that_is_away_is_named_without_its_password(
    direct: S3Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3.unreachable(direct) as nowhere:
        url = nowhere.endpoint_url.replace("://", f"://{USER}:s3cr3tpass@")
        monkeypatch.setenv("HTTP_PROXY", url)
        store = connect(direct, timeout=0.5)
        for work in (lambda: run(store.read("any")), lambda: upload(store, "any", bytes(PART + 1))):
            with pytest.raises(BackendUnavailableError) as caught:
                work()
            assert "s3cr3tpass" not in everything(caught.value)
        run(store.close())


@pytest.mark.parametrize("address", ["someone:hunter2/x@proxy:3128", "someone:hunter2@proxy:many", "[::1:hunter2"])
def test_a_proxy_that_is_no_address_is_refused_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """Where a password has a slash, it stands in the place of the port."""
    with scripted(lambda _: Answer(DATA)) as store:
        monkeypatch.setenv("HTTP_PROXY", f"http://{address}")
        error = outcome(store.read("any"))
    assert isinstance(error, BackendError)
    assert "a proxy must be" in str(error)
    assert "hunter2" not in everything(error)


@pytest.mark.parametrize("excluded", ["other.example.com,127.0.0.1", "*", "fd00::/8, 127.0.0.0/8"])
def test_no_proxy_excludes(
    direct: S3Endpoint, forwarding: ProxyPlace, monkeypatch: pytest.MonkeyPatch, excluded: str
) -> None:
    monkeypatch.setenv("http_proxy", forwarding.url)
    monkeypatch.setenv("no_proxy", excluded)
    _round_trip(connect(direct))
    assert forwarding.asked == []


# --- addresses and keys -----------------------------------------------------------------------------------------


def test_a_bucket_in_the_hosts_name(forwarding: ProxyPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy resolves the name, and finds our server behind it."""
    monkeypatch.setenv("HTTP_PROXY", forwarding.with_login())
    with scripted(lambda _: Answer(DATA)) as plain:
        forwarding.upstream = (plain.endpoint_url or "").removeprefix("http://")
        endpoint = S3Endpoint(
            "virtual", "http://s3.example.com", "id", "made-up-for-this-test", "us-east-1", "bucket"
        )
        store = connect(endpoint, addressing="virtual")
        assert run(store.read("dir/any")) == DATA
        run(store.close())
    assert forwarding.asked == ["GET http://bucket.s3.example.com/dir/any"]


def test_an_ipv6_address() -> None:
    with scripted(lambda _: Answer(DATA), host="::1") as store:
        assert "[::1]" in (store.endpoint_url or "")
        assert run(store.read("any")) == DATA


def _resolve_to(monkeypatch: pytest.MonkeyPatch, *found: tuple[int, tuple[str, int]]) -> None:
    addresses = [(family, socket.SOCK_STREAM, 0, "", address) for family, address in found]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: list(addresses))


def test_a_family_that_the_kernel_has_not_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted(lambda _: Answer(DATA), timeout=2.0) as store:
        port = int((store.endpoint_url or "").rpartition(":")[2])
        _resolve_to(monkeypatch, (250, ("::1", port)), (socket.AF_INET, ("127.0.0.1", port)))
        assert run(store.read("any")) == DATA


@pytest.mark.parametrize(
    ("addresses", "timeout", "share", "handshake"),
    [(1, 60.0, 10.0, 10.0), (2, 60.0, 5.0, 10.0), (8, 60.0, 3.0, 10.0), (8, 2.0, 2.0, 2.0)],
)
def test_only_to_connect_do_addresses_share_the_time(
    monkeypatch: pytest.MonkeyPatch, addresses: int, timeout: float, share: float, handshake: float
) -> None:
    """A handshake takes several round trips, each of seconds where the line is slow or busy."""
    had: list[float | None] = []

    def prepare(sock: socket.socket, seconds: float) -> None:
        had.append(seconds)
        pool_prepare(sock, seconds)

    def with_tls(sock: socket.socket, *_: object) -> socket.socket:
        had.append(sock.gettimeout())
        return sock

    pool_prepare = pool.prepare
    monkeypatch.setattr(pool, "prepare", prepare)
    monkeypatch.setattr(pool, "with_tls", with_tls)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        _resolve_to(monkeypatch, *[(socket.AF_INET, listener.getsockname())] * addresses)
        secret = Secret("made-up-for-this-test")
        address = Address(Settings("https://many", "bucket", "us-east-1", secret, secret, None, timeout))
        pool.Http(address, timeout, None).connect(lambda _: None).close()
    assert had == [share, handshake]


def test_a_temporary_key_sends_its_token(proxy: FaultProxy) -> None:
    """With requests of both planes, signed."""
    store = connect(proxy.endpoint, session_token=TOKEN)
    run(store.put("any", DATA))
    names(store)
    upload(store, "large", bytes(PART + 1))
    run(store.close())
    for one in proxy.requests:
        headers = {name.lower(): value for name, value in one.headers}
        assert headers["x-amz-security-token"] == TOKEN, one.operation
        assert "x-amz-security-token" in headers["authorization"]


# --- certificates and other people's configuration ---------------------------------------------------------------


def _python(code: str, endpoint: S3Endpoint, **environ: str) -> str:
    """Run a program that has a backend at an endpoint and a file of two parts, and return what it prints."""
    head = """
        import sys
        from fsbackup.backends import S3Storage
        from fsbackup.loop import run
        backend = S3Storage(*sys.argv[1:6], errors="raise", timeout=20)
        with open(sys.argv[6], "wb") as file:
            file.write(bytes(9 << 20))
        backend.upload(sys.argv[6], "large")
    """
    arguments = (
        endpoint.bucket,
        endpoint.region,
        endpoint.access_key_id,
        endpoint.secret_access_key,
        endpoint.endpoint_url,
        str(Path(environ["HOME"]) / "two-parts"),
    )
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(head) + textwrap.dedent(code), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, **environ},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_systems_authorities_are_trusted(strict_r2: s3.StrictEndpoint, tmp_path: Path) -> None:
    """By both planes; here the system is one that trusts the server."""
    strict_r2.control.reset()
    environ = {"HOME": str(tmp_path), "SSL_CERT_FILE": str(strict_r2.ca_bundle)}
    assert _python("print(backend.get_size('large'))", strict_r2, **environ) == str(9 << 20)


@pytest.mark.parametrize("text", [None, "no certificate"])
def test_a_bundle_that_cannot_be_used_is_said_at_once(
    strict_r2: s3.StrictEndpoint, tmp_path: Path, text: str | None
) -> None:
    bundle = tmp_path / "ca.pem"
    if text is not None:
        bundle.write_text(text)
    store = connect(strict_r2, ca_bundle=str(bundle))
    with pytest.raises(BackendError, match=r"ca\.pem") as caught:
        run(store.read("any"))
    assert not isinstance(caught.value, BackendUnavailableError)
    run(store.close())


def test_other_peoples_configuration_has_no_effect(moto: S3Endpoint, tmp_path: Path) -> None:
    """That of fsspec, from variables and files, and that of AWS."""
    folder = tmp_path / ".config/fsspec"
    folder.mkdir(parents=True)
    wrong = {"key": "FILEKEY", "requester_pays": True, "endpoint_url": "http://127.0.0.1:9", "profile": "x"}
    (folder / "conf.json").write_text(json.dumps({"s3": wrong}))
    code = """
        fs = backend.fs
        print(len(fs.cat_file(backend.bucket + "/large")), fs.key, fs.requester_pays, type(fs).__name__)
        shown = repr(fs.storage_options) + repr(vars(fs))
        print([text for text in ("FILEKEY", "VARKEY", "VARSECRET") if text in shown])
    """
    environ = {
        "HOME": str(tmp_path),
        "FSSPEC_S3_KEY": "VARKEY",
        "FSSPEC_S3_SECRET": "VARSECRET",
        "FSSPEC_S3_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "VARKEY",
        "AWS_SECRET_ACCESS_KEY": "VARSECRET",
        "AWS_SESSION_TOKEN": "VARTOKEN",
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9",
        "AWS_PROFILE": "no-such-profile",
        "AWS_CA_BUNDLE": "/no/such/file",
        "AWS_REGION": "mars-1",
        "AWS_USE_FIPS_ENDPOINT": "true",
    }
    assert _python(code, s3.fresh_bucket(moto), **environ) == f"{9 << 20} None False S3FileSystem\n[]"


# --- connections ------------------------------------------------------------------------------------------------


def test_a_connection_that_was_closed_while_idle_is_replaced(
    store: S3Store, proxy: FaultProxy, caplog: pytest.LogCaptureFixture
) -> None:
    run(store.put("any", DATA))
    proxy.cut_connections()
    with caplog.at_level(logging.INFO, "fsbackup"):
        assert run(store.read("any")) == DATA
    assert proxy.count("get") == 1
    assert not [text for text in caplog.messages if "retrying" in text]


def test_an_idle_connection_that_dies_without_a_byte_is_replaced_once(
    seaweedfs: S3Endpoint, caplog: pytest.LogCaptureFixture
) -> None:
    """A second death is one for the retries."""
    with fault_proxy(s3.fresh_bucket(seaweedfs)) as proxy:
        store = connect(proxy.endpoint)
        for times, retries in ((1, 0), (2, 1)):
            run(store.put("any", DATA))
            proxy.add(Drop(), on="get", times=times)
            caplog.clear()
            with caplog.at_level(logging.INFO, "fsbackup"):
                assert run(store.read("any")) == DATA
            assert len([text for text in caplog.messages if "retrying" in text]) == retries
            proxy.clear()
        run(store.close())


def _connections(answer: Answer, requests: int) -> int:
    """Return how many connections so many reads of three bytes take; none is made twice."""
    connections: list[object] = []
    asked: list[S3Request] = []

    def script(request: S3Request) -> Answer:
        asked.append(request)
        return answer

    with scripted(script, connections=connections) as store:
        for _ in range(requests):
            assert run(store.read("any", 0, 3)) == b"abc"
    assert len(asked) == requests
    return len(connections)


def test_an_old_connection_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = Answer(b"abc", 206, {"Content-Range": "bytes 0-2/10"})
    assert _connections(answer, 3) == 1
    monkeypatch.setattr("fsbackup.stores.s3.http.connection._KEEPALIVE", -1.0)
    assert _connections(answer, 3) == 3


def test_old_connections_are_closed_when_another_is_kept() -> None:
    """After many requests at once, those that follow one by one take the newest, and never look at the others."""
    gate = threading.Barrier(4)

    def script(request: S3Request) -> Answer:
        if request.key != "last":
            gate.wait(20)
        return Answer(DATA)

    async def at_once(store: S3Store) -> None:
        await asyncio.gather(*(store.read(str(number)) for number in range(4)))

    with scripted(script) as store:
        run(at_once(store))
        idle = store._bucket.http.idle
        old, newest = idle[:3], idle[3]
        assert len(idle) == 4
        for one in old:
            one.last_used -= 60.0
        assert run(store.read("last")) == DATA
        assert idle == [newest]
        assert [one.socket.fileno() for one in old] == [-1] * 3


def test_a_connection_with_bytes_that_nobody_asked_for_is_not_used_again() -> None:
    """They would be taken for the beginning of the next answer."""
    more = Answer(b"abcHTTP/1.1 200 OK\r\n\r\n", 206, {"Content-Range": "bytes 0-2/10", "Content-Length": "3"})
    assert _connections(more, 3) == 3


def test_an_interim_response_is_not_taken_for_the_answer() -> None:
    """A removal that was refused would count as done, and its answer would be that of the next request."""
    said = b"<Error><Code>AccessDenied</Code></Error>"

    def converse(client: socket.socket) -> None:
        client.recv(1 << 16)
        client.sendall(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
        client.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: %d\r\n\r\n%s" % (len(said), said))

    with _raw_server(converse) as endpoint:
        store = connect(endpoint, timeout=5.0)
        assert type(outcome(store.remove("any"))) is AccessDeniedError
    run(store.close())


@contextmanager
def _raw_server(converse: Callable[[socket.socket], None]) -> Iterator[S3Endpoint]:
    """Give an endpoint whose first connection is left to a function."""

    def serve() -> None:
        client, _ = listener.accept()
        with client:
            converse(client)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        yield S3Endpoint("raw", url, "id", "made-up-for-this-test", "us-east-1", "bucket")
        thread.join(20)
        assert not thread.is_alive()


def _spaces(client: socket.socket, end: bytes, seconds: float) -> None:
    """Answer 200 at once, then with white space, and with an end after some seconds."""
    client.recv(1 << 16)
    client.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    until, never = time.monotonic() + seconds, threading.Event()
    with suppress(OSError):  # the client has gone
        while time.monotonic() < until:
            client.sendall(b"1\r\n \r\n")
            never.wait(0.05)
        client.sendall(b"%x\r\n%s\r\n0\r\n\r\n" % (len(end), end))


def _copy(store: S3Store) -> BackendError | None:
    """Make a request whose answer takes its time, as one that copies."""

    async def send() -> None:
        await store._bucket.send(store._bucket.context("copy", "any"), Request("PUT", "any"), read_small)

    error = outcome(send())
    run(store.close())
    return error if isinstance(error, BackendError) else None


def test_white_space_while_the_service_works_is_no_silence() -> None:
    """So is the answer to CompleteMultipartUpload and CopyObject, of large objects for minutes."""
    with _raw_server(lambda client: _spaces(client, b"<Done/>", 1.2)) as endpoint:
        assert _copy(connect(endpoint, timeout=0.6)) is None


def test_white_space_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fsbackup.stores.s3.http.requests._LONGEST_ANSWER", 0.1)
    with _raw_server(lambda client: _spaces(client, b"<Done/>", 5.0)) as endpoint:
        error = _copy(connect(endpoint, timeout=0.5))
    assert isinstance(error, BackendUnavailableError)
    assert "no byte moved" in str(error)


def test_an_error_after_white_space_is_not_asked_for_again_and_again() -> None:
    """What was said meanwhile is no progress: after the timeout nothing is tried again."""
    failed = b"<Error><Code>InternalError</Code></Error>"
    with _raw_server(lambda client: _spaces(client, failed, 0.8)) as endpoint:
        error = _copy(connect(endpoint, timeout=0.5))
    assert type(error) is TransientError


@pytest.mark.parametrize("is_upload", [False, True])
def test_a_cancelled_request_is_cut_at_once(is_upload: bool) -> None:
    """Its thread would otherwise wait for the whole timeout, and go on to send."""
    asked, cut = threading.Event(), threading.Event()

    def converse(client: socket.socket) -> None:
        client.recv(1000)
        asked.set()
        cut.wait(20)
        client.settimeout(20)
        while client.recv(1 << 20):
            pass

    async def scenario(store: S3Store) -> None:
        work = store.put("any", bytes(64 * MIB)) if is_upload else store.read("any")
        task = asyncio.ensure_future(work)
        await asyncio.to_thread(asked.wait)
        task.cancel()
        await asyncio.wait({task})
        cut.set()
        assert task.cancelled()

    with _raw_server(converse) as endpoint:
        store = connect(endpoint)
        run(scenario(store))
    run(store.close())


def test_a_body_that_is_refused_half_way_is_told_why() -> None:
    """The server answers, and closes without reading the rest."""
    said = b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>"

    def converse(client: socket.socket) -> None:
        client.recv(1 << 16)
        client.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: %d\r\n\r\n%s" % (len(said), said))

    with _raw_server(converse) as endpoint:
        store = connect(endpoint, timeout=5.0)
        error = outcome(store.put("any", bytes(32 * MIB)))
    run(store.close())
    assert type(error) is AccessDeniedError


def test_a_header_cannot_be_made_of_metadata(store: S3Store, proxy: FaultProxy) -> None:
    """A line break in it would begin another header, or another request."""
    error = outcome(_with_metadata(store, {"note": "x\r\nx-amz-acl: public-read"}))
    assert isinstance(error, BackendError)
    assert proxy.count() == 0


async def _with_metadata(store: S3Store, metadata: dict[str, str]) -> None:
    from fsbackup.stores.base import Part, WritePlan

    writer = store.writer("any", WritePlan(1, metadata=metadata), lambda _: None)
    await writer.write(Part(1, 0, b"x", last=True))
    await writer.commit()


def test_the_endpoint_decides_and_nothing_else(direct: S3Endpoint) -> None:
    """The server's own name in another case is the same host to both planes."""
    store = connect(replace(direct, endpoint_url=direct.endpoint_url.replace("127.0.0.1", "LOCALHOST")))
    _round_trip(store)


def test_a_filesystem_collected_on_another_loop_is_closed_on_its_own(strict_r2: s3.StrictEndpoint) -> None:
    """As in a notebook: no traceback of a task there that has failed to close the connections of another loop."""
    errors: list[object] = []

    async def notebook() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
        store = connect(strict_r2)
        await asyncio.to_thread(store.filesystem.ls, strict_r2.bucket)
        client = store.filesystem._s3
        del store
        while client._endpoint.http_session._sessions is not None:
            gc.collect()  # again: a thread may hold its last frame, and so the filesystem, for a moment
            await asyncio.sleep(0.01)
        gc.collect()  # also a task whose error nobody looks at

    asyncio.run(asyncio.wait_for(notebook(), 30))
    assert not errors
