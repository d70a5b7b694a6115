"""Signatures are botocore's, for any method, key, query and header; addresses are those of every S3 client."""

from __future__ import annotations

import string
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from hypothesis import given, settings
from hypothesis import strategies as st

from fsbackup.stores.s3.http.settings import Address, Secret, Settings, Signer, encode_query

KEY_ID, SECRET, TOKEN = "AKIDENTIFIER", "s3cr3t/+s3cr3t", "temporary=="
_VALUE = st.text(string.ascii_letters + string.digits + " -_.,;=/+*:%~\"'()", max_size=30)
_HEADER = st.from_regex(
    r"(x-amz-[a-z0-9-]{1,12}|content-type|range|Content-MD5|If-None-Match|User-Agent)", fullmatch=True
)


def _settings(endpoint: str | None, bucket: str = "bucket", **more: Any) -> Settings:
    return Settings(endpoint, bucket, "eu-west-1", Secret(KEY_ID), Secret(SECRET), None, 60.0, **more)


@settings(max_examples=300, deadline=None)
@given(
    method=st.sampled_from(["GET", "PUT", "HEAD", "DELETE", "POST"]),
    key=st.text(st.characters(codec="utf-8"), max_size=30),
    query=st.dictionaries(st.text(st.characters(codec="utf-8"), min_size=1, max_size=12), _VALUE, max_size=4),
    headers=st.dictionaries(_HEADER, _VALUE, max_size=4),
    host=st.sampled_from(
        ["https://s3.example.com", "http://127.0.0.1:9000/base", "https://[::1]:8443", "http://h:80"]
    ),
    token=st.sampled_from([None, TOKEN]),
)
def test_the_signature_is_botocores(
    method: str, key: str, query: dict[str, str], headers: dict[str, str], host: str, token: str | None
) -> None:
    address = Address(_settings(host))
    path, encoded = address.path(key), encode_query(query.items())
    signer = Signer(Secret(KEY_ID), Secret(SECRET), Secret(token) if token else None, "eu-west-1")
    ours = signer.sign(method, address.netloc, path, encoded, headers)

    request = AWSRequest(method, f"{address.scheme}://{address.netloc}{path}" + (f"?{encoded}" if encoded else ""))
    for name, value in headers.items():
        request.headers[name] = value
    request.context["client_config"] = Config(s3={"payload_signing_enabled": False})
    now = datetime.strptime(ours["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    with pytest.MonkeyPatch.context() as patch:  # botocore signs for the second that ours was signed in
        patch.setattr("botocore.auth.get_current_datetime", lambda **_: now)
        S3SigV4Auth(Credentials(KEY_ID, SECRET, token), "s3", "eu-west-1").add_auth(request)
    assert ours["Authorization"] == request.headers["Authorization"]
    assert ours.get("X-Amz-Security-Token") == token


def test_the_key_is_derived_anew_for_another_region() -> None:
    """A region that the service names takes effect at once."""
    signer = Signer(Secret(KEY_ID), Secret(SECRET), None, "us-east-1")
    signer.sign("GET", "h", "/a", "", {})
    signer.region = "eu-west-1"
    fresh = Signer(Secret(KEY_ID), Secret(SECRET), None, "eu-west-1")
    while True:  # until both are of one second
        ours, expected = (each.sign("GET", "h", "/a", "", {}) for each in (signer, fresh))
        if ours["X-Amz-Date"] == expected["X-Amz-Date"]:
            break
    assert ours == expected


def test_nothing_of_a_signer_shows_its_secrets() -> None:
    signer = Signer(Secret(KEY_ID), Secret(SECRET), Secret(TOKEN), "us-east-1")
    signer.sign("GET", "h", "/a", "", {})
    shown = repr(vars(signer)) + repr(signer)
    assert [text for text in (KEY_ID, SECRET, TOKEN) if text in shown] == []


@pytest.mark.parametrize(
    ("endpoint", "bucket", "addressing", "expected"),
    [
        ("https://s3.example.com", "bucket", None, ("s3.example.com", "/bucket/a/b%20c")),
        ("https://s3.example.com", "bucket", "virtual", ("bucket.s3.example.com", "/a/b%20c")),
        ("https://s3.example.com/base/", "bucket", "virtual", ("bucket.s3.example.com", "/base/a/b%20c")),
        ("https://s3.example.com:8443/base", "bucket", None, ("s3.example.com:8443", "/base/bucket/a/b%20c")),
        ("https://s3.example.com", "with.dots", "virtual", ("s3.example.com", "/with.dots/a/b%20c")),
        ("http://[::1]:9000", "bucket", None, ("[::1]:9000", "/bucket/a/b%20c")),
        (None, "bucket", None, ("bucket.s3.eu-west-1.amazonaws.com", "/a/b%20c")),
        (None, "bucket", "path", ("s3.eu-west-1.amazonaws.com", "/bucket/a/b%20c")),
        (None, "with.dots", None, ("s3.eu-west-1.amazonaws.com", "/with.dots/a/b%20c")),
    ],
)
def test_where_a_bucket_is(endpoint: str | None, bucket: str, addressing: Any, expected: tuple[str, str]) -> None:
    address = Address(_settings(endpoint, bucket, addressing=addressing))
    assert (address.netloc, address.path("a/b c")) == expected
