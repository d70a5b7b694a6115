"""Multipart uploads, each with a note by which fsbackup recognises its own.

The metadata of an unfinished upload cannot be read, so no S3 service tells whose upload it is. Therefore
`create_upload` stores a note with the UploadId before the first part is sent, in the place of the object's record
(``.fsbackup/records/NAME/ID``, where the ID is the object's upload tag, too). A caller that has a record of the
object writes it over the note before the upload is completed, and the record goes on to name the upload. Without a
record, and for a service that refuses two writes of a name so soon, the note has an ID of its own; the writer
removes it.

A killed process leaves an upload with a note or record, or one without parts, whose owner is unknown. A record is
removed after these checks, in this order: its upload is not listed any more, HEAD shows another ID, and the record
is old. In reverse order, an upload that is completed in between would lose its record.
"""

from __future__ import annotations

import base64
import hashlib
import socket
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import NamedTuple

from fsbackup.errors import BackendError, FsbackupError, ObjectNotFoundError, TransientError
from fsbackup.keys import RECORDS
from fsbackup.record import upload_note, upload_of
from fsbackup.stores.base import ObjectStat, Orphan, parts_etag
from fsbackup.stores.s3.control.listing import list_objects, list_uploads, upload_parts
from fsbackup.stores.s3.control.removing import remove_object
from fsbackup.stores.s3.errors import BadXmlError, CallContext, code_of, parse_xml
from fsbackup.stores.s3.http.bucket import MAX_RECORD, Bucket
from fsbackup.stores.s3.http.requests import Request
from fsbackup.stores.s3.http.responses import (
    XML_NAMESPACE,
    ObjectInfo,
    from_headers,
    read_small,
    require,
    to_headers,
    unquoted,
)

#: User metadata that identifies one upload, for when the response to its last request is lost.
UPLOAD_TAG = "fsbackup-upload"
#: Not guessed from the name, and never with a Content-Encoding, which R2 would decode in responses.
CONTENT_TYPE = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class OpenUpload:
    """An unfinished upload: the object's name, the UploadId, the note's name, its version where there are any."""

    name: str
    id: str
    note: str
    version: str | None


class SentPart(NamedTuple):
    """A part that has been sent, without its bytes."""

    number: int
    size: int
    md5: bytes
    last: bool
    etag: str


def payload_of(parts: list[SentPart]) -> Payload:
    """Return what the object of these parts should be."""
    etag = parts_etag([done.md5 for done in parts])
    return Payload(sum(done.size for done in parts), etag, parts=True)


def content_md5(md5: bytes) -> str:
    """Return the value of a Content-MD5."""
    return base64.b64encode(md5).decode()


@dataclass(frozen=True, slots=True)
class Payload:
    """The size of what was sent, and its ETag where ETags are MD5s (`parts`: an MD5 of the parts' MD5s).

    `must_match`: the ETag is the only proof.
    """

    size: int
    etag: str
    parts: bool = False
    must_match: bool = False


async def create_upload(
    bucket: Bucket,
    name: str,
    metadata: Mapping[str, str],
    note_id: str,
    headers: Mapping[str, str] = MappingProxyType({}),
) -> OpenUpload:
    """Create an upload and its note; on failure neither remains. `headers` are those of the object besides."""
    context = bucket.context("write", name)
    sent = {"Content-Type": CONTENT_TYPE, **to_headers(metadata), **headers}
    request = Request("POST", bucket.prefix + name, (("uploads", ""),), sent)
    reply = await bucket.send(context, request, read_small)
    bucket.mark_exists()
    upload = OpenUpload(name, field_of(reply.content, "UploadId", context), f"{RECORDS}{name}/{note_id}", None)
    try:
        return replace(upload, version=await _write_note(bucket, context, upload))
    except FsbackupError:
        with suppress(FsbackupError):
            await abort(bucket, name, upload.id)
        raise


async def _write_note(bucket: Bucket, context: CallContext, upload: OpenUpload) -> str | None:
    data = upload_note(upload.id, socket.gethostname(), datetime.now(UTC).isoformat())
    md5 = hashlib.md5(data, usedforsecurity=False).digest()
    headers = {"Content-Type": "application/json", "Content-MD5": content_md5(md5)}
    return (await bucket.put(context, upload.note, data, headers, lambda _: None)).version_id


async def remove_note(bucket: Bucket, upload: OpenUpload) -> None:
    """Remove the note of an upload that has ended; what was written over it stays where there are versions."""
    await bucket.delete(bucket.context("write", upload.name), upload.note, upload.version)


