"""Writes one object: by one PutObject when it is one part, by a multipart upload otherwise."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Callable, Mapping

from fsbackup.aio import shield
from fsbackup.errors import BackendError, FsbackupError, IntegrityError
from fsbackup.events import log
from fsbackup.stores.base import ObjectStat, ObjectWriter, Part, WritePlan
from fsbackup.stores.s3.bucket import METADATA, Bucket, ObjectInfo, from_boto, require
from fsbackup.stores.s3.commit import Commit, Condition, Payload
from fsbackup.stores.s3.uploads import OpenUpload, abort, create_upload, delete_record

#: Seconds for aborting an unfinished upload.
_ABORT_TIMEOUT = 20.0
#: Not guessed from the name, and never with a Content-Encoding, which R2 would decode in responses.
_CONTENT_TYPE = "application/octet-stream"


class S3Writer(ObjectWriter):
    """Writes one object; see `fsbackup.stores.base.ObjectWriter`.

    Each PutObject and UploadPart carries a Content-MD5, which the service checks, and the ETag in the response is
    compared with the MD5 again. After a multipart upload, HEAD confirms the size, and the ETag where the provider
    documents its form.

    When the stored object differs from what was sent, `commit` raises `IntegrityError` and removes the wrong
    version, or the wrong object where there was none before (`create_only`, `is_new`). A wrong object that
    replaced one without versions stays, since removing it would leave nothing; so does what another writer stored.
    """

    def __init__(
        self, bucket: Bucket, name: str, plan: WritePlan, on_progress: Callable[[int], None], concurrency: int
    ) -> None:
        self.concurrency = concurrency
        self._bucket = bucket
        self._name = name
        self._context = bucket.context("write", name)
        self._on_progress = on_progress
        self._commit = Commit(bucket, name, plan)
        self._only_part: Part | None = None
        self._sent: dict[int, _SentPart] = {}
        self._upload_task: asyncio.Task[OpenUpload] | None = None
        self._running: set[asyncio.Task[_SentPart]] = set()
        self._may_land_late = False
        self._finished = False

    async def write(self, part: Part) -> None:
        """Send one part; an object's only part is kept, and `commit` sends it."""
        if part.number == 1 and part.last:
            self._only_part = part
            return
        if self._finished:
            raise self._context.error(BackendError, "the upload was already committed or aborted")
        sending = asyncio.ensure_future(self._send(part))
        self._running.add(sending)
        try:
            self._sent[part.number] = await sending
        finally:
            self._running.discard(sending)
            del sending  # its error and this frame would form a cycle

    async def commit(self, metadata: Mapping[str, str] | None = None) -> ObjectStat:
        """Store the object under its name and confirm it."""
        self._commit.add_metadata(metadata or {})
        if part := self._only_part:
            stat = await self._commit.run(Payload(len(part.data), part.md5.hex()), self._put)
        else:
            stat = await self._commit_parts()
        self._finished = True
        return stat

    async def rollback(self) -> None:
        """Remove the version that `commit` stored, where the bucket keeps versions."""
        await self._commit.rollback()

    async def abort(self) -> None:
        """Abort the upload; what cannot be removed is logged."""
        if not self._finished:
            self._finished = True
            await shield(self._clean_up())

    async def _put(self, condition: Condition) -> ObjectInfo:
        assert self._only_part is not None
        headers = {f"{METADATA}{name}": value for name, value in self._commit.metadata.items()}
        headers |= {"Content-Type": _CONTENT_TYPE, "Content-MD5": _base64(self._only_part.md5), **condition}
        return await self._bucket.put(self._context, self._name, self._only_part.data, headers, self._on_progress)

    async def _send(self, part: Part) -> _SentPart:
        upload = await self._upload()
        try:
            info = await self._bucket.put(
                self._context,
                self._name,
                part.data,
                {"Content-MD5": _base64(part.md5)},
                self._on_progress,
                (("partNumber", str(part.number)), ("uploadId", upload.id)),
            )
        except BaseException:
            self._may_land_late = True  # the service may still store it, even after the abort
            raise
        if info.md5() not in (None, part.md5.hex()):
            raise self._context.error(
                IntegrityError, f"the ETag of part {part.number} is not the MD5 of the bytes sent"
            )
        return _SentPart(part, f'"{require(info.etag, "ETag", self._context)}"')

    async def _upload(self) -> OpenUpload:
        """Return the upload. The first part creates it; cancelling that part does not cancel the creation."""
        if self._upload_task is None:
            creation = create_upload(
                self._bucket, self._name, ContentType=_CONTENT_TYPE, Metadata=self._commit.metadata
            )
            self._upload_task = asyncio.ensure_future(creation)
        return await asyncio.shield(self._upload_task)

    async def _commit_parts(self) -> ObjectStat:
        parts = self._parts()
        if [done.number for done in parts] != list(range(1, len(parts) + 1)) or not parts or not parts[-1].last:
            raise self._context.error(BackendError, "parts are missing; nothing was stored")
        upload = await self._upload()
        stat = await self._commit.run(_payload_of(parts), self._complete)
        try:
            await delete_record(self._bucket, self._context, upload)
        except FsbackupError as error:  # the object is stored; `orphans` finds the record later
            log.info(
                "%s: cannot remove the record of an upload of %r: %s", self._bucket.calls.name, self._name, error
            )
        return stat

    async def _complete(self, condition: Condition) -> ObjectInfo:
        upload = await self._upload()
        listed = [{"PartNumber": done.number, "ETag": done.etag} for done in self._parts()]
        response = await self._bucket.calls.request(
            self._context,
            "complete_multipart_upload",
            **self._bucket.object_params(self._name),
            **{name.replace("-", ""): value for name, value in condition.items()},
            UploadId=upload.id,
            MultipartUpload={"Parts": listed},
        )
        return from_boto(response)

    def _parts(self) -> list[_SentPart]:
        return [self._sent[number] for number in sorted(self._sent)]

    async def _clean_up(self) -> None:
        for sending in self._running:
            sending.cancel()
        try:
            async with asyncio.timeout(_ABORT_TIMEOUT):
                await asyncio.gather(*self._running, return_exceptions=True)
                await self._abort_upload()
        except (FsbackupError, TimeoutError) as error:
            log.warning("%s: cannot abort the upload of %r: %s", self._bucket.calls.name, self._name, error)

    async def _abort_upload(self) -> None:
        if self._upload_task is None:
            return
        try:
            upload = await self._upload_task
        except FsbackupError:
            return  # it was not created, or its UploadId is unknown
        # Amazon S3, AbortMultipartUpload: a part in flight may need a second abort.
        for _ in range(2 if self._may_land_late else 1):
            if not await abort(self._bucket, self._context, upload.record):
                break
        await delete_record(self._bucket, self._context, upload)


class _SentPart:
    """A part that has been sent, without its bytes."""

    __slots__ = ("etag", "last", "md5", "number", "size")

    def __init__(self, part: Part, etag: str) -> None:
        self.number = part.number
        self.size = len(part.data)
        self.md5 = part.md5
        self.last = part.last
        self.etag = etag


def _payload_of(parts: list[_SentPart]) -> Payload:
    md5s = b"".join(done.md5 for done in parts)
    etag = f"{hashlib.md5(md5s, usedforsecurity=False).hexdigest()}-{len(parts)}"
    return Payload(sum(done.size for done in parts), etag, parts=True)


def _base64(md5: bytes) -> str:
    return base64.b64encode(md5).decode()
