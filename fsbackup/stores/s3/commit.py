"""The request that makes an object visible: PutObject or CompleteMultipartUpload.

`Commit.run` sends it with ``If-None-Match`` for a create-only write. When the response is lost, HEAD shows by the
upload tag whether the object was stored. Then size and ETag are compared with what was sent; a wrong object is
removed where that loses nothing.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

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
from fsbackup.stores.base import ObjectStat, WritePlan
from fsbackup.stores.s3.bucket import Bucket, ObjectInfo
from fsbackup.stores.s3.errors import CallContext, code_of
from fsbackup.stores.s3.removing import replaced_version

#: User metadata that identifies one upload, for when the response to its last request is lost.
UPLOAD_TAG = "fsbackup-upload"
#: The headers that make a write conditional.
Condition = Mapping[str, str]
#: Makes the request with a condition.
Send = Callable[[Condition], Awaitable[ObjectInfo]]
#: Seconds for the HEAD after a lost response.
_CONFIRM_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class Payload:
    """The size of what was sent, and its ETag where ETags are MD5s (`parts`: an MD5 of the parts' MD5s)."""

    size: int
    etag: str
    parts: bool = False


class Commit:
    """Stores one object under its name by one request, and confirms it."""

    def __init__(self, bucket: Bucket, name: str, plan: WritePlan) -> None:
        self._bucket = bucket
        self._name = name
        self._plan = plan
        self._context: CallContext = bucket.context("write", name)
        self._tag = secrets.token_hex(16)
        self._version: str | None = None
        self._added: dict[str, str] = {}

    @property
    def metadata(self) -> dict[str, str]:
        """The user metadata to store with the object."""
        return {**self._plan.metadata, **self._added, UPLOAD_TAG: self._tag}

    def add_metadata(self, metadata: Mapping[str, str]) -> None:
        """Add user metadata that became known after the plan was made."""
        self._added = dict(metadata)

    async def run(self, sent: Payload, send: Send) -> ObjectStat:
        """Make the request with the condition, confirm it, and return the properties of the stored object."""
        stored, head = await self._send(sent, send)
        self._bucket.mark_exists()
        self._version = stored.version_id
        if head is None and (sent.parts or not stored.md5()):
            head = await self._confirm(stored)
        if problem := self._mismatch(sent, stored, head):
            raise await self._undo(problem, stored)
        if self._plan.create_only and self._bucket.profile.removes_versions and stored.version_id:
            await self._require_first(stored.version_id)
        return ObjectStat(
            name=self._name,
            size=sent.size,
            etag=(head or stored).etag,
            version_id=stored.version_id,
            metadata=self.metadata,
        )

    async def _confirm(self, stored: ObjectInfo) -> ObjectInfo | None:
        """Return HEAD of this upload's object, None when another writer has replaced it meanwhile."""
        head = await self._bucket.head(self._name, "write", version=stored.version_id)
        if head is None:
            raise self._integrity_error("the object is missing after it was stored")
        if self._is_ours(head):
            return head
        if self._plan.create_only:
            raise self._conflict_error()
        return None

    def _is_ours(self, head: ObjectInfo) -> bool:
        """Tell whether HEAD may show this upload; a service that drops user metadata proves nothing."""
        return (head.metadata or {}).get(UPLOAD_TAG, self._tag) == self._tag

    def _conflict_error(self) -> FsbackupError:
        error: FsbackupError = self._context.error(
            ConflictError, "another writer created the name at the same time"
        )
        return error

    async def _require_first(self, version: str) -> None:
        """Take the new version back if it replaced one, in a bucket that keeps versions and knows no condition.

        Of several writers the first keeps its object, however their requests overlap.
        """
        try:
            is_later = await replaced_version(self._bucket, self._name, version)
        except AccessDeniedError as error:  # the key may write and not list
            log.info("%s: cannot see whether another writer came first: %s", self._bucket.calls.name, error)
            return
        self._bucket.keeps_versions = True
        if is_later:
            await self.rollback()
            raise self._conflict_error()

    async def rollback(self) -> None:
        """Remove the version that `run` stored, where there is one; the previous one is current again."""
        if self._version is not None:
            await self._bucket.delete(self._context, self._name, self._version)

    async def _send(self, sent: Payload, send: Send) -> tuple[ObjectInfo, ObjectInfo | None]:
        """Return the response, and HEAD's when the response was lost and the object was stored."""
        condition = await self._condition()
        try:
            return await send(condition), None
        except BackendError as error:
            if condition and code_of(error) == "NotImplemented":
                self._bucket.refuses_condition = True
                return await self._send(sent, send)
            if not _may_have_stored(error) or (head := await self._own_head()) is None:
                raise
            return head, head

    async def _condition(self) -> Condition:
        """Return what makes the write create-only, after a HEAD where that does not suffice, or a replacement."""
        kind = "none" if self._bucket.refuses_condition else self._bucket.profile.condition
        if not self._plan.create_only:
            is_known = kind == "atomic" and self._plan.replaces is not None
            return {"If-Match": f'"{self._plan.replaces}"'} if is_known else {}
        if kind != "atomic" and self._plan.ask_first and await self._bucket.head(self._name, "write") is not None:
            raise self._context.error(
                ConflictError,
                "the key exists, and the write is create-only",
                "choose another key or overwrite",
            )
        return {} if kind == "none" else {"If-None-Match": "*"}

    async def _own_head(self) -> ObjectInfo | None:
        """Return HEAD when it shows this upload, None otherwise or when HEAD fails."""
        head = await self._head_or_none()
        return head if head and (head.metadata or {}).get(UPLOAD_TAG) == self._tag else None

    async def _head_or_none(self) -> ObjectInfo | None:
        """Return HEAD, None when there is no object or HEAD fails."""
        try:
            return await self._bucket.head(
                self._name, "write", timeout=min(_CONFIRM_TIMEOUT, self._bucket.calls.timeout)
            )
        except FsbackupError as error:
            log.debug("HEAD of %s failed after a write: %s", self._name, error)
            return None

    def _mismatch(self, sent: Payload, stored: ObjectInfo, head: ObjectInfo | None) -> str | None:
        """Return how the stored object differs from the payload; only ETags of the same form are compared."""
        if head and head.size != sent.size:
            return f"{sent.size} bytes were sent, {head.size} are stored"
        if sent.parts and not self._bucket.profile.multipart_etag_is_md5:
            return None
        etags = {info.md5(parts=sent.parts) for info in (stored, head) if info is not None} - {None}
        return f"its ETag is not {sent.etag}" if etags - {sent.etag} else None

    def _integrity_error(self, problem: str) -> FsbackupError:
        error: FsbackupError = self._context.error(
            IntegrityError,
            f"the stored object differs from what was sent: {problem}",
            "store it again, then verify",
        )
        return error

    async def _undo(self, problem: str, stored: ObjectInfo) -> FsbackupError:
        """Remove a wrong object if this upload stored it and nothing is lost by that; return the error."""
        version, new = stored.version_id, self._plan.create_only or self._plan.is_new
        head = None if version else await self._head_or_none()
        if version or (new and head and self._is_ours(head)):
            await self._remove(version)
        elif head and not self._is_ours(head) and self._plan.create_only:
            return self._conflict_error()
        return self._integrity_error(problem)

    async def _remove(self, version: str | None) -> None:
        """Remove a wrong object: its version, after which the previous one is current again, or a new object."""
        try:
            await self._bucket.delete(self._context, self._name, version)
        except FsbackupError as error:
            log.warning("%s: cannot remove a damaged object: %s", self._bucket.calls.name, error)


def _may_have_stored(error: BackendError) -> bool:
    """Tell whether a failed request may have stored the object: by an attempt whose response was lost."""
    lost = isinstance(error, (TransientError, ConflictError, ObjectNotFoundError))
    return lost or code_of(error) == "NoSuchUpload"
