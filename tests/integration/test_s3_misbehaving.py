"""Services that answer, but wrongly: each is noticed, and none makes us store, list or read the wrong thing."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any

import pytest

from fsbackup.errors import BackendError, BackendUnavailableError, IntegrityError, TransientError
from fsbackup.loop import run
from fsbackup.stores.s3.providers import AMAZON, GENERIC, R2, Profile
from fsbackup.stores.s3.store import S3Store
from fsbackup.testing.driving import list_names
from tests.integration.s3_helpers import PART, connect, names, upload
from tests.servers.endpoint import S3Endpoint
from tests.servers.operations import S3Request, parse_request

SECRET, KEY_ID = "s3cr3t-s3cr3t-s3cr3t", "AKIDENTIFIER"
#: Seconds of patience with a server that never gets better.
BRIEF = 1.0


@dataclass
class Answer:
    """What the scripted server says."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


Script = Callable[[S3Request], Answer]


@contextmanager
def scripted(
    script: Script, host: str = "127.0.0.1", connections: list[Any] | None = None, **options: Any
) -> Iterator[S3Store]:
    """Give a store whose server answers as a function says; it never sends ``100 Continue``.

    The address of each connection is appended to `connections`.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            if connections is not None:
                connections.append(self.client_address)

        def handle_expect_100(self) -> bool:
            return True

        def log_message(self, *_: object) -> None:
            pass

        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            answer = script(parse_request(self.command, self.path))
            self.send_response(answer.status)
            sized = {} if "Transfer-Encoding" in answer.headers else {"Content-Length": str(len(answer.body))}
            for name, value in {**sized, **answer.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.body if self.command != "HEAD" else b"")

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _answer  # noqa: N815 - the names are the class's

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

    server = Server((host, 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    netloc = f"[{host}]" if ":" in host else host
    endpoint = S3Endpoint(
        "scripted", f"http://{netloc}:{server.server_port}", KEY_ID, SECRET, "us-east-1", "bucket"
    )
    store = connect(endpoint, **options)
    try:
        yield store
    finally:
        run(store.close())
        server.shutdown()
        server.server_close()
        thread.join()


def page(keys: list[str], *, more: bool = False, token: str = "", prefix: str = "") -> Answer:
    items = "".join(f"<Contents><Key>{key}</Key><Size>1</Size></Contents>" for key in keys)
    following = f"<NextContinuationToken>{token}</NextContinuationToken>" if token else ""
    truncated = f"<IsTruncated>{str(more).lower()}</IsTruncated>"
    frame = f"<Name>bucket</Name><Prefix>{prefix}</Prefix>"
    return Answer(f"<ListBucketResult>{frame}{truncated}{following}{items}</ListBucketResult>".encode())


@pytest.mark.parametrize(
    "pages",
    [
        [page(["b", "a"])],
        [page(["a", "a"])],
        [page(["a", "b"], more=True, token="1"), page(["a", "b"])],
        [page(["a", "c"], more=True, token="1"), page(["b", "d"])],
        [page(["a"], more=True)],
        [page(["a"], more=True, token="1"), page(["b"], more=True, token="1")],
        [page(["a"], more=True, token="1"), page([], more=True, token="1")],
    ],
    ids=["backwards", "twice", "page-again", "overlap", "no-token", "same-token", "same-token-empty"],
)
def test_a_listing_that_cannot_be_trusted_is_an_error(pages: list[Answer]) -> None:
    answers = iter(pages)
    with (
        scripted(lambda _: next(answers), profile=AMAZON) as store,
        pytest.raises(BackendError, match="invalid listing"),
    ):
        names(store)


@pytest.mark.parametrize(
    "pages",
    [
        [page(["b", "a", "a"])],
        [page(["b"], more=True, token="1"), page(["b"])],
        [page(["b"], more=True, token="1"), page(["a"], more=True, token="1")],
        [page([], more=True, token="1"), page([], more=True, token="2"), page([], more=True, token="1")],
        [page(["b"], more=True)],
    ],
    ids=["twice", "page-again", "same-token", "round-and-round", "no-token"],
)
def test_no_more_of_an_unsorted_listing_is_believed(pages: list[Answer]) -> None:
    answers = iter(pages)
    with (
        scripted(lambda _: next(answers), profile=GENERIC) as store,
        pytest.raises(BackendError, match="invalid listing"),
    ):
        names(store)


def test_an_unsorted_listing_is_sorted() -> None:
    """As of servers that keep objects in directories; nothing is left to their idea of an order."""
    asked: list[dict[str, str]] = []
    pages = [
        page(["d/1", "d/2", "d-x"], more=True, token="1"),
        page(["e", ".fsbackup/manifests/d/1"], more=True, token="2"),
        page([".fsbackup/manifests/e"]),
    ]

    def script(request: S3Request) -> Answer:
        asked.append(request.query)
        return pages[(len(asked) - 1) % 3]

    with scripted(script, profile=GENERIC) as store:
        assert names(store) == ["d-x", "d/1", "d/2", "e"]
        assert names(store, start_after="d-x") == ["d/1", "d/2", "e"]
    assert [query.get("start-after") for query in asked] == [None] * 6


@pytest.mark.parametrize("profile", [AMAZON, GENERIC])
def test_names_that_were_not_asked_for_are_never_listed(profile: Profile) -> None:
    """They would be taken for ours, and retention would delete what belongs to others."""
    with (
        scripted(lambda _: page(["theirs"], prefix="ours/"), profile=profile, prefix="ours") as store,
        pytest.raises(BackendError, match="does not start with the requested prefix"),
    ):
        names(store)


def test_an_empty_page_is_not_the_end() -> None:
    answers = iter([page([], more=True, token="1"), page(["a"], more=True, token="2"), page(["b"])])
    with scripted(lambda _: next(answers)) as store:
        assert names(store) == ["a", "b"]


def test_our_own_records_are_jumped_over() -> None:
    """Thousands of manifests sort before most names: they cost one page and not all of theirs."""
    asked: list[dict[str, str]] = []

    def script(request: S3Request) -> Answer:
        asked.append(request.query)
        if len(asked) == 1:
            return page([".a", ".fsbackup/manifests/1", ".fsbackup/manifests/2"], more=True, token="1")
        return page(["a", "b"])

    with scripted(script, profile=AMAZON) as store:
        assert names(store) == [".a", "a", "b"]
    assert [query.get("start-after") for query in asked] == [None, ".fsbackup0"]
    assert "continuation-token" not in asked[1]


@pytest.mark.parametrize(
    "answer",
    [
        Answer(b"x" * 1000),
        Answer(b"x" * 10, 206),
        Answer(b"x" * 10, 206, {"Content-Range": "bytes 0-9/1000"}),
        Answer(b"x" * 20, 206, {"Content-Range": "bytes 100-119/1000"}),
        Answer(b"x" * 5, 206, {"Content-Range": "bytes 100-104/1000"}),
        Answer(b"x" * 5, 206, {"Content-Range": "bytes 100-109/1000"}),
        Answer(b"x" * 15, 206, {"Content-Range": "bytes 100-109/1000"}),
        Answer(b"x" * 10, 206, {"Content-Range": "bytes 100-109/*"}),
    ],
    ids=["ignored", "no-range", "elsewhere", "more", "less", "short-body", "long-body", "unknown-size"],
)
def test_another_range_than_asked_for_is_an_error(answer: Answer) -> None:
    with scripted(lambda _: answer, timeout=BRIEF) as store, pytest.raises(TransientError) as caught:
        run(store.read("any", 100, 110))
    assert type(caught.value) is TransientError
    assert caught.value.cause is None


def test_a_range_past_the_end_may_be_shorter() -> None:
    answer = Answer(b"x" * 5, 206, {"Content-Range": "bytes 100-104/105"})
    with scripted(lambda _: answer) as store:
        assert run(store.read("any", 100, 110)) == b"x" * 5
        assert run(store.read("any", 100)) == b"x" * 5


def test_an_answer_that_is_no_xml_is_transient() -> None:
    with scripted(lambda _: Answer(b"<html>gateway"), timeout=BRIEF) as store, pytest.raises(TransientError):
        names(store)


@pytest.mark.each_choice
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html><body>console</body></html>",
        b"<ListAllMyBucketsResult><Name>bucket</Name><IsTruncated>false</IsTruncated></ListAllMyBucketsResult>",
        b"<!DOCTYPE x [<!ENTITY a 'b'>]>" + page(["z"]).body,
        page(["z"]).body.replace(b"<Name>bucket<", b"<Name>other<"),
        page(["z"], prefix="b").body,
        page(["z"]).body.replace(b"<Size>1<", b"<Size>-1<"),
        page(["z"]).body.replace(b"<Size>1<", b"<Size>many<"),
    ],
    ids=["empty", "html", "other-xml", "doctype", "other-bucket", "other-prefix", "negative-size", "no-number"],
)
@pytest.mark.parametrize("profile", [AMAZON, GENERIC])
def test_what_is_no_listing_is_never_a_complete_one(profile: Profile, body: bytes) -> None:
    """Nor is a second page that is none: what was listed of the first is not all there is."""
    for first in (Answer(body), page(["a"], more=True, token="1")):
        with (
            scripted(_two_pages(first, Answer(body)), profile=profile, timeout=BRIEF) as store,
            pytest.raises(BackendError, match=r"not a List|invalid listing"),
        ):
            names(store)


def _two_pages(first: Answer, second: Answer) -> Script:
    return lambda request: second if "continuation-token" in request.query else first


@pytest.mark.parametrize("profile", [AMAZON, GENERIC])
def test_empty_pages_do_not_go_on_for_ever(profile: Profile) -> None:
    """Each has a token that was never used before."""
    asked: list[S3Request] = []

    def script(request: S3Request) -> Answer:
        asked.append(request)
        return page([], more=True, token=str(len(asked)))

    with scripted(script, profile=profile) as store, pytest.raises(BackendError, match="invalid listing"):
        names(store)
    assert len(asked) == 2


def test_a_page_has_a_largest_size() -> None:
    """No more of it is read."""
    endless = page(["a"])
    endless.body = endless.body.replace(b"<Name>", b"<Owner>" + b"x" * (17 << 20) + b"</Owner><Name>")
    with scripted(lambda _: endless) as store, pytest.raises(BackendError, match="more than"):
        names(store)


def test_a_record_has_a_largest_size() -> None:
    """It is refused by its length, before any of it is in memory."""
    huge = Answer(b"x", headers={"Content-Length": str(3 << 30)})
    with scripted(lambda _: huge) as store, pytest.raises(BackendError, match="more than"):
        run(store.read(".fsbackup/manifests/any"))


@pytest.mark.parametrize("is_chunked", [False, True])
def test_no_byte_too_many_is_kept(is_chunked: bool) -> None:
    body = b"80000\r\n" + b"x" * 0x80000 + b"\r\n0\r\n\r\n" if is_chunked else b"x" * 0x80000
    how = {"Transfer-Encoding": "chunked"} if is_chunked else {}
    answer = Answer(body, 206, {"Content-Range": "bytes 0-9/1000", **how})
    with scripted(lambda _: answer, timeout=BRIEF) as store, pytest.raises(TransientError, match="bytes"):
        run(store.read("any", 0, 10))


def _served(order: list[str]) -> Script:
    """Serve a listing in this order, two names a page; StartAfter skips what sorts before, as on Amazon S3."""

    def script(request: S3Request) -> Answer:
        after = request.query.get("start-after", "")
        listed = [name for name in order if name > after] if after else order
        start = int(request.query.get("continuation-token", "0"))
        end = start + 2
        return page(listed[start:end], more=end < len(listed), token=str(end))

    return script


@pytest.mark.parametrize(
    ("order", "first", "later"),
    [
        (["a", "b", "c", "d", "e", "f"], 2 + 3 + 3, 1),
        (["a/b", "a/c", "b", "c", "a b", "e"], 2 + 3 + 3, 3),
    ],
    ids=["in-order", "by-directory"],
)
def test_a_long_listing_is_only_held_when_it_is_out_of_order(
    monkeypatch: pytest.MonkeyPatch, order: list[str], first: int, later: int
) -> None:
    """It is looked through once; from then on a server that keeps the order is asked to start where we are."""
    monkeypatch.setattr("fsbackup.stores.s3.control.listing._HELD", 3)
    asked: list[S3Request] = []
    answer = _served(order)

    def script(request: S3Request) -> Answer:
        asked.append(request)
        return answer(request)

    with scripted(script, profile=GENERIC) as store:
        assert names(store) == sorted(order)
        assert len(asked) == first
        asked.clear()
        assert names(store, start_after="d") == [name for name in sorted(order) if name > "d"]
        assert len(asked) == later


def test_a_bucket_without_versions_has_none() -> None:
    head = Answer(b"", 200, {"x-amz-version-id": "null", "ETag": '"x"'})
    with scripted(lambda _: head) as store:
        found = run(store.stat("any"))
    assert found is not None
    assert (found.version_id, found.etag, found.modified) == (None, "x", None)


def test_a_body_does_not_wait_to_be_invited() -> None:
    """The server never says ``100 Continue``: a client that waited for it would send nothing, for ever."""
    data = b"x" * (1 << 20)
    stored = Answer(headers={"ETag": f'"{hashlib.md5(data).hexdigest()}"'})
    with scripted(lambda _: stored, timeout=5.0) as store:
        assert run(store.put("large", data)).size == len(data)


@pytest.mark.parametrize("size", [0, 1, 3, 5])
def test_another_size_than_was_sent_is_an_error(size: int) -> None:
    """Where the ETag says nothing, HEAD's size does."""
    head = Answer(b"", 200, {"Content-Length": str(size)})
    stored = Answer(headers={"ETag": '"opaque"'})
    answers = {"put_object": stored, "head": head}
    with (
        scripted(lambda request: answers[request.operation]) as store,
        pytest.raises(IntegrityError, match=f"4 bytes were sent, {size} are stored"),
    ):
        run(store.put("any", b"1234"))


