"""Multipart uploads, with the record by which fsbackup recognises each of its own, and copies inside the service.

The metadata of an unfinished upload cannot be read, so no S3 service tells whose upload it is. Therefore
`create_upload` stores the UploadId as a small object before the first part is sent, and `delete_record` removes it
after the upload. A kill leaves an upload with a record, or one without parts.
"""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from urllib.parse import quote
from xml.sax.saxutils import escape

from fsbackup.errors import BackendError, ConflictError, FsbackupError, ObjectNotFoundError, TransientError
from fsbackup.events import log
from fsbackup.keys import META_PREFIX
from fsbackup.sizing import MIB
from fsbackup.stores.base import ObjectStat, Orphan
from fsbackup.stores.s3.bucket import METADATA, XML_NAMESPACE, Bucket, ObjectInfo, from_headers, require, unquoted
from fsbackup.stores.s3.errors import BadXmlError, CallContext, code_of, parse_xml
from fsbackup.stores.s3.listing import list_objects
from fsbackup.stores.s3.removing import remove_object
from fsbackup.stores.s3.requests import Request, read_small

#: Most bytes of a record.
MAX_RECORD = 64 * 1024
UPLOADS = f"{META_PREFIX}uploads/"
#: Not guessed from the name, and never with a Content-Encoding, which R2 would decode in responses.
CONTENT_TYPE = "application/octet-stream"
#: Largest object that one CopyObject takes (Amazon S3, R2 and B2); larger ones are copied part by part.
MAX_COPY = 5 * 1024 * MIB
#: Bytes of a part.
PART = 1024 * MIB


@dataclass(frozen=True, slots=True)
class UploadRecord:
    """The record of an upload: the object's name, the UploadId, the start in epoch seconds, the host."""

    name: str
    upload_id: str
    started: float
    host: str

    @property
    def record_name(self) -> str:
        """The name under which the record is stored, a hash, since an UploadId is too long and of any form."""
        return f"{UPLOADS}{hashlib.sha256(self.upload_id.encode()).hexdigest()[:32]}"


@dataclass(frozen=True, slots=True)
class OpenUpload:
    """An unfinished upload, and the version of its record where the bucket keeps versions."""

    record: UploadRecord
    version: str | None

    @property
    def id(self) -> str:
        """The UploadId."""
        return self.record.upload_id


async def create_upload(bucket: Bucket, name: str, metadata: Mapping[str, str]) -> OpenUpload:
    """Create an upload and its record; on failure neither remains."""
    context = bucket.context("write", name)
    record = UploadRecord(name, await _create(bucket, context, metadata), time.time(), socket.gethostname())
    try:
        return OpenUpload(record, await _write_record(bucket, context, record))
    except FsbackupError:
        with suppress(FsbackupError):
            await abort(bucket, context, record)
        raise


async def _create(bucket: Bucket, context: CallContext, metadata: Mapping[str, str]) -> str:
    """Send CreateMultipartUpload, and return the UploadId."""
    headers = {f"{METADATA}{name}": value for name, value in metadata.items()} | {"Content-Type": CONTENT_TYPE}
    request = Request("POST", bucket.prefix + context.key, (("uploads", ""),), headers)
    reply = await bucket.calls.send(context, request, read_small)
    bucket.mark_exists()
    return _field(reply.content, "UploadId", context)


async def complete(
    bucket: Bucket,
    context: CallContext,
    upload_id: str,
    parts: Iterable[tuple[int, str]],
    condition: Mapping[str, str] | None = None,
) -> ObjectInfo:
    """Send CompleteMultipartUpload with the numbers and ETags of the parts, in ascending order."""
    listed = "".join(
        f"<Part><PartNumber>{number}</PartNumber><ETag>{escape(etag)}</ETag></Part>" for number, etag in parts
    )
    body = f'<CompleteMultipartUpload xmlns="{XML_NAMESPACE}">{listed}</CompleteMultipartUpload>'.encode()
    headers = {**(condition or {}), "Content-Type": "application/xml"}
    request = Request("POST", bucket.prefix + context.key, (("uploadId", upload_id),), headers, body)
    # A failure may come after the head of the response.
    reply = await bucket.calls.send(context, request, read_small)
    return replace(from_headers(reply.headers), etag=unquoted(_field(reply.content, "ETag", context)))


def _field(body: bytes, tag: str, context: CallContext) -> str:
    """Return a required text of a response."""
    try:
        root = parse_xml(body)
    except BadXmlError as error:
        raise context.error(TransientError, f"the response cannot be read: {error}") from None
    return str(require(root.findtext(tag), tag, context))


async def _write_record(bucket: Bucket, context: CallContext, record: UploadRecord) -> str | None:
    data = json.dumps(asdict(record)).encode()
    md5 = hashlib.md5(data, usedforsecurity=False).digest()
    headers = {"Content-Type": "application/json", "Content-MD5": base64.b64encode(md5).decode()}
    return (await bucket.put(context, record.record_name, data, headers, lambda _: None)).version_id


async def abort(bucket: Bucket, context: CallContext, record: UploadRecord) -> bool:
    """Abort an upload; return False when it no longer exists."""
    request = Request("DELETE", bucket.prefix + record.name, (("uploadId", record.upload_id),))
    try:
        await bucket.calls.send(context, request, read_small)
    except BackendError as error:
        if code_of(error) != "NoSuchUpload" and not isinstance(error, ObjectNotFoundError):
            raise
        return False
    return True


async def delete_record(bucket: Bucket, context: CallContext, upload: OpenUpload) -> None:
    """Remove the record of a completed or aborted upload."""
    await bucket.delete(context, upload.record.record_name, upload.version)


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
        data = b"".join(await bucket.get(name, 0, None, lambda _: None, MAX_RECORD))
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
            size += int(require(part.get("Size"), "Size", context))
            latest = max(latest, require(part.get("LastModified"), "LastModified", context).timestamp())
        following = int(page.get("NextPartNumberMarker", 0))
        if not page.get("IsTruncated") or following <= marker:
            return size, latest
        marker = following


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
    upload_id = await _create(bucket, context, metadata)
    try:
        parts = [
            (number, await _copy_part(bucket, stat, upload_id, number))
            for number in range(1, -(-stat.size // PART) + 1)
        ]
        await complete(bucket, context, upload_id, parts)
    except BaseException:
        await abort(bucket, context, UploadRecord(stat.name, upload_id, 0.0, ""))
        raise


async def _copy_part(bucket: Bucket, stat: ObjectStat, upload: str, number: int) -> str:
    start, context = (number - 1) * PART, bucket.context("write", stat.name)
    span = f"bytes={start}-{min(start + PART, stat.size) - 1}"
    query = (("partNumber", str(number)), ("uploadId", upload))
    return _field(await _copy(bucket, stat, {"x-amz-copy-source-range": span}, query), "ETag", context)
