"""Every rule of the strict servers really fires."""

from __future__ import annotations

import base64
import hashlib
import http.client
import ssl
import unicodedata
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.servers import s3
from tests.servers.s3 import StrictEndpoint

MIB = 1024 * 1024


@pytest.fixture
def r2(strict_r2: StrictEndpoint) -> StrictEndpoint:
    """R2, empty, with small parts and without the pause between two writes of one key."""
    strict_r2.control.reset()
    strict_r2.control.configure(min_part_size=4, write_interval=0)
    return strict_r2


@pytest.fixture
def b2(strict_b2: StrictEndpoint) -> StrictEndpoint:
    """B2, empty, with small parts and never busy."""
    strict_b2.control.reset()
    strict_b2.control.configure(min_part_size=4, unavailable_every=0)
    return strict_b2


@pytest.fixture(params=["r2", "b2"])
def either(request: pytest.FixtureRequest) -> StrictEndpoint:
    """Each of the two."""
    endpoint: StrictEndpoint = request.getfixturevalue(request.param)
    return endpoint


def _put(endpoint: StrictEndpoint, **more: Any) -> tuple[int, str]:
    """Return how a PUT with these arguments is refused."""
    arguments = {"Bucket": endpoint.bucket, "Key": "key", "Body": b"data"} | more
    return s3.error_of(lambda: s3.client(endpoint).put_object(**arguments))