_FRAME = (
    b"<ListBucketResult><Name>bucket</Name><Prefix>a</Prefix><IsTruncated>false</IsTruncated>%s</ListBucketResult>"
)


@pytest.mark.parametrize(
    ("missing", "operation", "page"),
    [
        ("Size", "list", _FRAME % b"<Contents><Key>a</Key></Contents>"),
        ("Key", "list", _FRAME % b"<Contents><Size>1</Size></Contents>"),
        ("Name", "list", b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"),
        ("IsTruncated", "list", b"<ListBucketResult><Name>bucket</Name><Prefix>a</Prefix></ListBucketResult>"),
        ("Key", "remove", b"<ListVersionsResult><Version><VersionId>1</VersionId></Version></ListVersionsResult>"),
        ("LastModified", "remove", b"<ListVersionsResult><Version><Key>a</Key></Version></ListVersionsResult>"),
    ],
)
@pytest.mark.parametrize("profile", [AMAZON, GENERIC])
def test_a_listing_that_leaves_something_out_says_so(
    profile: Profile, missing: str, operation: str, page: bytes
) -> None:
    versioned = replace(profile, removes_versions=True)
    with (
        scripted(lambda _: Answer(page), profile=versioned) as store,
        pytest.raises(BackendError, match=f"no {missing}") as caught,
    ):
        names(store, "a") if operation == "list" else run(store.remove("a"))
    assert (caught.value.backend, caught.value.operation, caught.value.key) == (store.name, operation, "a")


@pytest.mark.parametrize("missing", ["UploadId", "ETag"])
def test_an_upload_whose_answers_leave_something_out_says_so(missing: str) -> None:
    told = b"" if missing == "UploadId" else b"<UploadId>1</UploadId>"
    answers = {"create_multipart": Answer(b"<Begun>" + told + b"</Begun>"), "abort": Answer(status=204)}
    with (
        scripted(lambda request: answers.get(request.operation, Answer())) as store,
        pytest.raises(BackendError, match=f"no {missing}") as caught,
    ):
        upload(store, "a", bytes(PART + 1))
    assert (caught.value.backend, caught.value.operation, caught.value.key) == (store.name, "write", "a")


def test_a_put_whose_answer_has_no_etag_is_confirmed_otherwise() -> None:
    with scripted(lambda request: Answer(b"1234" if request.operation == "head" else b"")) as store:
        assert run(store.put("a", b"1234")).etag is None


def test_an_object_of_unknown_size_is_an_error() -> None:
    chunked = Answer(b"4\r\n1234\r\n0\r\n\r\n", headers={"Transfer-Encoding": "chunked"})
    with scripted(lambda _: chunked) as store, pytest.raises(BackendError, match="no ContentLength") as caught:
        run(store.read("a"))
    assert (caught.value.operation, caught.value.key) == ("read", "a")


def test_versions_that_do_not_go_on_are_an_error() -> None:
    stuck = Answer(
        b"<ListVersionsResult><IsTruncated>true</IsTruncated>"
        b"<NextKeyMarker>a</NextKeyMarker><NextVersionIdMarker>1</NextVersionIdMarker></ListVersionsResult>"
    )
    profile = Profile(scheme="b2", removes_versions=True)
    with (
        scripted(lambda _: stuck, profile=profile) as store,
        pytest.raises(BackendError, match="invalid listing"),
    ):
        run(store.remove("a"))


def test_versions_that_go_in_a_circle_are_an_error() -> None:
    """The markers of two pages in turn are each other's."""

    def script(request: S3Request) -> Answer:
        following = "b" if request.query.get("key-marker") == "a" else "a"
        return Answer(
            b"<ListVersionsResult><IsTruncated>true</IsTruncated>"
            b"<NextKeyMarker>%s</NextKeyMarker></ListVersionsResult>" % following.encode()
        )

    profile = Profile(scheme="b2", removes_versions=True)
    with scripted(script, profile=profile) as store, pytest.raises(BackendError, match="invalid listing"):
        run(store.remove("a"))


@pytest.mark.parametrize("entry", ["", "<Version><Key>a</Key><VersionId>1</VersionId>%s</Version>"])
def test_versions_that_never_get_further_are_an_error(entry: str) -> None:
    """Each page has another marker, and nothing else that is new."""
    numbers = count()
    listed = entry and entry % "<LastModified>2025-01-01T00:00:00Z</LastModified>"

    def script(_: S3Request) -> Answer:
        marker = f"<NextKeyMarker>a{next(numbers)}</NextKeyMarker>"
        body = f"<ListVersionsResult><IsTruncated>true</IsTruncated>{marker}{listed}</ListVersionsResult>"
        return Answer(body.encode())

    profile = Profile(scheme="b2", removes_versions=True)
    with scripted(script, profile=profile) as store, pytest.raises(BackendError, match="has nothing new"):
        run(store.remove("a"))


def test_names_listed_again_and_again_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of order, so that they are collected: the memory would be full of them."""
    monkeypatch.setattr("fsbackup.stores.s3.control.listing._HELD", 3)
    numbers = count()

    def script(request: S3Request) -> Answer:
        return page([*"cdab"], more=True, token=str(next(numbers)), prefix=request.query["prefix"])

    with scripted(script) as store, pytest.raises(BackendError, match="'c' is listed twice"):
        run(list_names(store.list()))


def test_one_name_listed_for_ever_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fsbackup.stores.s3.control.listing._HELD", 3)
    numbers = count()

    def script(request: S3Request) -> Answer:
        return page(["a"], more=True, token=str(next(numbers)), prefix=request.query["prefix"])

    with scripted(script) as store, pytest.raises(BackendError, match="'a' is listed twice"):
        run(list_names(store.list()))


def test_a_level_begins_behind_a_page_without_an_object() -> None:
    """A service may answer with an empty page and go on."""

    def script(request: S3Request) -> Answer:
        if "continuation-token" in request.query:
            return page(["p/x"], prefix="p/")
        return page([], more=True, token="1", prefix="p/")

    for profile in (R2, GENERIC):
        with scripted(script, profile=profile) as store:
            assert run(list_names(store.list_level("p/", limit=1))) == ["p/x"]


@pytest.mark.parametrize("status", [400, 403, 404])
def test_what_a_service_says_of_the_keys_is_never_repeated(status: int) -> None:
    """Some answer with the key id in their message, and with more of the signature beside it."""
    told = f"<Message>key {KEY_ID} with {SECRET}</Message><AWSAccessKeyId>{KEY_ID}</AWSAccessKeyId>"
    said = f"<Error><Code>Odd</Code>{told}</Error>"
    shown = []
    with scripted(lambda _: Answer(said.encode(), status)) as store:
        for work in (store.read("a"), store.put("a", b"x"), store.remove("a")):
            with pytest.raises(BackendError) as caught:
                run(work)
            error: BaseException | None = caught.value
            while error is not None:
                shown += [str(error), repr(error), repr(vars(error))]
                error = error.__cause__ or error.__context__
    assert not [text for text in shown if SECRET in text or KEY_ID in text]
    assert [text for text in shown if "key *** with ***" in text]


def test_no_url_is_repeated_with_its_password() -> None:
    """As a gateway may say of the proxy that it has itself."""
    said = b"<Error><Code>Odd</Code><Message>no way through http://someone:hunter2@gateway:3128/</Message></Error>"
    with scripted(lambda _: Answer(said, 400)) as store, pytest.raises(BackendError, match="gateway") as caught:
        run(store.read("a"))
    assert "hunter2" not in f"{caught.value} {caught.value.cause} {vars(caught.value.cause)}"


def test_a_dropped_request_is_not_kept_in_the_error() -> None:
    """botocore keeps the signed request, and with it the key id, in some of its errors."""

    def script(_: S3Request) -> Answer:
        return Answer(b"", 200, {"Content-Length": "10", "Connection": "close"})

    shown = []
    with scripted(script, timeout=BRIEF) as store:
        with pytest.raises(BackendUnavailableError) as caught:
            names(store)
        error: BaseException | None = caught.value
        while error is not None:
            shown += [str(error), repr(error), repr(vars(error))]
            error = error.__cause__ or error.__context__
    assert not [text for text in shown if KEY_ID in text]
