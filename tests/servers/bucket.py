"""The independent eye of the tests: what a bucket really holds, seen with plain boto3."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from tests.servers.endpoint import S3Endpoint, client


@dataclass(frozen=True)
class Upload:
    """A multipart upload that nobody has completed or aborted."""

    key: str
    upload_id: str


@dataclass(frozen=True)
class Version:
    """One version of a key; `size` is None for a delete (hide) marker."""

    key: str
    version_id: str
    is_latest: bool
    size: int | None


@dataclass(frozen=True)
class Head:
    """What HEAD tells about an object; `etag` without its quotes."""

    size: int
    etag: str
    metadata: dict[str, str]
    version_id: str | None


def content_md5(data: bytes) -> str:
    """Return the Content-MD5 header value of some bytes."""
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def put_bytes(endpoint: S3Endpoint, key: str, data: bytes, **extra: Any) -> dict[str, Any]:
    """Store an object and return the server's answer; `extra` are arguments of put_object."""
    answer: dict[str, Any] = client(endpoint).put_object(
        Bucket=endpoint.bucket, Key=key, Body=data, ContentMD5=content_md5(data), **extra
    )
    return answer


def put_parts(endpoint: S3Endpoint, key: str, parts: list[bytes], **complete: Any) -> dict[str, Any]:
    """Store an object in parts and return the answer to the completion, which gets `complete`."""
    s3, where = client(endpoint), {"Bucket": endpoint.bucket, "Key": key}
    where["UploadId"] = s3.create_multipart_upload(**where)["UploadId"]
    done = []
    for number, data in enumerate(parts, 1):
        part = s3.upload_part(**where, PartNumber=number, Body=data, ContentMD5=content_md5(data))
        done.append({"PartNumber": number, "ETag": part["ETag"]})
    answer: dict[str, Any] = s3.complete_multipart_upload(**where, MultipartUpload={"Parts": done}, **complete)
    return answer


def read_bytes(endpoint: S3Endpoint, key: str, **extra: Any) -> bytes:
    """Return an object's whole content; `extra` are arguments of get_object."""
    data: bytes = client(endpoint).get_object(Bucket=endpoint.bucket, Key=key, **extra)["Body"].read()
    return data


def head(endpoint: S3Endpoint, key: str, **extra: Any) -> Head | None:
    """Return what HEAD says, or None when there is no such object."""
    try:
        answer = client(endpoint).head_object(Bucket=endpoint.bucket, Key=key, **extra)
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
            return None
        raise
    return Head(answer["ContentLength"], answer["ETag"].strip('"'), answer["Metadata"], answer.get("VersionId"))


def replace_metadata(endpoint: S3Endpoint, key: str, metadata: dict[str, str]) -> None:
    """Give an object other user metadata; its bytes stay."""
    client(endpoint).copy_object(
        Bucket=endpoint.bucket,
        Key=key,
        CopySource={"Bucket": endpoint.bucket, "Key": key},
        Metadata=metadata,
        MetadataDirective="REPLACE",
    )


def delete_key(endpoint: S3Endpoint, key: str, version_id: str | None = None) -> None:
    """Delete an object, or one version of it for good."""
    version = {"VersionId": version_id} if version_id else {}
    client(endpoint).delete_object(Bucket=endpoint.bucket, Key=key, **version)


def list_keys(endpoint: S3Endpoint, prefix: str = "") -> dict[str, int]:
    """Return every visible key with its size."""
    pages = _pages(endpoint, "list_objects_v2", prefix)
    return {item["Key"]: item["Size"] for page in pages for item in page.get("Contents", [])}


def list_uploads(endpoint: S3Endpoint, prefix: str = "") -> list[Upload]:
    """Return the unfinished multipart uploads."""
    try:
        pages = _pages(endpoint, "list_multipart_uploads", prefix)
    except ClientError as error:
        if error.response["Error"]["Code"] == "NoSuchUpload":  # rclone, as long as there was none in the bucket
            return []
        raise
    return [Upload(item["Key"], item["UploadId"]) for page in pages for item in page.get("Uploads", [])]


def list_versions(endpoint: S3Endpoint, prefix: str = "") -> list[Version]:
    """Return all versions and delete markers, as the server orders them."""
    pages = _pages(endpoint, "list_object_versions", prefix)
    return [
        Version(item["Key"], item["VersionId"], item["IsLatest"], item.get("Size"))
        for page in pages
        for kind in ("Versions", "DeleteMarkers")
        for item in page.get(kind, [])
    ]


def empty_bucket(endpoint: S3Endpoint, prefix: str = "") -> None:
    """Delete every visible object and abort every unfinished upload under a prefix."""
    for key in list_keys(endpoint, prefix):
        delete_key(endpoint, key)
    for upload in list_uploads(endpoint, prefix):
        client(endpoint).abort_multipart_upload(Bucket=endpoint.bucket, Key=upload.key, UploadId=upload.upload_id)


def error_of(action: Callable[[], object]) -> tuple[int, str]:
    """Return the HTTP status and the S3 error code that an action is refused with."""
    try:
        action()
    except ClientError as error:
        return error.response["ResponseMetadata"]["HTTPStatusCode"], error.response["Error"]["Code"]
    raise AssertionError("the server accepted it")


def _pages(endpoint: S3Endpoint, operation: str, prefix: str) -> list[dict[str, Any]]:
    pages = client(endpoint).get_paginator(operation).paginate(Bucket=endpoint.bucket, Prefix=prefix)
    return list(pages)
