"""Gives an object other user metadata, by copying it onto itself inside the service."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

from fsbackup.errors import ConflictError
from fsbackup.sizing import MIB
from fsbackup.stores.base import ObjectStat
from fsbackup.stores.s3.bucket import Bucket, require

#: Largest object that one CopyObject takes (Amazon S3, R2 and B2); larger ones are copied part by part.
_MAX_COPY = 5 * 1024 * MIB
_PART = 1024 * MIB


async def replace_metadata(bucket: Bucket, stat: ObjectStat, metadata: Mapping[str, str]) -> ObjectStat:
    """Copy the object of `stat` onto itself with `metadata`, unless it was replaced since.

    Raises
    ------
    ConflictError
        When another object has the name by now.
    """
    context = bucket.context("write", stat.name)
    source = {"CopySource": quote(f"{bucket.name}/{bucket.prefix}{stat.name}", safe="/~")}
    if stat.etag is not None:
        source["CopySourceIfMatch"] = f'"{stat.etag}"'
    properties = {"ContentType": "application/octet-stream", "Metadata": dict(metadata)}
    params = {**bucket.object_params(stat.name), **source}
    if stat.size <= _MAX_COPY:
        await bucket.calls.request(context, "copy_object", **params, **properties, MetadataDirective="REPLACE")
    else:
        await _copy_parts(bucket, stat, params, properties)
    head = await bucket.head(stat.name, "write")
    if head is None or head.size is None or dict(head.metadata or {}) != dict(metadata):
        raise context.error(ConflictError, "another writer replaced or deleted the object at the same time")
    return head.stat(stat.name, head.size)


async def _copy_parts(
    bucket: Bucket, stat: ObjectStat, params: dict[str, str], properties: Mapping[str, object]
) -> None:
    context, target = bucket.context("write", stat.name), bucket.object_params(stat.name)
    created = await bucket.calls.request(context, "create_multipart_upload", **target, **properties)
    upload = {"UploadId": str(require(created.get("UploadId"), "UploadId", context))}
    try:
        parts = [
            {"PartNumber": number, "ETag": await _copy_part(bucket, stat, {**params, **upload}, number)}
            for number in range(1, -(-stat.size // _PART) + 1)
        ]
        await bucket.calls.request(
            context, "complete_multipart_upload", **target, **upload, MultipartUpload={"Parts": parts}
        )
    except BaseException:
        await bucket.calls.request(context, "abort_multipart_upload", **target, **upload)
        raise


async def _copy_part(bucket: Bucket, stat: ObjectStat, params: dict[str, str], number: int) -> str:
    start, context = (number - 1) * _PART, bucket.context("write", stat.name)
    span = f"bytes={start}-{min(start + _PART, stat.size) - 1}"
    response = await bucket.calls.request(
        context, "upload_part_copy", **params, PartNumber=number, CopySourceRange=span
    )
    return str(require((response.get("CopyPartResult") or {}).get("ETag"), "ETag", context))
