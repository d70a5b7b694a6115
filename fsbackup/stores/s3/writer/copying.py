"""Copies that the service makes itself, without a byte of data going through this machine."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Mapping
from dataclasses import replace
from urllib.parse import quote

from fsbackup.aio import map_some, shield
from fsbackup.errors import BackendError, ConflictError, FsbackupError, IntegrityError
from fsbackup.events import log
from fsbackup.sizing import MIB
from fsbackup.stores.base import ObjectStat, Part, WritePlan
from fsbackup.stores.s3.errors import CallContext, code_of
from fsbackup.stores.s3.http.bucket import Bucket
from fsbackup.stores.s3.http.requests import Reply, Request
from fsbackup.stores.s3.http.responses import MD5, ObjectInfo, from_headers, read_small, to_headers, unquoted
from fsbackup.stores.s3.writer.commit import Condition
from fsbackup.stores.s3.writer.uploads import (
    CONTENT_TYPE,
    OpenUpload,
    Payload,
    SentPart,
    abort,
    complete,
    create_upload,
    field_of,
    remove_note,
)
from fsbackup.stores.s3.writer.writer import S3Writer

#: Largest object that one CopyObject takes (Amazon S3, R2 and B2); larger ones are copied part by part.
MAX_COPY = 5 * 1024 * MIB
#: Bytes of a part.
PART = 1024 * MIB
_REPLACE = {"Content-Type": CONTENT_TYPE, "x-amz-metadata-directive": "REPLACE"}
#: What else an object has beside its bytes and user metadata; a copy that replaces these has only what is sent.
_SYSTEM_HEADERS = (
    "Cache-Control",
    "Content-Disposition",
    "Content-Encoding",
    "Content-Language",
    "Content-Type",
    "Expires",
    "x-amz-storage-class",
    "x-amz-website-redirect-location",
)


class S3Copier(S3Writer):
    """Has the service copy an object of one part by one request, or part by part; see `ObjectStore.copier`.

    Parameters
    ----------
    source
        The object, by its whole key in the bucket.
    etag
        The one that the bytes have: that of the object, or of its parts one by one.
    """

    def __init__(
        self, bucket: Bucket, name: str, plan: WritePlan, source: ObjectStat, etag: str, concurrency: int
    ) -> None:
        super().__init__(bucket, name, plan, lambda _: None, concurrency)
        self._source = source
        self._etag = etag
        self._part_size = plan.part_size

    async def write(self, part: Part) -> None:
        """Fail: the service has the bytes."""
        raise NotImplementedError

    async def copy(self) -> None:
        """Copy the parts, and compare what the service says of them with the ETag of the whole."""
        if not MD5.fullmatch(self._etag):
            await self._upload()
            numbers = range(1, -(-self._source.size // self._part_size) + 1)
            await map_some(self._copy_part, numbers, self.concurrency)
            if self._sent_payload.etag != self._etag:
                raise self._differs("the ETags of its parts are not those of the content")
        elif self._source.etag != self._etag:
            raise self._differs(f"its ETag is not {self._etag}")

    async def commit(self, metadata: Mapping[str, str] | None = None) -> ObjectStat:
        """Complete the upload, or copy the object of one part; confirm it."""
        if self._sent:
            return await super().commit(metadata)
        self._commit.add_metadata(metadata or {})
        stat = await self._commit.run(Payload(self._source.size, self._etag, must_match=True), self._copy_object)
        self._finished = True
        return stat

    async def _copy_object(self, condition: Condition) -> ObjectInfo:
        named = to_headers(self._commit.metadata)
        prefix = self._bucket.profile.copy_condition
        conditions = {f"{prefix}{name}": value for name, value in condition.items()}
        try:
            reply = await _copy(self._bucket, self._name, self._source, {**named, **_REPLACE, **conditions})
        except BackendError as error:
            if code_of(error) != "NotImplemented":
                raise
            # Says nothing of the condition of a write: `Commit` would do without it from now on.
            raise self._context.error(BackendError, "the service does not make this copy") from error
        etag = unquoted(field_of(reply.content, "ETag", self._context))
        return replace(from_headers(reply.headers), etag=etag)

    async def _copy_part(self, number: int) -> None:
        upload, size = await self._upload(), self._source.size
        start, end = (number - 1) * self._part_size, min(number * self._part_size, size)
        etag = await _copy_part(self._bucket, self._name, self._source, upload.id, number, start, end)
        if not MD5.fullmatch(unquoted(etag) or ""):
            raise self._differs(f"the ETag of part {number} is no MD5")
        md5 = bytes.fromhex(unquoted(etag) or "")
        self._sent[number] = SentPart(number, end - start, md5, end == size, etag)

    def _differs(self, problem: str) -> IntegrityError:
        error: IntegrityError = self._context.error(
            IntegrityError, f"what the service would copy is not what was recorded: {problem}"
        )
        return error


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
    source = replace(stat, name=bucket.prefix + stat.name)
    system = await _system_headers(bucket, context, stat.name)
    try:
        if stat.size <= MAX_COPY:
            await _copy(bucket, stat.name, source, {**to_headers(metadata), **_REPLACE, **system})
        else:
            await _copy_parts(bucket, stat.name, source, metadata, system)
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


async def _system_headers(bucket: Bucket, context: CallContext, name: str) -> dict[str, str]:
    headers = (await bucket.head_reply(context, name)).headers
    return {each: headers[each.lower()] for each in _SYSTEM_HEADERS if each.lower() in headers}


async def _copy(
    bucket: Bucket,
    name: str,
    source: ObjectStat,
    headers: Mapping[str, str],
    query: tuple[tuple[str, str], ...] = (),
) -> Reply[bytes]:
    """Send CopyObject, or with `query` UploadPartCopy; `source` is an object by its whole key."""
    # Quoted as in a path: a service may read a `+` as a space.
    quoted = quote(f"{bucket.name}/{source.name}", safe="/~", errors="surrogateescape")
    condition = {} if source.etag is None else {"x-amz-copy-source-if-match": f'"{source.etag}"'}
    request = Request("PUT", bucket.prefix + name, query, {**headers, "x-amz-copy-source": quoted, **condition})
    return await bucket.send(bucket.context("write", name), request, read_small)


async def _copy_parts(
    bucket: Bucket, name: str, source: ObjectStat, metadata: Mapping[str, str], headers: Mapping[str, str]
) -> None:
    creation = asyncio.ensure_future(create_upload(bucket, name, metadata, secrets.token_hex(16), headers))
    spans = enumerate(range(0, source.size, PART), 1)
    try:
        upload = await asyncio.shield(creation)
        parts = [
            (number, await _copy_part(bucket, name, source, upload.id, number, at, min(at + PART, source.size)))
            for number, at in spans
        ]
        await complete(bucket, bucket.context("write", name), upload.id, parts)
    except BaseException:
        await shield(_discard(bucket, creation))
        raise
    await remove_note(bucket, upload)


async def _discard(bucket: Bucket, creation: Awaitable[OpenUpload]) -> None:
    """Abort an upload and remove its note; of what cannot be removed a repair takes care."""
    try:
        upload = await creation
    except FsbackupError:
        return  # it was not created
    for removal in (abort(bucket, upload.name, upload.id), remove_note(bucket, upload)):
        try:
            await removal
        except FsbackupError as error:
            log.warning("%s: cannot abort a copy of %r: %s", bucket.backend, upload.name, error)


async def _copy_part(
    bucket: Bucket, name: str, source: ObjectStat, upload: str, number: int, start: int, end: int
) -> str:
    """Copy the bytes from `start` up to `end` as one part; return its ETag."""
    query = (("partNumber", str(number)), ("uploadId", upload))
    reply = await _copy(bucket, name, source, {"x-amz-copy-source-range": f"bytes={start}-{end - 1}"}, query)
    return field_of(reply.content, "ETag", bucket.context("write", name))
