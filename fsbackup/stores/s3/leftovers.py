"""Unfinished multipart uploads of ours: those that are recorded, and that nothing has moved in for a while."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator

from fsbackup.errors import BackendError, ObjectNotFoundError
from fsbackup.events import log
from fsbackup.stores.base import Orphan
from fsbackup.stores.s3.errors import CallContext, code_of
from fsbackup.stores.s3.listing import list_objects
from fsbackup.stores.s3.reading import read_range
from fsbackup.stores.s3.removing import remove_object
from fsbackup.stores.s3.target import Bucket, require_field
from fsbackup.stores.s3.uploads import UPLOADS, UploadRecord, abort


async def find_orphans(target: Bucket, older_than: float) -> AsyncIterator[Orphan]:
    """Yield the recorded uploads of which nothing is younger than `older_than` seconds."""
    before = time.time() - older_than
    async for item in list_objects(target, UPLOADS, ""):
        if item.modified is None or item.modified > before:
            continue
        record = await _read(target, item.name)
        if record is not None and (found := await _examine(target, record, before)) is not None:
            yield found


async def delete_orphan(target: Bucket, leftover: Orphan) -> None:
    """Abort a recorded upload where it is still going on, then remove its record.

    Raises
    ------
    ValueError
        When `leftover` is not of this kind of store.
    """
    if not leftover.name.startswith(UPLOADS):
        raise ValueError(f"{leftover.name!r} is not the record of an upload")
    record = await _read(target, leftover.name)
    if record is not None:
        await abort(target, target.where("discard", leftover.name), record)
        await remove_object(target, leftover.name)


async def _read(target: Bucket, name: str) -> UploadRecord | None:
    """Return a record, None when it is gone, or when it is not what we write under such a name."""
    try:
        data = b"".join(await read_range(target, name, 0, None, lambda _: None))
    except ObjectNotFoundError:
        return None  # the upload ended meanwhile
    try:
        record = UploadRecord(**json.loads(data))
        ours = record.stored_as == name
    except (ValueError, TypeError, AttributeError):
        ours = False
    if ours:
        return record
    log.warning("%s: %s is no record of an upload: it stays, and so does the upload", target.calls.name, name)
    return None


async def _examine(target: Bucket, record: UploadRecord, before: float) -> Orphan | None:
    """Return the leftover, None while the upload still moves."""
    where = target.where("examine", record.stored_as)
    try:
        size, latest = await _parts(target, where, record)
    except BackendError as error:
        if code_of(error) != "NoSuchUpload" and not isinstance(error, ObjectNotFoundError):
            raise
        what = f"record of an upload of {record.name!r} that has ended"
        return Orphan(record.stored_as, record.started, 0, what)
    if latest > before:
        return None
    what = f"unfinished upload of {record.name!r} by {record.host}"
    return Orphan(record.stored_as, record.started, size, what)


async def _parts(target: Bucket, where: CallContext, record: UploadRecord) -> tuple[int, float]:
    """Return the bytes of an upload's parts, and when the latest of them came (0.0: there are none)."""
    size, latest, marker = 0, 0.0, 0
    while True:
        page = await target.calls.request(
            where,
            "list_parts",
            **target.at(record.name),
            UploadId=record.upload_id,
            PartNumberMarker=marker,
        )
        for part in page.get("Parts", []):
            size += int(require_field(part, "Size", where))
            latest = max(latest, require_field(part, "LastModified", where).timestamp())
        following = int(page.get("NextPartNumberMarker", 0))
        if not page.get("IsTruncated") or following <= marker:
            return size, latest
        marker = following
