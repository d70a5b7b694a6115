"""Unfinished multipart uploads of fsbackup: those with a record and without a recent part."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator

from fsbackup.errors import BackendError, ObjectNotFoundError
from fsbackup.events import log
from fsbackup.stores.base import Orphan
from fsbackup.stores.s3.bucket import Bucket, require_field
from fsbackup.stores.s3.errors import CallContext, code_of
from fsbackup.stores.s3.listing import list_objects
from fsbackup.stores.s3.reading import read_range
from fsbackup.stores.s3.removing import remove_object
from fsbackup.stores.s3.uploads import UPLOADS, UploadRecord, abort


async def list_orphans(bucket: Bucket, older_than: float) -> AsyncIterator[Orphan]:
    """Yield the recorded uploads whose record and latest part are older than `older_than` seconds."""
    before = time.time() - older_than
    async for item in list_objects(bucket, UPLOADS, ""):
        if item.modified is None or item.modified > before:
            continue
        record = await _read_record(bucket, item.name)
        if record is not None and (found := await _orphan_of(bucket, record, before)) is not None:
            yield found


async def delete_orphan(bucket: Bucket, orphan: Orphan) -> None:
    """Abort a recorded upload if it still exists, then remove its record.

    Raises
    ------
    ValueError
        When `orphan` is not of this kind of store.
    """
    if not orphan.name.startswith(UPLOADS):
        raise ValueError(f"{orphan.name!r} is not the record of an upload")
    record = await _read_record(bucket, orphan.name)
    if record is not None:
        await abort(bucket, bucket.context("remove", orphan.name), record)
        await remove_object(bucket, orphan.name)


async def _read_record(bucket: Bucket, name: str) -> UploadRecord | None:
    """Return a record, None when it is gone or is not a valid record of an upload."""
    try:
        data = b"".join(await read_range(bucket, name, 0, None, lambda _: None))
    except ObjectNotFoundError:
        return None  # the upload ended meanwhile
    try:
        record = UploadRecord(**json.loads(data))
        is_valid = record.record_name == name
    except (ValueError, TypeError, AttributeError):
        is_valid = False
    if is_valid:
        return record
    log.warning(
        "%s: %s is not a valid record of an upload; neither it nor an upload is removed", bucket.calls.name, name
    )
    return None


async def _orphan_of(bucket: Bucket, record: UploadRecord, before: float) -> Orphan | None:
    """Return the orphan, None when the upload has a recent part."""
    context = bucket.context("examine", record.record_name)
    try:
        size, latest = await _parts(bucket, context, record)
    except BackendError as error:
        if code_of(error) != "NoSuchUpload" and not isinstance(error, ObjectNotFoundError):
            raise
        what = f"record of a finished upload of {record.name!r}"
        return Orphan(record.record_name, record.started, 0, what)
    if latest > before:
        return None
    what = f"unfinished upload of {record.name!r} by {record.host}"
    return Orphan(record.record_name, record.started, size, what)


async def _parts(bucket: Bucket, context: CallContext, record: UploadRecord) -> tuple[int, float]:
    """Return the bytes of an upload's parts, and the time of the latest in epoch seconds (0.0 without parts)."""
    size, latest, marker = 0, 0.0, 0
    while True:
        page = await bucket.calls.request(
            context,
            "list_parts",
            **bucket.object_params(record.name),
            UploadId=record.upload_id,
            PartNumberMarker=marker,
        )
        for part in page.get("Parts", []):
            size += int(require_field(part, "Size", context))
            latest = max(latest, require_field(part, "LastModified", context).timestamp())
        following = int(page.get("NextPartNumberMarker", 0))
        if not page.get("IsTruncated") or following <= marker:
            return size, latest
        marker = following
