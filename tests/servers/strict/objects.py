"""Whole objects: put, copy, get, head, delete."""

from __future__ import annotations

import re
from email.utils import format_datetime
from urllib.parse import unquote

from tests.servers.strict.messages import (
    Answer,
    Call,
    RefusedError,
    S3Error,
    XmlValue,
    md5_hex,
    not_implemented,
    read_xml,
    xml_answer,
)
from tests.servers.strict.state import State
from tests.servers.strict.store import Bucket, Version

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
#: Objects that one request deletes at most (Amazon S3, R2 and B2: DeleteObjects).
_MAX_DELETED = 1000


def put_object(state: State, call: Call) -> Answer:
    """Store the body under the key."""
    content_type = call.header("content-type") or "binary/octet-stream"
    version = Version(call.key, call.body, md5_hex(call.body), call.metadata, content_type)
    store_version(state, call, version)
    return Answer(headers=_identity_headers(state, version))


def store_version(state: State, call: Call, version: Version) -> None:
    """Make a version current, if the request's conditions hold and it does not come too soon."""
    bucket, key = state.bucket(call), state.key(call)
    check_write_conditions(call, bucket.current(key))
    state.provider.before_write(bucket, key)
    bucket.add(key, version, keep_older=state.provider.is_versioned)


def check_write_conditions(call: Call, current: Version | None) -> None:
    """Refuse a conditional write whose condition does not hold."""
    # R2 has names of its own for what a copy replaces, and does not look at the others.
    prefix = "cf-copy-destination-" if call.operation == "copy_object" else ""
    wanted, unwanted = call.header(f"{prefix}if-match"), call.header(f"{prefix}if-none-match")
    if wanted and not (current and _matches(wanted, current)):
        raise _precondition_failed()
    if unwanted and current and _matches(unwanted, current):
        raise _precondition_failed()


def copy_object(state: State, call: Call) -> Answer:
    """Copy within the server."""
    origin = copy_source(state, call)
    replaces = call.header("x-amz-metadata-directive") == "REPLACE"
    metadata = call.metadata if replaces else origin.metadata
    data = origin.data or b""
    version = Version(call.key, data, md5_hex(data), metadata, origin.content_type)
    store_version(state, call, version)
    return xml_answer("CopyObjectResult", ("ETag", f'"{version.etag}"'), ("LastModified", iso(version)))


def copy_source(state: State, call: Call) -> Version:
    """Return what is to be copied, if it is what the condition says."""
    source, _, version_id = call.header("x-amz-copy-source").partition("?versionId=")
    bucket, _, key = unquote(source).lstrip("/").partition("/")
    if bucket not in state.buckets:
        raise S3Error(404, "NoSuchBucket", "The specified bucket does not exist.")
    origin = _find(state.buckets[bucket], state.provider.identity(key), version_id)
    wanted = call.header("x-amz-copy-source-if-match")
    if wanted and not _matches(wanted, origin):
        raise _precondition_failed()
    return origin


def get_object(state: State, call: Call) -> Answer:
    """Return the content, or the part of it that was asked for."""
    version, data = _readable(state, call)
    headers = _object_headers(state, version)
    span = _range(call.header("range"), len(data))
    if span is None:
        return Answer(headers=headers, body=data)
    first, last = span
    headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
    return Answer(206, headers, data[first : last + 1])


def head_object(state: State, call: Call) -> Answer:
    """Return what GET would say in its headers."""
    version, data = _readable(state, call)
    return Answer(headers={**_object_headers(state, version), "Content-Length": str(len(data))})


def delete_object(state: State, call: Call) -> Answer:
    """Delete: for good on R2 or with a version id, else by hiding what is there."""
    headers = _delete(state, state.bucket(call), call.key, call.query.get("versionId", ""))
    return Answer(204, headers)