class TestBoth:
    def test_stores_lists_deletes(self, either: StrictEndpoint) -> None:
        s3.put_bytes(either, "a/ü b+c?*%", b"content", Metadata={"sha-256": "x"})
        assert s3.list_keys(either, "a/") == {"a/ü b+c?*%": 7}
        found = s3.head(either, "a/ü b+c?*%")
        assert found is not None
        assert (found.size, found.etag, found.metadata) == (
            7,
            hashlib.md5(b"content").hexdigest(),
            {"sha-256": "x"},
        )
        assert s3.read_bytes(either, "a/ü b+c?*%") == b"content"
        s3.delete_key(either, "a/ü b+c?*%")
        assert s3.list_keys(either) == {}
        assert either.control.report().refusals == []

    def test_joins_parts(self, either: StrictEndpoint) -> None:
        s3.put_parts(either, "big", [b"aaaa", b"bbbb", b"c"])
        assert s3.read_bytes(either, "big") == b"aaaabbbbc"
        assert either.control.report().open_uploads == 0

    def test_default_checksums_are_refused(self, either: StrictEndpoint) -> None:
        connection = s3.default_client(either)
        status, _ = s3.error_of(lambda: connection.put_object(Bucket=either.bucket, Key="key", Body=b"data"))
        assert status in {400, 401}
        assert s3.list_keys(either) == {}
        assert [one.operation for one in either.control.report().refusals] == ["put_object"]

    def test_a_put_needs_a_checksum(self, either: StrictEndpoint) -> None:
        assert _put(either) == (400, "InvalidRequest")

    def test_a_part_needs_a_checksum(self, either: StrictEndpoint) -> None:
        connection, where = s3.client(either), {"Bucket": either.bucket, "Key": "key"}
        where["UploadId"] = connection.create_multipart_upload(**where)["UploadId"]
        refused = s3.error_of(lambda: connection.upload_part(**where, PartNumber=1, Body=b"data"))
        assert refused == (400, "InvalidRequest")

    def test_the_md5_must_be_right(self, either: StrictEndpoint) -> None:
        assert _put(either, ContentMD5=s3.content_md5(b"other")) == (400, "BadDigest")

    def test_the_body_must_have_the_signed_hash(self, either: StrictEndpoint) -> None:
        connection = s3.client(replace(either, name="changed"))  # nobody else's

        def change_body(request: Any, **_: Any) -> None:
            request.body = b"evil"

        connection.meta.events.register("before-send.s3", change_body)
        refused = s3.error_of(lambda: connection.put_object(Bucket=either.bucket, Key="key", Body=b"good"))
        assert refused == (400, "XAmzContentSHA256Mismatch")

    def test_the_secret_must_be_right(self, either: StrictEndpoint) -> None:
        stranger = replace(either, secret_access_key="wrong")
        assert _put(stranger) == (403, "SignatureDoesNotMatch")
        assert _put(replace(either, access_key_id="nobody")) == (403, "InvalidAccessKeyId")
        assert _put(replace(either, region="eu-west-1"))[1] == "AuthorizationHeaderMalformed"

    def test_the_certificate_is_not_one_that_everybody_trusts(self, either: StrictEndpoint) -> None:
        url = urlsplit(either.endpoint_url)
        connection = http.client.HTTPSConnection(str(url.hostname), url.port)
        with pytest.raises(ssl.SSLCertVerificationError):
            connection.request("GET", "/")
        connection.close()

    def test_nobody_says_continue(self, either: StrictEndpoint) -> None:
        url, trust = urlsplit(either.endpoint_url), ssl.create_default_context(cafile=either.ca_bundle)
        connection = http.client.HTTPSConnection(str(url.hostname), url.port, context=trust)
        connection.putrequest("PUT", f"/{either.bucket}/key")
        connection.putheader("Expect", "100-continue")
        connection.putheader("Content-Length", "4")
        connection.endheaders()
        connection.sock.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.sock.recv(1)
        connection.close()

    def test_keys_have_a_limit(self, either: StrictEndpoint) -> None:
        s3.put_bytes(either, "k" * 1024, b"data")
        assert _put(either, Key="k" * 1025, ContentMD5=s3.content_md5(b"data")) == (400, "KeyTooLongError")

    def test_metadata_has_a_limit(self, either: StrictEndpoint) -> None:
        refused = _put(either, Metadata={"a": "b" * 9000}, ContentMD5=s3.content_md5(b"data"))
        assert refused == (400, "MetadataTooLarge")

    def test_small_parts_are_refused(self, either: StrictEndpoint) -> None:
        either.control.configure(min_part_size=5 * MIB)
        assert s3.error_of(lambda: s3.put_parts(either, "k", [b"small", b"c"])) == (400, "EntityTooSmall")
        s3.put_parts(either, "k", [b"only"])

    def test_parts_must_be_named_as_they_came(self, either: StrictEndpoint) -> None:
        connection, where = s3.client(either), {"Bucket": either.bucket, "Key": "key"}
        where["UploadId"] = connection.create_multipart_upload(**where)["UploadId"]
        parts = [{"PartNumber": 1, "ETag": '"wrong"'}]
        refused = s3.error_of(
            lambda: connection.complete_multipart_upload(**where, MultipartUpload={"Parts": parts})
        )
        assert refused == (400, "InvalidPart")
        assert connection.list_parts(**where).get("Parts", []) == []
        connection.abort_multipart_upload(**where)
        assert s3.error_of(lambda: connection.abort_multipart_upload(**where)) == (404, "NoSuchUpload")

    def test_pages(self, either: StrictEndpoint) -> None:
        for key in ("a/1", "a/2", "b&<", "ü"):
            s3.put_bytes(either, key, b"x")
        connection = s3.client(either)
        pages = connection.get_paginator("list_objects_v2").paginate(
            Bucket=either.bucket, Delimiter="/", StartAfter="a", PaginationConfig={"PageSize": 1}
        )
        pages = list(pages)
        groups = [group["Prefix"] for page in pages for group in page.get("CommonPrefixes", [])]
        keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
        assert (groups, keys) == (["a/"], ["b&<", "ü"])

    def test_pages_of_uploads(self, either: StrictEndpoint) -> None:
        connection = s3.client(either)
        ids = {connection.create_multipart_upload(Bucket=either.bucket, Key=key)["UploadId"] for key in "aab"}
        pages = connection.get_paginator("list_multipart_uploads").paginate(
            Bucket=either.bucket, PaginationConfig={"PageSize": 1}
        )
        assert {upload["UploadId"] for page in pages for upload in page["Uploads"]} == ids

    @pytest.mark.parametrize(
        ("span", "content"),
        [
            ("bytes=0-1", b"01"),
            ("bytes=7-99", b"789"),
            ("bytes=8-", b"89"),
            ("bytes=-3", b"789"),
            ("bytes=5-4", b"0123456789"),
        ],
    )
    def test_ranges(self, either: StrictEndpoint, span: str, content: bytes) -> None:
        s3.put_bytes(either, "digits", b"0123456789")
        assert s3.read_bytes(either, "digits", Range=span) == content

    def test_refused_reads(self, either: StrictEndpoint) -> None:
        s3.put_bytes(either, "key", b"data")
        assert s3.error_of(lambda: s3.read_bytes(either, "key", Range="bytes=4-"))[0] == 416
        assert s3.error_of(lambda: s3.read_bytes(either, "key", IfMatch='"other"'))[0] == 412
        assert s3.error_of(lambda: s3.read_bytes(either, "none")) == (404, "NoSuchKey")
        elsewhere = replace(either, bucket="no-such-bucket")
        assert s3.error_of(lambda: s3.read_bytes(elsewhere, "key")) == (404, "NoSuchBucket")

    def test_copies(self, either: StrictEndpoint) -> None:
        s3.put_bytes(either, "old ü", b"data", Metadata={"a": "b"})
        connection, source = s3.client(either), {"Bucket": either.bucket, "Key": "old ü"}
        connection.copy_object(Bucket=either.bucket, Key="new", CopySource=source)
        found = s3.head(either, "new")
        assert found is not None
        assert (found.size, found.metadata) == (4, {"a": "b"})

    def test_bulk_delete_needs_an_md5(self, either: StrictEndpoint) -> None:
        s3.put_bytes(either, "key", b"data")
        connection = s3.client(replace(either, name="bulk"))
        more: dict[str, str] = {}
        connection.meta.events.register("before-sign.s3", lambda request, **_: _without_crc(request, more))
        arguments = {"Bucket": either.bucket, "Delete": {"Objects": [{"Key": "key"}]}}
        refused = s3.error_of(lambda: connection.delete_objects(**arguments))
        assert refused == (400, "MissingContentMD5")
        body = b'<Delete xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Object><Key>key</Key></Object></Delete>'
        more["Content-MD5"] = s3.content_md5(body)
        assert connection.delete_objects(**arguments)["Deleted"] == [{"Key": "key"}]

    def test_the_control_counts(self, either: StrictEndpoint) -> None:
        s3.put_bytes(either, "key", b"data")
        s3.head(either, "none")
        s3.client(either).create_multipart_upload(Bucket=either.bucket, Key="open")
        report = either.control.report()
        assert report.requests == {"put_object": 1, "head": 1, "create_multipart": 1}
        assert (report.refusals, report.bytes_stored, report.open_uploads) == ([], 4, 1)
        either.control.reset()
        assert either.control.report().requests == {}
        assert s3.list_keys(either) == {}


