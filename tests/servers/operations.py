"""Which S3 operation a request is: one set of names for the proxy, the strict server and the tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args
from urllib.parse import parse_qsl, unquote, urlsplit

Operation = Literal[
    "list_buckets",
    "create_bucket",
    "head_bucket",
    "delete_bucket",
    "get_versioning",
    "list",
    "list_versions",
    "list_uploads",
    "delete_objects",
    "put_object",
    "copy_object",
    "get",
    "head",
    "delete",
    "create_multipart",
    "upload_part",
    "complete",
    "abort",
    "list_parts",
    "other",
]

_SUBRESOURCES = {"acl", "tagging", "lifecycle", "policy", "cors", "object-lock", "retention", "legal-hold"}


@dataclass(frozen=True)
class S3Request:
    """What a request line asks for, with path-style addressing."""

    operation: Operation
    bucket: str
    key: str
    query: dict[str, str]


def parse_request(method: str, target: str, *, is_copy: bool = False) -> S3Request:
    """Read method and request target; `is_copy` when there is an ``x-amz-copy-source`` header."""
    parts = urlsplit(target)
    bucket, _, key = parts.path.lstrip("/").partition("/")
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    name = _operation(method, unquote(bucket), key, query)
    if is_copy and name == "put_object":
        name = "copy_object"
    return S3Request(name, unquote(bucket), unquote(key), query)


def _operation(method: str, bucket: str, key: str, query: dict[str, str]) -> Operation:
    if query.keys() & _SUBRESOURCES:
        return "other"
    if key:
        return _object_operation(method, query)
    if bucket:
        return _bucket_operation(method, query)
    return "list_buckets" if method == "GET" else "other"


def _object_operation(method: str, query: dict[str, str]) -> Operation:
    if "uploads" in query:
        return "create_multipart" if method == "POST" else "other"
    table: dict[str, Operation]
    if "uploadId" in query:
        table = {"PUT": "upload_part", "POST": "complete", "DELETE": "abort", "GET": "list_parts"}
    else:
        table = {"PUT": "put_object", "GET": "get", "HEAD": "head", "DELETE": "delete"}
    return table.get(method, "other")


def _bucket_operation(method: str, query: dict[str, str]) -> Operation:
    listings: dict[str, Operation] = {
        "versioning": "get_versioning",
        "versions": "list_versions",
        "uploads": "list_uploads",
    }
    table: dict[str, Operation] = {"PUT": "create_bucket", "HEAD": "head_bucket", "DELETE": "delete_bucket"}
    for name, operation in listings.items():
        if name in query:
            return operation if method == "GET" else "other"
    if method == "POST":
        return "delete_objects" if "delete" in query else "other"
    return "list" if method == "GET" and "location" not in query else table.get(method, "other")


OPERATIONS: frozenset[str] = frozenset(get_args(Operation))
