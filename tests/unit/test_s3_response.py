"""The head of a response: what it says, and what is no head."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.client import HTTPException, HTTPResponse

import pytest

from fsbackup.stores.s3.errors import answer_error
from fsbackup.stores.s3.http.connection import Connection
from fsbackup.stores.s3.http.responses import http_time, read_small

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


Respond = Callable[..., HTTPResponse]


@pytest.fixture
def response() -> Iterator[Respond]:
    """Return what returns the response in the bytes that a server sends before it closes."""
    with ExitStack() as sockets:

        def respond(data: bytes, method: str = "GET") -> HTTPResponse:
            server, client = socket.socketpair()
            sockets.enter_context(client)
            with server:
                server.sendall(data)
            return Connection(client, 5, []).response(method)

        yield respond


def test_names_are_lower_case_and_values_have_no_space_around_them(response: Respond) -> None:
    found = response(OK + b'ETag:  "x" \r\nX-Amz-Meta-A: one\r\n\t two: 2\r\nContent-Length: 2\r\n\r\nok')
    assert dict(found.headers) == {"etag": '"x"', "x-amz-meta-a": "one two: 2", "content-length": "2"}
    assert (found.status, found.will_close, found.read()) == (200, False, b"ok")


@pytest.mark.parametrize(
    ("head", "names", "body"),
    [
        (b"A: 1\nContent-Length: 8\n\nB: 2\r\n\r\n", ["a", "content-length"], b"B: 2\r\n\r\n"),
        (b"\r\nB: 2\r\n\r\n", [], b"B: 2\r\n\r\n"),
        (b"A: 1\r\nContent-Length: 8\r\n\r\nB: 2\r\n\r\n", ["a", "content-length"], b"B: 2\r\n\r\n"),
    ],
    ids=["bare line feeds", "no fields", "usual"],
)
def test_a_body_that_looks_like_a_head_is_none(
    response: Respond, head: bytes, names: list[str], body: bytes
) -> None:
    found = response(OK + head)
    assert (list(found.headers), found.read()) == (names, body)


@pytest.mark.parametrize("interim", ["100 Continue", "102 Processing", "103 Early Hints", "199 New"])
@pytest.mark.parametrize("times", [1, 8])
def test_a_head_that_is_no_answer_is_passed_over(response: Respond, interim: str, times: int) -> None:
    before = f"HTTP/1.1 {interim}\r\nX: 1\r\n\r\n".encode() * times
    found = response(before + b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
    assert (found.status, found.reason, dict(found.headers)) == (404, "Not Found", {"content-length": "0"})


@pytest.mark.parametrize(
    ("head", "body", "closes"),
    [
        (b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", b"ok", False),
        (b"Content-Length: 2\r\nConnection: close\r\n\r\nok", b"ok", True),
        (b"Content-Length: -1\r\n\r\nto the end", b"to the end", True),
        (b"\r\nto the end", b"to the end", True),
    ],
)
def test_where_the_body_ends(response: Respond, head: bytes, body: bytes, closes: bool) -> None:
    found = response(OK + head)
    assert (found.will_close, found.read()) == (closes, body)


@pytest.mark.parametrize(
    "chunks",
    [
        b"2\r\nok\r\n0\r\n\r\n",
        b"02;x=1\r\nok\r\n0 ; y\r\n\r\n",
        b"1 \r\no\r\n1\r\nk\r\n0\r\nX: 1\r\nY: 2\r\n\r\n",
    ],
    ids=["plain", "extensions", "trailers"],
)
def test_what_stands_between_chunks_is_no_part_of_the_body(response: Respond, chunks: bytes) -> None:
    found = response(CHUNKED + chunks)
    assert (found.read(100), found.isclosed()) == (b"ok", True)


@pytest.mark.parametrize(
    "chunks",
    [
        b"-1\r\n" + b"x" * 100_000,
        b"0x2\r\nok\r\n0\r\n\r\n",
        b"+2\r\nok\r\n0\r\n\r\n",
        b"1_0\r\n" + b"x" * 16 + b"\r\n0\r\n\r\n",
        b"\r\n",
        b"1" * 17 + b"\r\nx",
        b"2;" + b"x" * 70_000 + b"\r\nok\r\n0\r\n\r\n",
        b"2\r\nok\r\n",
        b"2\r\nok\r\n0\r\n" + b"X: 1\r\n" * 200 + b"\r\n",
        b"2\r\nok\r\n0\r\nX: " + b"x" * 70_000 + b"\r\n\r\n",
        b"2\r\nok\r\n0\r\n",
    ],
    ids=[
        "negative", "prefix", "sign", "underscore", "none", "huge", "long", "cut", "many trailers", "long trailer",
        "cut trailers",
    ],
)  # fmt: skip
def test_chunks_that_are_none(response: Respond, chunks: bytes) -> None:
    """Nothing is read beyond them: a size that is no number would have all bytes read until the server closes."""
    found = response(CHUNKED + chunks)
    with pytest.raises(HTTPException) as caught:
        found.read(1000)
    assert len(getattr(caught.value, "partial", b"")) <= 1000


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_a_head_alone_has_no_body(response: Respond, method: str) -> None:
    status = OK if method == "HEAD" else b"HTTP/1.1 304 Not Modified\r\n"
    assert response(status + b"Content-Length: 9\r\n\r\n", method).read() == b""


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        OK,
        OK + b"ETag: x",
        OK + b"no name\r\n\r\n",
        OK + b"X: " + b"x" * 70_000 + b"\r\n\r\n",
        OK + b"X: 1\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n" + OK + b"\r\n",
        b"HTTP/1.1 102 Processing\r\n\r\n" * 9 + OK + b"\r\n",
    ],
    ids=["nothing", "other", "newer", "cut", "cut in a line", "no name", "long", "many", "upgrade", "no answer"],
)
def test_what_is_no_head(response: Respond, data: bytes) -> None:
    with pytest.raises((HTTPException, ConnectionError)):
        response(data)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, None),
        ("", None),
        ("Thu, 01 Jan 1970 00:00:10 GMT", 10.0),
        ("no time", None),
        ("Mon, 01 Jan 99999999999999999999 00:00:00 GMT", None),
        ("Mon, 01 Jan 2001 00:00:00 +99999999999999999999", None),
    ],
)
def test_a_time_that_cannot_be_read_is_none(text: str | None, expected: float | None) -> None:
    """Each response has one: an error would end all requests."""
    assert http_time(text) == expected


def test_a_body_of_many_chunks_is_read_whole(response: Respond) -> None:
    chunks = b"1\r\nx\r\n" * 1000 + b"0\r\n\r\n"
    assert read_small(response(CHUNKED + chunks)) == b"x" * 1000
    with pytest.raises(ValueError, match="more than 999 bytes"):
        read_small(response(CHUNKED + chunks), 999)


@pytest.mark.parametrize("key", ["Such", "Slow", "AccessDenied"])
@pytest.mark.parametrize("code", ["NoSuchKey", "SlowDown", "AccessDenied", "NoSuchVersion", "InvalidRange"])
def test_a_known_code_stays_one_whatever_the_keys_are(key: str, code: str) -> None:
    """A service of one's own may have keys that are words."""
    said = f"<Error><Code>{code}</Code><Message>for {key}</Message></Error>".encode()
    error = answer_error(400, {}, said, (key,))
    assert (error.code, error.text) == (code, "for ***")


def test_another_code_is_shown_without_the_keys() -> None:
    error = answer_error(400, {}, b"<Error><Code>BadKeyAKID</Code></Error>", ("AKID",))
    assert error.code == "BadKey***"
