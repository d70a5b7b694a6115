"""Copies that the service makes itself, without a byte of data going through this machine."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from urllib.parse import quote

from fsbackup.errors import ConflictError
from fsbackup.sizing import MIB
from fsbackup.stores.base import ObjectStat
from fsbackup.stores.s3.bucket import METADATA, Bucket, ObjectInfo
from fsbackup.stores.s3.requests import Request, read_small
from fsbackup.stores.s3.uploads import CONTENT_TYPE, abort, complete, create_upload, field_of, remove_note

#: Largest object that one CopyObject takes (Amazon S3, R2 and B2); larger ones are copied part by part.
MAX_COPY = 5 * 1024 * MIB
#: Bytes of a part.
PART = 1024 * MIB


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
                bucket, stat, {**named, "Content-Type": CONTENT_TYPE, "x-amz-metadata-directive": "REPLACE"}
            )
        else:
            await _copy_parts(bucket, stat, metadata)
    except ConflictError as error:
        refusal = error
    head = await bucket.head(stat.name, "write")
    is_ours = head is not None and dict(head.metadata or {}) == dict(metadata)
    # Some servers ignore the condition, and copied what replaced the object.
    both = {head.md5(), ObjectInfo(stat.etag).md5()} - {None} if head is not None else set()
    if head is None or head.size is None or not is_ours or len(both) > 1:
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
    context = bucket.context("write", stat.name)
    upload = await create_upload(bucket, stat.name, metadata, secrets.token_hex(16))
    try:
        parts = [
            (number, await _copy_part(bucket, stat, upload.id, number))
            for number in range(1, -(-stat.size // PART) + 1)
        ]
        await complete(bucket, context, upload.id, parts)
    except BaseException:
        await abort(bucket, stat.name, upload.id)
        await remove_note(bucket, upload)
        raise
    await remove_note(bucket, upload)


async def _copy_part(bucket: Bucket, stat: ObjectStat, upload: str, number: int) -> str:
    start, context = (number - 1) * PART, bucket.context("write", stat.name)
    span = f"bytes={start}-{min(start + PART, stat.size) - 1}"
    query = (("partNumber", str(number)), ("uploadId", upload))
    return field_of(await _copy(bucket, stat, {"x-amz-copy-source-range": span}, query), "ETag", context)
