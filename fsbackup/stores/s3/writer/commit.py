"""`Commit`: the one request that makes an object visible, and the proof that it did.

The request is PutObject or CompleteMultipartUpload, with ``If-None-Match`` for a create-only write. When the
response is lost, HEAD shows by the upload tag whether the object was stored. Then the ETag is compared with what
was sent, or the size where it is not made of the content; a wrong object is removed where that loses nothing.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping

from fsbackup.errors import (
    AccessDeniedError,
    BackendError,
    ConflictError,
    FsbackupError,
    IntegrityError,
    ObjectNotFoundError,
    TransientError,
)
from fsbackup.events import log
from fsbackup.stores.base import SHOWN_AFTER, ObjectStat, WritePlan
from fsbackup.stores.s3.control.listing import versions_of
from fsbackup.stores.s3.control.removing import remove_object, replaced_version
from fsbackup.stores.s3.errors import CallContext, code_of
from fsbackup.stores.s3.http.bucket import Bucket
from fsbackup.stores.s3.http.responses import ObjectInfo
from fsbackup.stores.s3.writer.uploads import UPLOAD_TAG, Payload, is_of_upload

#: The headers that make a write conditional.
Condition = Mapping[str, str]
#: Makes the request with a condition.
Send = Callable[[Condition], Awaitable[ObjectInfo]]
#: Seconds for the HEAD after a lost response, or this share of the timeout if that is more: after a whole timeout
#: without a response, the upload does not wait for another one.
_CONFIRM_TIMEOUT, _CONFIRM_SHARE = 1.0, 0.1


class Commit:
    """Stores one object under its name by one request, and confirms it."""

    def __init__(self, bucket: Bucket, name: str, plan: WritePlan) -> None:
        self._bucket = bucket
        self._name = name
        self._plan = plan
        self._context: CallContext = bucket.context("write", name)
        #: Random: identifies the object of this upload, and its record where it has one of its own.
        self.tag = plan.record_id or secrets.token_hex(16)
        self._version: str | None = None
        self._added: dict[str, str] = {}
        #: False when the service has refused the ETag that it shows.
        self._compares_etags = True

    @property
    def metadata(self) -> dict[str, str]:
        """The user metadata to store with the object."""
        return {**self._plan.metadata, **self._added, UPLOAD_TAG: self.tag}

    def add_metadata(self, metadata: Mapping[str, str]) -> None:
        """Add user metadata that became known after the plan was made."""
        self._added = dict(metadata)

    async def run(self, sent: Payload, send: Send) -> ObjectStat:
        """Make the request with the condition, confirm it, and return the properties of the stored object."""
        condition, head = await self._condition(), None
        try:
            stored = await send(condition)
        except BackendError as error:
            if condition and code_of(error) == "NotImplemented":
                self._bucket.refuses_condition = True
                return await self.run(sent, send)
            head = await self._head_or_none() if _may_have_stored(error) else None
            if head is not None and self._is_misjudged(condition, head, error):
                self._compares_etags = False
                return await self.run(sent, send)
            if head is None or not is_of_upload(head, self.tag):
                raise
            stored = head  # only the response was lost
        self._bucket.mark_exists()
        self._version = stored.version_id
        if head is None and self._content_etag(sent, stored) is None:
            head = await self._confirm(stored)
        if problem := self._mismatch(sent, stored, head):
            raise await self._undo(problem, stored)
        await self._require_order(stored.version_id)
        etag, version = (head or stored).etag, stored.version_id
        return ObjectStat(self._name, sent.size, etag=etag, version_id=version, metadata=self.metadata)

    def _content_etag(self, sent: Payload, info: ObjectInfo) -> str | None:
        """Return the ETag if it is made of the content, so that it proves the content and no HEAD is needed."""
        is_md5 = not sent.parts or self._bucket.profile.multipart_etag_is_md5
        return info.md5(parts=sent.parts) if is_md5 else None

    async def _require_order(self, version: str | None) -> None:
        """In a bucket with versions, remove the new one if it replaced another version than it should have."""
        if version and self._plan.create_only and self._bucket.profile.removes_versions:
            await self._require_first(version)
        elif version and self._plan.conditional and self._plan.replaces_version:
            await self._require_next(version)

    async def _confirm(self, stored: ObjectInfo) -> ObjectInfo | None:
        """Return HEAD of this upload's object, None when another writer has replaced it meanwhile."""
        head = await self._bucket.head(self._name, "write", version=stored.version_id)
        for pause in SHOWN_AFTER:
            if head is not None:
                break
            await asyncio.sleep(pause)
            head = await self._bucket.head(self._name, "write", version=stored.version_id)
        if head is None:
            raise self._integrity_error("the object is missing after it was stored")
        if self._is_ours(head):
            return head
        if self._plan.create_only:
            raise self._conflict_error()
        return None

    async def is_stored(self) -> bool:
        """Return whether the name has the object of this upload now.

        Raises
        ------
        BackendError
            When that cannot be found out.
        """
        return is_of_upload(await self._bucket.head(self._name, "write"), self.tag)

    def _is_ours(self, head: ObjectInfo) -> bool:
        """Tell whether HEAD may show this upload; a service that drops user metadata proves nothing."""
        return (head.metadata or {}).get(UPLOAD_TAG, self.tag) == self.tag

    def _conflict_error(self) -> FsbackupError:
        error: FsbackupError = self._context.error(
            ConflictError, "another writer created the name at the same time"
        )
        return error

    async def _require_first(self, version: str) -> None:
        """Remove the new version if it replaced one, in a bucket with versions and without conditional writes.

        Of several concurrent writers, the first keeps its object.
        """
        try:
            is_later = await replaced_version(self._bucket, self._name, version)
        except AccessDeniedError as error:  # the key may write and not list
            log.info("%s: cannot tell whether another writer came first: %s", self._bucket.backend, error)
            return
        self._bucket.keeps_versions = True
        if is_later:
            await self.rollback()
            raise self._conflict_error()

    async def _require_next(self, version: str) -> None:
        """Remove the new version unless it replaced the one that it was made from."""
        ids = [each.id for each in await versions_of(self._bucket, self._name) if not each.is_marker]
        before = ids[ids.index(version) + 1 :][:1] if version in ids else []
        if before != [self._plan.replaces_version]:
            await self.rollback()
            raise self._conflict_error()

    async def can_roll_back(self) -> bool:
        """Return whether the version that `run` stored is current, and the one it was to replace is next."""
        if self._version is None or self._plan.replaces_version is None:
            return False
        ids = [None if each.is_marker else each.id for each in await versions_of(self._bucket, self._name)]
        return ids[:2] == [self._version, self._plan.replaces_version]

    async def rollback(self) -> None:
        """Remove the version that `run` stored, if it has an id; the previous one is current again."""
        if self._version is not None:
            await self._bucket.delete(self._context, self._name, self._version)

    async def _condition(self) -> Condition:
        """Return the header of a conditional write; where that is not atomic, HEAD checks a create first."""
        kind = "none" if self._bucket.refuses_condition else self._bucket.profile.condition
        if not self._plan.create_only:
            is_known = kind != "none" and self._compares_etags and self._plan.replaces is not None
            return {"If-Match": f'"{self._plan.replaces}"'} if is_known else {}
        if kind != "atomic" and self._plan.ask_first and await self._bucket.head(self._name, "write") is not None:
            raise self._context.error(
                ConflictError,
                "the key exists, and the write is create-only",
                "choose another key or overwrite",
            )
        return {} if kind == "none" else {"If-None-Match": "*"}

    def _is_misjudged(self, condition: Condition, head: ObjectInfo, error: BackendError) -> bool:
        """Tell whether a service of unknown make refused a condition that holds, as HEAD shows."""
        is_refusal = "If-Match" in condition and code_of(error) in ("PreconditionFailed", "412")
        return is_refusal and self._bucket.profile.condition == "try" and head.etag == self._plan.replaces

    async def _head_or_none(self) -> ObjectInfo | None:
        """Return HEAD, None when there is no object or HEAD fails."""
        timeout = self._bucket.timeout
        patience = min(timeout, max(_CONFIRM_TIMEOUT, _CONFIRM_SHARE * timeout))
        try:
            return await self._bucket.head(self._name, "write", timeout=patience)
        except FsbackupError as error:
            log.debug("HEAD of %s failed after a write: %s", self._name, error)
            return None

    def _mismatch(self, sent: Payload, stored: ObjectInfo, head: ObjectInfo | None) -> str | None:
        """Return how the stored object differs from the payload; only ETags of the same form are compared."""
        if sent.must_match and (head or stored).etag != sent.etag:
            return f"its ETag is not {sent.etag}"
        if head and head.size != sent.size:
            return f"{sent.size} bytes were sent, {head.size} are stored"
        etags = {self._content_etag(sent, info) for info in (stored, head) if info is not None} - {None}
        return f"its ETag is not {sent.etag}" if etags - {sent.etag} else None

    def _integrity_error(self, problem: str) -> FsbackupError:
        error: FsbackupError = self._context.error(
            IntegrityError,
            f"the stored object differs from what was sent: {problem}",
            "store it again, then verify",
        )
        return error

    async def _undo(self, problem: str, stored: ObjectInfo) -> FsbackupError:
        """Remove a wrong object if this upload stored it and its removal loses nothing; return the error."""
        version, new = stored.version_id, self._plan.create_only or self._plan.is_new
        head = None if version else await self._head_or_none()
        if version or (new and head and self._is_ours(head)):
            await self._remove(version, head)
        elif head and not self._is_ours(head) and self._plan.create_only:
            return self._conflict_error()
        return self._integrity_error(problem)

    async def _remove(self, version: str | None, head: ObjectInfo | None) -> None:
        """Remove a wrong object: its version, so that the previous one is current again, or a new object."""
        try:
            if head is None:
                await self._bucket.delete(self._context, self._name, version)
            else:
                await remove_object(self._bucket, head.stat(self._name, head.size or 0))
        except FsbackupError as error:
            log.warning("%s: cannot remove a damaged object: %s", self._bucket.backend, error)


def _may_have_stored(error: BackendError) -> bool:
    """Tell whether a failed request may have stored the object: by an attempt whose response was lost."""
    lost = isinstance(error, (TransientError, ConflictError, ObjectNotFoundError))
    return lost or code_of(error) == "NoSuchUpload"
