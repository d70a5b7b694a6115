"""Gives an object other user metadata, by copying it onto itself inside the service."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

from fsbackup.errors import ConflictError
from fsbackup.sizing import MIB
from fsbackup.stores.base import ObjectStat
from fsbackup.stores.s3.attempts import Request, read_small
from fsbackup.stores.s3.bucket import METADATA, Bucket, require
from fsbackup.stores.s3.xml import parse_xml

#: Largest object that one CopyObject takes (Amazon S3, R2 and B2); larger ones are copied part by part.
MAX_COPY = 5 * 1024 * MIB
#: Bytes of a part.
PART = 1024 * MIB
_CONTENT_TYPE = "application/octet-stream"


async def replace_metadata(bucket: Bucket, stat: ObjectStat, metadata: Mapping[str, str]) -> ObjectStat:
    """Copy the object of `stat` onto itself with `metadata`, unless it was replaced since.

    The copy of an object of several parts has another ETag: when the response to the request is lost, the
    repetition is refused. HEAD tells.

    Raises
    ------
    ConflictError
        When another object has the name by now.
    """
    context = bucket.context("write", stat.name)
    refusal: ConflictError | None = None
    try:
        if stat.size <= MAX_COPY:
            named = {f"{METADATA}{name}": value for name, value in metadata.items()}
            await _copy(
                bucket, stat, {**named, "Content-Type": _CONTENT_TYPE, "x-amz-metadata-directive": "REPLACE"}
            )
        else:
            await _copy_parts(bucket, stat, metadata)
    except ConflictError as error:
        refusal = error
    head = await bucket.head(stat.name, "write")
    if head is None or head.size is None or dict(head.metadata or {}) != dict(metadata):
        raise refusal or context.error(
            ConflictError, "another writer replaced or deleted the object at the same time"
        )
    return head.stat(stat.name, head.size)


async def _copy(
    bucket: Bucket, stat: ObjectStat, headers: Mapping[str, str], query: tuple[tuple[str, str], ...] = ()
) -> bytes:
    """Send CopyObject, or with `query` UploadPartCopy, and return the response."""
    # Quoted as in a path: a service may read a `+` as a space.
    source = quote(f"{bucket.name}/{bucket.prefix}{stat.name}", safe="/~", errors="surrogateescape")
    condition = {} if stat.etag is None else {"x-amz-copy-source-if-match": f'"{stat.etag}"'}
    request = Request(
        "PUT", bucket.prefix + stat.name, query, {**headers, "x-amz-copy-source": source, **condition}
    )
    return (await bucket.calls.send(bucket.context("write", stat.name), request, read_small)).content


async def _copy_parts(bucket: Bucket, stat: ObjectStat, metadata: Mapping[str, str]) -> None:
    context, target = bucket.context("write", stat.name), bucket.object_params(stat.name)
    created = await bucket.calls.request(
        context, "create_multipart_upload", **target, ContentType=_CONTENT_TYPE, Metadata=dict(metadata)
    )
    upload = str(require(created.get("UploadId"), "UploadId", context))
    try:
        parts = [
            {"PartNumber": number, "ETag": await _copy_part(bucket, stat, upload, number)}
            for number in range(1, -(-stat.size // PART) + 1)
        ]
        await bucket.calls.request(
            context, "complete_multipart_upload", **target, UploadId=upload, MultipartUpload={"Parts": parts}
        )
    except BaseException:
        await bucket.calls.request(context, "abort_multipart_upload", **target, UploadId=upload)
        raise


async def _copy_part(bucket: Bucket, stat: ObjectStat, upload: str, number: int) -> str:
    start, context = (number - 1) * PART, bucket.context("write", stat.name)
    span = f"bytes={start}-{min(start + PART, stat.size) - 1}"
    query = (("partNumber", str(number)), ("uploadId", upload))
    answer = parse_xml(await _copy(bucket, stat, {"x-amz-copy-source-range": span}, query))
    return str(require(answer.findtext("ETag"), "ETag", context))
