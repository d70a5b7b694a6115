"""Buckets and their listings."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from urllib.parse import quote

from tests.servers.strict.messages import Answer, Call, S3Error, XmlValue, not_implemented, xml_answer
from tests.servers.strict.objects import iso
from tests.servers.strict.state import State
from tests.servers.strict.store import Bucket, Upload, Version

Entry = tuple[str, XmlValue]


def list_buckets(state: State, call: Call) -> Answer:  # noqa: ARG001 - the signature of all handlers
    """List the buckets."""
    buckets = [("Bucket", [("Name", name)]) for name in sorted(state.buckets)]
    return xml_answer("ListAllMyBucketsResult", ("Buckets", buckets))


def create_bucket(state: State, call: Call) -> Answer:
    """Make a bucket."""
    if call.bucket in state.buckets:
        raise S3Error(409, "BucketAlreadyOwnedByYou", "You already own this bucket.")
    state.buckets[call.bucket] = Bucket()
    return Answer()


def head_bucket(state: State, call: Call) -> Answer:
    """Tell that a bucket exists."""
    state.bucket(call)
    return Answer()


def delete_bucket(state: State, call: Call) -> Answer:
    """Delete an empty bucket."""
    if state.bucket(call).versions:
        raise S3Error(409, "BucketNotEmpty", "The bucket you tried to delete is not empty.")
    del state.buckets[call.bucket]
    return Answer(204)


def get_versioning(state: State, call: Call) -> Answer:
    """Tell whether older versions are kept."""
    state.bucket(call)
    status = [("Status", "Enabled")] if state.provider.is_versioned else []
    return xml_answer("VersioningConfiguration", *status)


def list_objects(state: State, call: Call) -> Answer:
    """List the visible keys, one page at a time."""
    if call.query.get("list-type") != "2":
        raise not_implemented("ListObjects version 1: use ListObjectsV2")
    token = call.query.get("continuation-token")
    after = base64.urlsafe_b64decode(token).decode() if token else call.query.get("start-after", "")
    page, rest = _page(_visible(state.bucket(call), call), after, call)
    next_token = base64.urlsafe_b64encode(page[-1][0].encode()).decode() if rest else ""
    return xml_answer(
        "ListBucketResult",
        *_echo(call, "Prefix", "Delimiter", "StartAfter", "EncodingType"),
        ("Name", call.bucket),
        ("MaxKeys", call.max_items),
        ("KeyCount", len(page)),
        ("IsTruncated", rest),
        *([("NextContinuationToken", next_token)] if rest else []),
        *(entry for _, entry in page),
    )


def _visible(bucket: Bucket, call: Call) -> Iterable[tuple[str, Entry]]:
    """Yield each key under the prefix, or what the delimiter folds it into, with its entry."""
    prefix, delimiter = call.query.get("prefix", ""), call.query.get("delimiter", "")
    encode = _encoder(call)
    for key in bucket.versions:
        version = bucket.current(key)
        if version is None or not version.key.startswith(prefix):
            continue
        head, folded, _ = version.key[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
        if folded:
            group = prefix + head + delimiter
            yield group, ("CommonPrefixes", [("Prefix", encode(group))])
        else:
            yield version.key, ("Contents", [*_facts(version, encode), ("StorageClass", "STANDARD")])


def _facts(version: Version, encode: Callable[[str], str]) -> list[Entry]:
    etag = f'"{version.etag}"'
    named: list[Entry] = [("Key", encode(version.key)), ("LastModified", iso(version))]
    return [*named, ("ETag", etag), ("Size", version.size)] if version.data is not None else named


def list_versions(state: State, call: Call) -> Answer:
    """List every version and marker, newest first within a key."""
    if not state.provider.is_versioned:
        raise not_implemented("ListObjectVersions not implemented")
    everything = list(_versions(state.bucket(call), call))
    marker = (call.query.get("key-marker", ""), call.query.get("version-id-marker", ""))
    start = _after_marker(everything, *marker)
    page = everything[start : start + call.max_items]
    is_more = start + len(page) < len(everything)
    last = page[-1][0] if is_more else None
    encode = _encoder(call)
    return xml_answer(
        "ListVersionsResult",
        *_echo(call, "Prefix", "EncodingType"),
        ("Name", call.bucket),
        ("MaxKeys", call.max_items),
        ("IsTruncated", is_more),
        *([("NextKeyMarker", encode(last.key)), ("NextVersionIdMarker", last.version_id)] if last else []),
        *(entry for _, entry in page),
    )


def _versions(bucket: Bucket, call: Call) -> Iterable[tuple[Version, Entry]]:
    encode, prefix = _encoder(call), call.query.get("prefix", "")
    for key in sorted(bucket.versions, key=str.encode):
        for index, version in enumerate(reversed(bucket.versions[key])):
            if version.key.startswith(prefix):
                tag = "Version" if version.data is not None else "DeleteMarker"
                facts = [*_facts(version, encode), ("VersionId", version.version_id), ("IsLatest", index == 0)]
                yield version, (tag, facts)


def _after_marker(everything: list[tuple[Version, Entry]], key: str, version_id: str) -> int:
    for index, (version, _) in enumerate(everything):
        if version_id and version.version_id == version_id:
            return index + 1
        if version.key.encode() > key.encode():
            return index
    return len(everything) if key else 0


def list_uploads(state: State, call: Call) -> Answer:
    """List the unfinished uploads."""
    waiting = _waiting_uploads(state.bucket(call), call)
    page = waiting[: call.max_items]
    is_more = len(page) < len(waiting)
    last = page[-1] if is_more else None
    encode = _encoder(call)
    return xml_answer(
        "ListMultipartUploadsResult",
        *_echo(call, "Prefix", "EncodingType"),
        ("Bucket", call.bucket),
        ("MaxUploads", call.max_items),
        ("IsTruncated", is_more),
        *([("NextKeyMarker", encode(last.key)), ("NextUploadIdMarker", last.upload_id)] if last else []),
        *(("Upload", _upload_entry(upload, encode)) for upload in page),
    )


def _waiting_uploads(bucket: Bucket, call: Call) -> list[Upload]:
    """Return the uploads under the prefix that come after the marker, in order."""
    prefix, key_marker = call.query.get("prefix", ""), call.query.get("key-marker", "")
    # Without an upload id the marker stands behind all uploads of its key.
    marker = (key_marker.encode(), call.query.get("upload-id-marker", "~"))
    found = [((one.key.encode(), one.upload_id), one) for one in bucket.uploads.values()]
    found.sort(key=lambda pair: pair[0])
    return [one for place, one in found if one.key.startswith(prefix) and place > marker]


def _upload_entry(upload: Upload, encode: Callable[[str], str]) -> list[Entry]:
    started = upload.started.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return [("Key", encode(upload.key)), ("UploadId", upload.upload_id), ("Initiated", started)]


def _page(entries: Iterable[tuple[str, Entry]], after: str, call: Call) -> tuple[list[tuple[str, Entry]], bool]:
    """Return the page after a name, each name once and in the order of its bytes, and if more follow."""
    unique = {name: entry for name, entry in entries if name.encode() > after.encode()}
    names = sorted(unique, key=str.encode)
    page = names[: call.max_items]
    return [(name, unique[name]) for name in page], len(page) < len(names)


def _echo(call: Call, *tags: str) -> list[Entry]:
    queries = {"StartAfter": "start-after", "EncodingType": "encoding-type"}
    values = ((tag, call.query.get(queries.get(tag, tag.lower()))) for tag in tags)
    encode = _encoder(call)
    return [(tag, value if tag == "EncodingType" else encode(value)) for tag, value in values if value]


def _encoder(call: Call) -> Callable[[str], str]:
    return quote if call.query.get("encoding-type") == "url" else str
