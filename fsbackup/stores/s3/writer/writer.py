"""`S3Writer`: writes one object, by one PutObject when it is one part, by a multipart upload otherwise.

It sends the parts; `Commit` makes the object of them visible and confirms it.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping

from fsbackup.aio import shield
from fsbackup.errors import (
    BackendError,
    ConflictError,
    FsbackupError,
    IntegrityError,
)
from fsbackup.events import log
from fsbackup.stores.base import ObjectStat, ObjectWriter, Part, WritePlan
from fsbackup.stores.s3.control.removing import remove_object
from fsbackup.stores.s3.http.bucket import Bucket
from fsbackup.stores.s3.http.responses import ObjectInfo, require, to_headers
from fsbackup.stores.s3.writer.commit import Commit, Condition
from fsbackup.stores.s3.writer.uploads import (
    CONTENT_TYPE,
    OpenUpload,
    Payload,
    SentPart,
    abort,
    complete,
    content_md5,
    create_upload,
    payload_of,
    remove_note,
)

#: Seconds for aborting an unfinished upload.
_ABORT_TIMEOUT = 20.0


class S3Writer(ObjectWriter):
    """Writes one object; see `fsbackup.stores.base.ObjectWriter`.

    Each PutObject and UploadPart carries a Content-MD5, which the service checks, and the ETag in the response is
    compared with the MD5 again; so is that of a multipart upload where the provider documents its form. Where an
    answer has no such ETag, HEAD confirms the size.

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
        self._sent: dict[int, SentPart] = {}
        self._upload_task: asyncio.Task[OpenUpload] | None = None
        self._running: set[asyncio.Task[SentPart]] = set()
        self._may_land_late = False
        self._is_completing = self._is_refused = False
        #: Whether the caller writes the object's record over the note.
        self._writes_record = plan.record_id is not None and not bucket.profile.writes_slowly
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

    async def can_roll_back(self) -> bool:
        """Tell whether the version that `commit` stored is current and replaced another one."""
        return await self._commit.can_roll_back()

    async def rollback(self) -> None:
        """Remove the version that `commit` stored, where the bucket keeps versions."""
        await self._commit.rollback()

    async def abort(self) -> None:
        """Abort the upload; what cannot be removed is logged."""
        if not self._finished:
            self._finished = True
            await shield(self._clean_up())

    def _put(self, condition: Condition) -> Awaitable[ObjectInfo]:
        assert self._only_part is not None
        headers = to_headers(self._commit.metadata)
        headers |= {"Content-Type": CONTENT_TYPE, "Content-MD5": content_md5(self._only_part.md5), **condition}
        return self._bucket.put(self._context, self._name, self._only_part.data, headers, self._on_progress)

    async def _send(self, part: Part) -> SentPart:
        upload = await self._upload()
        try:
            info = await self._bucket.put(
                self._context,
                self._name,
                part.data,
                {"Content-MD5": content_md5(part.md5)},
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
        etag = f'"{require(info.etag, "ETag", self._context)}"'
        return SentPart(part.number, len(part.data), part.md5, part.last, etag)

    async def _upload(self) -> OpenUpload:
        """Return the upload. The first part creates it; cancelling that part does not cancel the creation."""
        if self._upload_task is None:
            note_id = self._commit.tag if self._writes_record else secrets.token_hex(16)
            creation = create_upload(self._bucket, self._name, self._commit.metadata, note_id)
            self._upload_task = asyncio.ensure_future(creation)
        upload = await asyncio.shield(self._upload_task)
        self.upload_id = upload.id if self._writes_record else None
        return upload

    async def _commit_parts(self) -> ObjectStat:
        parts = self._parts()
        if [done.number for done in parts] != list(range(1, len(parts) + 1)) or not parts or not parts[-1].last:
            raise self._context.error(BackendError, "parts are missing; nothing was stored")
        upload = await self._upload()
        self._is_completing = True
        try:
            stat = await self._commit.run(self._sent_payload, self._complete)
        except ConflictError:
            self._is_refused = True
            raise
        if upload.version or not self._writes_record:
            await self._remove_note(upload)
        return stat

    async def _remove_note(self, upload: OpenUpload) -> None:
        """Remove the note, if no record was written over it, or it is an older version of the record."""
        try:
            await remove_note(self._bucket, upload)
        except FsbackupError as error:  # the object is stored; a repair removes what is left
            log.info("%s: cannot remove the note of an upload of %r: %s", self._bucket.backend, self._name, error)

    async def _complete(self, condition: Condition) -> ObjectInfo:
        upload = await self._upload()
        parts = ((done.number, done.etag) for done in self._parts())
        return await complete(self._bucket, self._context, upload.id, parts, condition)

    @property
    def _sent_payload(self) -> Payload:
        return payload_of(self._parts())

    def _parts(self) -> list[SentPart]:
        return [self._sent[number] for number in sorted(self._sent)]

    async def _clean_up(self) -> None:
        for sending in self._running:
            sending.cancel()
        try:
            async with asyncio.timeout(_ABORT_TIMEOUT):
                await asyncio.gather(*self._running, return_exceptions=True)
                await self._abort_upload()
        except (FsbackupError, TimeoutError) as error:
            log.warning("%s: cannot abort the upload of %r: %s", self._bucket.backend, self._name, error)

    async def _abort_upload(self) -> None:
        if self._upload_task is None:
            return
        try:
            upload = await self._upload_task
        except FsbackupError:
            return  # it was not created, or its UploadId is unknown
        was_open = await abort(self._bucket, self._name, upload.id)
        if was_open and self._may_land_late:
            # Amazon S3, AbortMultipartUpload: a part in flight may need a second abort.
            await abort(self._bucket, self._name, upload.id)
        if await self._is_over(was_open=was_open):
            await remove_object(self._bucket, upload.note)

    async def _is_over(self, *, was_open: bool) -> bool:
        """Return whether no object will come of the upload that has the record in the place of the note."""
        if not self._writes_record or not self._is_completing:
            return True
        # Some services say that they aborted what they have completed; what was not even refused may be to come.
        return (was_open or self._is_refused) and not await self._commit.is_stored()