def _without_crc(request: Any, more: dict[str, str]) -> None:
    del request.headers["x-amz-checksum-crc32"]
    del request.headers["x-amz-sdk-checksum-algorithm"]
    for name, value in more.items():
        request.headers[name] = value


class TestR2:
    def test_the_trailer_form_looks_like_a_wrong_key(self, r2: StrictEndpoint) -> None:
        connection = s3.default_client(r2)
        refused = s3.error_of(lambda: connection.put_object(Bucket=r2.bucket, Key="key", Body=b"data"))
        assert refused == (401, "Unauthorized")

    @pytest.mark.parametrize(
        "arguments",
        [
            {"ChecksumCRC32": "AAAAAA=="},
            {"ACL": "private"},
            {"Tagging": "a=b"},
            {"ServerSideEncryption": "aws:kms"},
            {"ObjectLockMode": "GOVERNANCE"},
        ],
    )
    def test_not_implemented(self, r2: StrictEndpoint, arguments: dict[str, str]) -> None:
        assert _put(r2, **arguments) == (501, "NotImplemented")

    def test_a_sha256_is_taken_and_checked(self, r2: StrictEndpoint) -> None:
        right, wrong = (base64.b64encode(hashlib.sha256(data).digest()).decode() for data in (b"data", b"other"))
        s3.client(r2).put_object(Bucket=r2.bucket, Key="key", Body=b"data", ChecksumSHA256=right)
        assert _put(r2, ChecksumSHA256=wrong) == (400, "BadDigest")

    @pytest.mark.parametrize("parts", [[b"aaaa", b"bbbbb", b"c"], [b"aaaa", b"bbbbb"]])
    def test_parts_must_be_equal(self, r2: StrictEndpoint, parts: list[bytes]) -> None:
        assert s3.error_of(lambda: s3.put_parts(r2, "key", parts)) == (400, "InvalidPart")
        assert r2.control.report().open_uploads == 1

    def test_the_multipart_etag_is_the_md5_of_md5s(self, r2: StrictEndpoint) -> None:
        answer = s3.put_parts(r2, "key", [b"aaaa", b"b"])
        md5s = hashlib.md5(b"aaaa").digest() + hashlib.md5(b"b").digest()
        assert answer["ETag"] == f'"{hashlib.md5(md5s).hexdigest()}-2"'

    def test_one_key_takes_one_write_per_second(self, r2: StrictEndpoint) -> None:
        r2.control.configure(write_interval=30)
        s3.put_bytes(r2, "key", b"1")
        s3.put_bytes(r2, "another", b"1")
        too_many = (429, "TooManyRequests")
        assert s3.error_of(lambda: s3.put_bytes(r2, "key", b"2")) == too_many
        assert s3.error_of(lambda: s3.put_parts(r2, "key", [b"2"])) == too_many
        r2.control.configure(write_interval=0)
        s3.put_bytes(r2, "key", b"3")

    def test_names_that_look_alike_are_one_key(self, r2: StrictEndpoint) -> None:
        composed, decomposed = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
        s3.put_bytes(r2, composed, b"1")
        s3.put_bytes(r2, decomposed, b"22")
        assert s3.list_keys(r2) == {decomposed: 2}
        assert s3.read_bytes(r2, composed) == b"22"

    def test_conditional_put(self, r2: StrictEndpoint) -> None:
        etag = s3.put_bytes(r2, "key", b"1", IfNoneMatch="*")["ETag"]
        failed = (412, "PreconditionFailed")
        assert s3.error_of(lambda: s3.put_bytes(r2, "key", b"2", IfNoneMatch="*")) == failed
        assert s3.error_of(lambda: s3.put_bytes(r2, "key", b"2", IfMatch='"other"')) == failed
        assert s3.error_of(lambda: s3.put_bytes(r2, "none", b"2", IfMatch="*")) == failed
        s3.put_bytes(r2, "key", b"3", IfMatch=etag)
        assert s3.read_bytes(r2, "key") == b"3"
        assert r2.control.report().refusals == []

    def test_a_failed_conditional_completion_aborts(self, r2: StrictEndpoint) -> None:
        s3.put_bytes(r2, "key", b"1")
        failed = s3.error_of(lambda: s3.put_parts(r2, "key", [b"2222", b"3"], IfNoneMatch="*"))
        assert failed == (412, "PreconditionFailed")
        assert r2.control.report().open_uploads == 0

    def test_bulk_delete_as_botocore_sends_it_is_refused(self, r2: StrictEndpoint) -> None:
        wanted = {"Objects": [{"Key": "key"}]}
        refused = s3.error_of(lambda: s3.client(r2).delete_objects(Bucket=r2.bucket, Delete=wanted))
        assert refused == (501, "NotImplemented")

    def test_nothing_older_is_kept(self, r2: StrictEndpoint) -> None:
        s3.put_bytes(r2, "key", b"first")
        s3.put_bytes(r2, "key", b"2nd")
        assert r2.control.report().bytes_stored == 3
        assert s3.error_of(lambda: s3.read_bytes(r2, "key", VersionId="x")) == (501, "NotImplemented")
        assert "Status" not in s3.client(r2).get_bucket_versioning(Bucket=r2.bucket)


