"""Whole objects and parts go past boto: nothing of that shows, on the wire or in what is raised."""

from __future__ import annotations

import base64
import hashlib
from typing import Any
from urllib.parse import unquote

import pytest

from fsbackup.errors import AccessDeniedError, BackendError, ConfigError, TransientError
from fsbackup.keys import encode_key
from fsbackup.loop import run
from fsbackup.stores.base import Part, WritePlan
from fsbackup.stores.s3.http.settings import check_endpoint
from fsbackup.stores.s3.store import S3Store
from fsbackup.testing import ODD_KEYS
from tests.integration.boto_helpers import assert_same_error, assert_same_request
from tests.integration.s3_helpers import PART, connect, outcome, upload
from tests.integration.test_s3_misbehaving import BRIEF, KEY_ID, SECRET, Answer, scripted
from tests.servers import s3
from tests.servers.endpoint import S3Endpoint
from tests.servers.faults import FaultProxy, Status
from tests.servers.operations import S3Request

DATA = b"x" * 1000


async def _by_boto(store: S3Store, name: str, **more: str) -> dict[str, Any]:
    """Store `DATA` by the client's own method, with all that our writers give."""
    client = await store.filesystem.set_session()
    answer: dict[str, Any] = await client.put_object(
        Bucket=store.bucket,
        Key=name,
        Body=DATA,
        ContentType="application/octet-stream",
        ContentMD5=base64.b64encode(hashlib.md5(DATA).digest()).decode(),
        Metadata={"fsbackup-upload": "0" * 32},
        **more,
    )
    return answer


@pytest.mark.parametrize("create_only", [False, True])
def test_the_same_headers_as_botos(store: S3Store, proxy: FaultProxy, create_only: bool) -> None:
    run(store.put("ours", DATA, create_only=create_only))
    run(_by_boto(store, "botos", **({"IfNoneMatch": "*"} if create_only else {})))
    ours, botos = proxy.requests
    assert_same_request(ours, botos, "x-amz-meta-fsbackup-upload")  # a tag of its own for each write


def test_a_part_has_the_same_headers_as_botos(store: S3Store, proxy: FaultProxy) -> None:
    upload(store, "many", bytes(PART) + DATA)
    ours = next(one for one in proxy.requests if one.query.get("partNumber") == "2")
    where = {"Bucket": store.bucket, "Key": "many", "UploadId": ours.query["uploadId"], "PartNumber": 2}
    checked = {"Body": DATA, "ContentMD5": base64.b64encode(hashlib.md5(DATA).digest()).decode()}
    outcome(
        run(store.filesystem.set_session()).upload_part(**where, **checked)
    )  # there is no such upload any more
    assert_same_request(ours, proxy.requests[-1])


def test_an_upload_may_have_any_id() -> None:
    """It is the service's own, and goes back as it came."""
    odd, asked = "a+b/c=d&e%20é ~", list[S3Request]()
    etag = f'"{hashlib.md5(DATA).hexdigest()}"'

    def script(request: S3Request) -> Answer:
        asked.append(request)
        begun = f"<Result><UploadId>{odd.replace('&', '&amp;')}</UploadId></Result>".encode()
        return Answer(begun if request.operation == "create_multipart" else b"", headers={"ETag": etag})

    async def send(store: S3Store) -> None:
        await store.writer("any", WritePlan(None), lambda _: None).write(Part(1, 0, DATA, last=False))

    with scripted(script) as store:
        outcome(send(store))
    parts = [one.query for one in asked if one.operation == "upload_part"]
    assert parts == [{"partNumber": "1", "uploadId": odd}]


def test_every_name_is_signed_as_the_service_reads_it(seaweedfs: S3Endpoint) -> None:
    """The server checks signatures over the path that it was asked for."""
    endpoint = s3.fresh_bucket(seaweedfs)
    store = connect(endpoint)
    for name in map(encode_key, ODD_KEYS):
        error = outcome(store.put(name, DATA))
        assert not isinstance(error, BaseException), f"{name!r}: {error}"
        assert s3.read_bytes(endpoint, name) == DATA, name
    run(store.close())


@pytest.mark.parametrize(
    ("status", "code"),
    [(403, "AccessDenied"), (400, "InvalidArgument"), (503, "SlowDown"), (412, "PreconditionFailed")],
)
def test_the_same_errors_as_botos(proxy: FaultProxy, status: int, code: str) -> None:
    store = connect(proxy.endpoint, timeout=BRIEF)
    proxy.add(Status(status, code, {"Retry-After": "0"}), on="put_object")
    ours, botos = outcome(store.put("any", DATA)), outcome(_by_boto(store, "any"))
    run(store.close())
    assert isinstance(ours, BackendError)
    assert_same_error(ours, botos, status, code)