async def complete(
    bucket: Bucket,
    context: CallContext,
    upload_id: str,
    parts: Iterable[tuple[int, str]],
    condition: Mapping[str, str] | None = None,
) -> ObjectInfo:
    """Send CompleteMultipartUpload with the numbers and ETags of the parts, in ascending order."""
    from html import escape

    listed = "".join(
        f"<Part><PartNumber>{number}</PartNumber><ETag>{escape(etag, quote=False)}</ETag></Part>"
        for number, etag in parts
    )
    body = f'<CompleteMultipartUpload xmlns="{XML_NAMESPACE}">{listed}</CompleteMultipartUpload>'.encode()
    headers = {**(condition or {}), "Content-Type": "application/xml"}
    request = Request("POST", bucket.prefix + context.key, (("uploadId", upload_id),), headers, body)
    # A failure may come after the head of the response.
    reply = await bucket.send(context, request, read_small)
    return replace(from_headers(reply.headers), etag=unquoted(field_of(reply.content, "ETag", context)))


def field_of(body: bytes, tag: str, context: CallContext) -> str:
    """Return a required text of a response."""
    try:
        root = parse_xml(body)
    except BadXmlError as error:
        raise context.error(TransientError, f"the response cannot be read: {error}") from None
    return str(require(root.findtext(tag), tag, context))


async def abort(bucket: Bucket, name: str, upload_id: str) -> bool:
    """Abort an upload; return False when it no longer exists."""
    request = Request("DELETE", bucket.prefix + name, (("uploadId", upload_id),))
    try:
        await bucket.send(bucket.context("write", name), request, read_small)
    except BackendError as error:
        if not _is_gone(error):
            raise
        return False
    return True


def _is_gone(error: BackendError) -> bool:
    return code_of(error) == "NoSuchUpload" or isinstance(error, ObjectNotFoundError)


async def list_orphans(bucket: Bucket, older_than: float) -> AsyncIterator[Orphan]:
    """Yield fsbackup's uploads whose note and latest part are older than `older_than` seconds."""
    before = time.time() - older_than
    async for name, upload_id, _ in list_uploads(bucket):
        async for record in list_objects(bucket, f"{RECORDS}{name}/", ""):
            upload = await _upload_of(bucket, record.name) if _name_of(record) == name else None
            is_its = upload is not None and upload[0] == upload_id
            if upload and is_its and (found := await _orphan_of(bucket, record, upload, before)):
                yield found


def _name_of(record: ObjectStat) -> str:
    """Return the name of the object that a record is of."""
    return record.name.removeprefix(RECORDS).rpartition("/")[0]


async def _upload_of(bucket: Bucket, record: str) -> tuple[str, str] | None:
    """Return UploadId and host of a record, None when it is gone or names no upload."""
    try:
        return upload_of(b"".join(await bucket.get(record, 0, None, lambda _: None, MAX_RECORD)))
    except ObjectNotFoundError:
        return None  # the upload ended meanwhile


async def _orphan_of(bucket: Bucket, record: ObjectStat, upload: tuple[str, str], before: float) -> Orphan | None:
    """Return the orphan, None when the upload has a recent part or note, or has ended."""
    name, (upload_id, host), started = _name_of(record), upload, record.modified or 0.0
    size, latest = 0, started
    try:
        async for part_size, modified in upload_parts(bucket, name, upload_id):
            size, latest = size + part_size, max(latest, modified)
    except BackendError as error:
        if not _is_gone(error):
            raise
        return None
    description = f"unfinished upload of {name!r} by {host}"
    return None if latest > before else Orphan(record.name, started, size, description)


def is_of_upload(head: ObjectInfo | None, tag: str) -> bool:
    """Tell whether HEAD shows the object of the upload `tag`."""
    return head is not None and (head.metadata or {}).get(UPLOAD_TAG) == tag


async def delete_orphan(bucket: Bucket, orphan: Orphan) -> None:
    """Abort an upload if it still exists, then remove its record, unless it was completed just before.

    Raises
    ------
    ValueError
        When `orphan` is not of this kind of store.
    """
    if not orphan.name.startswith(RECORDS):
        raise ValueError(f"{orphan.name!r} is not the record of an upload")
    name, _, tag = orphan.name.removeprefix(RECORDS).rpartition("/")
    upload = await _upload_of(bucket, orphan.name)
    if upload is not None and await abort(bucket, name, upload[0]):
        head = await bucket.head(name, "remove")
        if not is_of_upload(head, tag):
            await remove_object(bucket, orphan.name)