def delete_objects(state: State, call: Call) -> Answer:
    """Delete many keys with one request."""
    root = read_xml(call.body)
    deleted: list[tuple[str, XmlValue]] = []
    failed: list[tuple[str, XmlValue]] = []
    if len(items := list(root.iter("Object"))) > _MAX_DELETED:
        raise RefusedError(400, "MalformedXML", "The XML you provided has too many objects.")
    for item in items:
        key, version_id = item.findtext("Key", ""), item.findtext("VersionId", "")
        named: list[tuple[str, XmlValue]] = [("Key", key), *([("VersionId", version_id)] if version_id else [])]
        try:
            _delete(state, state.bucket(call), key, version_id)
        except S3Error as error:
            failed.append(("Error", [*named, ("Code", error.code), ("Message", str(error))]))
        else:
            deleted.append(("Deleted", named))
    is_quiet = root.findtext("Quiet", "false") == "true"
    return xml_answer("DeleteResult", *([] if is_quiet else deleted), *failed)


def _delete(state: State, bucket: Bucket, sent_key: str, version_id: str) -> dict[str, str]:
    key = state.provider.identity(sent_key)
    state.provider.before_delete(bucket, key)
    if not state.provider.is_versioned:
        bucket.versions.pop(key, None)
        return {}
    if version_id:
        gone = bucket.remove(key, version_id)
        is_marker = bool(gone and gone.data is None)
        return {"x-amz-version-id": version_id, **({"x-amz-delete-marker": "true"} if is_marker else {})}
    if not bucket.current(key):
        return {}
    marker = Version(sent_key, None)
    bucket.add(key, marker, keep_older=True)
    return {"x-amz-version-id": marker.version_id, "x-amz-delete-marker": "true"}


def _readable(state: State, call: Call) -> tuple[Version, bytes]:
    version = _find(state.bucket(call), state.key(call), call.query.get("versionId", ""))
    wanted, unwanted = call.header("if-match"), call.header("if-none-match")
    if wanted and not _matches(wanted, version):
        raise _precondition_failed()
    if unwanted and _matches(unwanted, version):
        raise S3Error(304, "NotModified", "Not modified.", ETag=f'"{version.etag}"')
    if "partNumber" in call.query:
        raise not_implemented("partNumber not implemented")
    return version, version.data or b""


def _find(bucket: Bucket, key: str, version_id: str) -> Version:
    if not version_id:
        if current := bucket.current(key):
            return current
        marker = {"x-amz-delete-marker": "true"} if key in bucket.versions else {}
        raise S3Error(404, "NoSuchKey", "The specified key does not exist.", **marker)
    version = bucket.find(key, version_id)
    if version.data is None:
        raise S3Error(405, "MethodNotAllowed", "The version is a delete marker.")
    return version


def _range(header: str, size: int) -> tuple[int, int] | None:
    match = _RANGE.fullmatch(header)
    if not match or header == "bytes=-":
        return None
    start, end = match.groups()
    first = int(start) if start else max(0, size - int(end))
    last = min(int(end), size - 1) if start and end else size - 1
    if start and end and int(end) < first:
        return None  # not a range by the standard: the whole object is the right answer
    if first >= size:
        raise S3Error(416, "InvalidRange", "The requested range is not satisfiable.")
    return first, last


def _matches(header: str, version: Version) -> bool:
    etags = {etag.strip().strip('"') for etag in header.split(",")}
    return "*" in etags or version.etag in etags


def _precondition_failed() -> S3Error:
    return S3Error(412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold.")


def _identity_headers(state: State, version: Version) -> dict[str, str]:
    headers = {"ETag": f'"{version.etag}"'}
    if state.provider.is_versioned:
        headers["x-amz-version-id"] = version.version_id
    return headers


def _object_headers(state: State, version: Version) -> dict[str, str]:
    return {
        **_identity_headers(state, version),
        **version.metadata,
        "Content-Type": version.content_type,
        "Last-Modified": format_datetime(version.modified, usegmt=True),
        "Accept-Ranges": "bytes",
    }


def iso(version: Version) -> str:
    """Return the time of a version as listings show it."""
    return version.modified.strftime("%Y-%m-%dT%H:%M:%S.000Z")