@pytest.mark.parametrize("tag", [b"<Error>", b"<Error xmlns='http://s3.amazonaws.com/doc/2006-03-01/'>"])
def test_an_error_under_a_200_is_no_success(tag: bytes) -> None:
    asked: list[S3Request] = []
    stored = {"ETag": f'"{hashlib.md5(DATA).hexdigest()}"'}

    def script(request: S3Request) -> Answer:
        asked.append(request)
        failed = Answer(tag + b"<Code>InternalError</Code><Message>sorry</Message></Error>", 200, stored)
        return failed if len(asked) < 3 else Answer(headers=stored)

    with scripted(script) as store:
        run(store.put("any", DATA))
    assert [one.operation for one in asked] == ["put_object"] * 3


def test_a_bad_gateway_that_speaks_html_is_transient() -> None:
    page = Answer(b"<html>502 Bad Gateway</html>", 502)
    with scripted(lambda _: page, timeout=BRIEF) as store, pytest.raises(TransientError):
        run(store.put("any", DATA))


def test_a_part_is_sent_whole_again_for_another_region(
    store: S3Store, proxy: FaultProxy, direct: S3Endpoint
) -> None:
    wrong = Status(400, "AuthorizationHeaderMalformed", {"x-amz-bucket-region": "eu-west-1"})
    proxy.add(wrong, on="upload_part", times=1)
    upload(store, "many", data := b"x" * PART + b"y" * PART)
    assert s3.read_bytes(direct, "many") == data
    assert proxy.count("upload_part") == 3


def test_a_region_that_stays_wrong_says_so() -> None:
    wrong = b"<Error><Code>AuthorizationHeaderMalformed</Code><Message>wrong region</Message></Error>"
    with scripted(lambda _: Answer(wrong, 400)) as store, pytest.raises(AccessDeniedError) as caught:
        run(store.put("any", DATA))
    assert caught.value.hint == "check the region"


@pytest.mark.parametrize("path", ["/base", "/base/", "/base%20x"])
def test_an_endpoint_may_have_a_path(path: str) -> None:
    asked: list[S3Request] = []

    def script(request: S3Request) -> Answer:
        asked.append(request)
        return Answer(headers={"ETag": f'"{hashlib.md5(DATA).hexdigest()}"'})

    with scripted(script) as plain:
        run(store_below(plain, path).put("any", DATA))
    assert [(one.bucket, one.key) for one in asked] == [(unquote(path.strip("/")), "bucket/any")]


@pytest.mark.parametrize("query", ["?x=1", "/#fragment"])
def test_an_endpoint_has_nothing_behind_its_path(query: str) -> None:
    with (
        scripted(lambda _: Answer()) as plain,
        pytest.raises(ConfigError, match="endpoint_url"),
    ):
        store_below(plain, query)


@pytest.mark.parametrize("url", ["http://h:99999", "http://h:abc", "http://h:-1", "http://[::1", "http://"])
def test_an_endpoint_that_is_no_address_is_said_at_once(url: str) -> None:
    with pytest.raises(ConfigError, match="endpoint_url") as caught:
        check_endpoint("any", url)
    assert caught.value.__context__ is None


def test_what_stands_for_a_port_is_not_shown() -> None:
    """It may be a secret that was put before the host, and has a slash in it."""
    with pytest.raises(ConfigError) as caught:
        check_endpoint("any", "https://id:s3cr3t/and-more@host")
    assert caught.value.__context__ is None
    assert "s3cr3t" not in str(caught.value)


def store_below(plain: S3Store, path: str) -> S3Store:
    """Return a store of the same service, its endpoint with a path."""
    return S3Store(
        "below",
        bucket="bucket",
        endpoint_url=f"{plain.endpoint_url}{path}",
        region="us-east-1",
        access_key_id=KEY_ID,
        secret_access_key=SECRET,
    )


def test_a_tls_certificate_is_checked(strict_r2: s3.StrictEndpoint) -> None:
    """The bundle that is trusted, and nothing else."""
    strict_r2.control.reset()
    trusting, wary = connect(strict_r2), connect(strict_r2, ca_bundle=None)
    run(trusting.put("any", DATA))
    error = outcome(wary.put("any", DATA))
    run(trusting.close())
    run(wary.close())
    assert isinstance(error, BackendError)
    assert "ca_bundle" in (error.hint or "")