class TestB2:
    @pytest.mark.parametrize(
        "arguments",
        [{"ChecksumCRC32": "AAAAAA=="}, {"ChecksumSHA256": "A" * 43 + "="}, {"ACL": "private"}],
    )
    def test_unsupported_headers(self, b2: StrictEndpoint, arguments: dict[str, str]) -> None:
        assert _put(b2, **arguments) == (400, "InvalidArgument")
        assert b2.control.report().refusals[0].reason.startswith("Unsupported header 'x-amz-")

    def test_the_default_read_asks_for_a_checksum_and_is_refused(self, b2: StrictEndpoint) -> None:
        s3.put_bytes(b2, "key", b"data")
        connection = s3.default_client(b2)
        refused = s3.error_of(lambda: connection.get_object(Bucket=b2.bucket, Key="key"))
        assert refused == (400, "InvalidArgument")

    @pytest.mark.parametrize("condition", [{"IfNoneMatch": "*"}, {"IfMatch": '"x"'}])
    def test_no_conditional_writes(self, b2: StrictEndpoint, condition: dict[str, str]) -> None:
        missing = (501, "NotImplemented")
        assert s3.error_of(lambda: s3.put_bytes(b2, "key", b"1", **condition)) == missing
        assert s3.error_of(lambda: s3.put_parts(b2, "key", [b"1"], **condition)) == missing

    def test_parts_need_not_be_equal(self, b2: StrictEndpoint) -> None:
        s3.put_parts(b2, "key", [b"aaaa", b"bbbbb", b"cccccccc"])
        assert s3.read_bytes(b2, "key") == b"aaaabbbbbcccccccc"

    def test_the_multipart_etag_says_nothing(self, b2: StrictEndpoint) -> None:
        answer = s3.put_parts(b2, "key", [b"aaaa", b"b"])
        etag = answer["ETag"].strip('"')
        assert len(etag) == 32
        assert not set(etag) & set("0123456789abcdef-")
        found = s3.head(b2, "key")
        assert found is not None
        assert (found.etag, found.version_id) == (etag, answer["VersionId"])

    def test_every_seventh_write_finds_it_busy(self, strict_b2: StrictEndpoint) -> None:
        strict_b2.control.reset()
        for number in range(6):
            s3.put_bytes(strict_b2, f"key{number}", b"data")
        busy = s3.error_of(lambda: s3.put_bytes(strict_b2, "key6", b"data"))
        assert busy == (503, "ServiceUnavailable")
        s3.put_bytes(strict_b2, "key6", b"data")
        report = strict_b2.control.report()
        assert (report.unavailable, report.refusals) == (1, [])

    def test_every_version_is_kept(self, b2: StrictEndpoint) -> None:
        first = s3.put_bytes(b2, "key", b"first")["VersionId"]
        second = s3.put_bytes(b2, "key", b"2nd")["VersionId"]
        assert [(one.version_id, one.is_latest, one.size) for one in s3.list_versions(b2)] == [
            (second, True, 3),
            (first, False, 5),
        ]
        assert s3.read_bytes(b2, "key", VersionId=first) == b"first"
        assert b2.control.report().bytes_stored == 8
        assert s3.client(b2).get_bucket_versioning(Bucket=b2.bucket)["Status"] == "Enabled"

    def test_a_plain_delete_only_hides(self, b2: StrictEndpoint) -> None:
        version = s3.put_bytes(b2, "key", b"data")["VersionId"]
        s3.delete_key(b2, "key")
        assert s3.head(b2, "key") is None
        assert s3.list_keys(b2) == {}
        assert [(one.is_latest, one.size) for one in s3.list_versions(b2)] == [(False, 4), (True, None)]
        assert b2.control.report().bytes_stored == 4
        assert s3.read_bytes(b2, "key", VersionId=version) == b"data"

    def test_a_delete_with_the_version_is_for_good(self, b2: StrictEndpoint) -> None:
        s3.put_bytes(b2, "key", b"data")
        s3.delete_key(b2, "key")
        for version in s3.list_versions(b2):
            s3.delete_key(b2, "key", version.version_id)
        assert s3.list_versions(b2) == []
        assert b2.control.report().bytes_stored == 0

    def test_pages_of_versions(self, b2: StrictEndpoint) -> None:
        for key in ("a", "a", "a", "b"):
            s3.put_bytes(b2, key, b"x")
        s3.delete_key(b2, "a")
        pages = (
            s3.client(b2)
            .get_paginator("list_object_versions")
            .paginate(Bucket=b2.bucket, PaginationConfig={"PageSize": 2})
        )
        found = [
            one["VersionId"]
            for page in pages
            for one in [*page.get("DeleteMarkers", []), *page.get("Versions", [])]
        ]
        assert len(found) == len(set(found)) == 5
