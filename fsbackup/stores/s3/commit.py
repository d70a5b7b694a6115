"""The call that makes an object visible: conditional where asked, settled when its answer is lost, confirmed."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from fsbackup.errors import (
    BackendError,
    ConflictError,
    FsbackupError,
    IntegrityError,
    ObjectNotFoundError,
    TransientError,
)
from fsbackup.events import log
from fsbackup.stores.base import ObjectStat, WritePlan
from fsbackup.stores.s3.calls import Answer
from fsbackup.stores.s3.errors import CallContext, code_of
from fsbackup.stores.s3.target import Bucket, comparable, etag_of, version_of

#: The tag that tells one upload from every other, for when the answer to its last call is lost.
UPLOAD_TAG = "fsbackup-upload"
#: Seconds for asking what became of a write whose answer was lost.
_CONFIRM_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class Payload:
    """What was sent: its size, and the ETag it has where ETags are made of MD5s (`parts`: of parts' MD5s)."""

    size: int
    etag: str
    parts: bool = False


class Commit:
    """Stores one object under its name by one call, and proves it."""

    def __init__(self, target: Bucket, name: str, plan: WritePlan) -> None:
        self._target = target
        self._name = name
        self._plan = plan
        self._where: CallContext = target.where("write", name)
        self._tag = secrets.token_hex(16)
        self._version: str | None = None

    @property
    def metadata(self) -> dict[str, str]:
        """The tags to store with the object."""
        return {**self._plan.metadata, UPLOAD_TAG: self._tag}

    async def run(self, sent: Payload, call: Callable[..., Awaitable[Answer]]) -> ObjectStat:
        """Make the call, with the condition as its arguments, and return what is stored now."""
        answer, head = await self._called(sent, call)
        self._target.seen()
        self._version = version_of(answer)
        if head is None and (sent.parts or not comparable(answer)):
            head = await self._confirmation(answer)
        if problem := self._difference(sent, answer, head):
            raise await self._undone(problem, answer)
        return ObjectStat(
            name=self._name,
            size=sent.size,
            etag=etag_of(head or answer),
            version_id=version_of(answer),
            metadata=self.metadata,
        )

    async def _confirmation(self, answer: Answer) -> Answer | None:
        """Return what HEAD says of this very upload, None when another writer has replaced it meanwhile."""
        head = await self._target.head(self._name, "write", version=version_of(answer))
        if head is None:
            raise self._wrong("it is not there after it was stored")
        if self._made(head):
            return head
        if self._plan.create_only:
            raise self._lost()
        return None

    def _made(self, head: Answer) -> bool:
        """Tell whether this may be this very upload: a service that keeps no tags cannot say."""
        return bool(head.get("Metadata", {}).get(UPLOAD_TAG, self._tag) == self._tag)

    def _lost(self) -> FsbackupError:
        error: FsbackupError = self._where.error(ConflictError, "another writer got the name at the same time")
        return error

    async def rollback(self) -> None:
        """Remove the version that `run` stored, where the bucket keeps versions: the one before shows again."""
        if self._version is not None:
            await self._target.calls.request(
                self._where, "delete_object", **self._target.at(self._name), VersionId=self._version
            )

    async def _called(self, sent: Payload, call: Callable[..., Awaitable[Answer]]) -> tuple[Answer, Answer | None]:
        """Return the call's answer, and HEAD's where it had to be asked what became of the call."""
        condition = await self._condition()
        try:
            return await call(**condition), None
        except BackendError as error:
            if condition and code_of(error) == "NotImplemented":
                self._target.refuses_condition = True
                return await self._called(sent, call)
            if not _may_be_stored(error) or (head := await self._ours()) is None:
                raise
            return head, head

    async def _condition(self) -> dict[str, str]:
        """Return the arguments that make the write create-only, after asking where they do not suffice."""
        if not self._plan.create_only:
            return {}
        kind = "none" if self._target.refuses_condition else self._target.profile.condition
        if kind != "atomic" and self._plan.ask_first and await self._target.head(self._name, "write") is not None:
            raise self._where.error(
                ConflictError,
                "the key exists, and replacing it was not asked for",
                "choose another key or overwrite",
            )
        return {} if kind == "none" else {"IfNoneMatch": "*"}

    async def _ours(self) -> Answer | None:
        """Return what HEAD says when it shows this very upload, None otherwise or when nobody answers."""
        head = await self._there()
        return head if head and head.get("Metadata", {}).get(UPLOAD_TAG) == self._tag else None

    async def _there(self) -> Answer | None:
        """Return what HEAD says, None when nothing is there or nobody answers."""
        try:
            return await self._target.head(
                self._name, "write", timeout=min(_CONFIRM_TIMEOUT, self._target.calls.timeout)
            )
        except FsbackupError as error:
            log.debug("cannot find out what is stored as %s: %s", self._name, error)
            return None

    def _difference(self, sent: Payload, answer: Answer, head: Answer | None) -> str | None:
        """Return how what is stored differs from what was sent; only ETags made in the same way are compared."""
        if head and head["ContentLength"] != sent.size:
            return f"{sent.size} bytes were sent, {head['ContentLength']} are stored"
        if sent.parts and not self._target.profile.multipart_etag_is_md5:
            return None
        etags = {comparable(said, parts=sent.parts) for said in (answer, head or {})} - {None}
        return f"its ETag is not {sent.etag}" if etags - {sent.etag} else None

    def _wrong(self, problem: str) -> FsbackupError:
        error: FsbackupError = self._where.error(
            IntegrityError, f"what was stored is not what was sent: {problem}", "store it again, then verify"
        )
        return error

    async def _undone(self, problem: str, answer: Answer) -> FsbackupError:
        """Take back what was stored wrong, as far as it is this upload's, and return the error."""
        version, new = version_of(answer), self._plan.create_only or self._plan.fresh
        head = None if version else await self._there()
        if version or (new and head and self._made(head)):
            await self._remove(version)
        elif head and not self._made(head) and self._plan.create_only:
            return self._lost()
        return self._wrong(problem)

    async def _remove(self, version: str | None) -> None:
        """Remove a wrong object: its version where it has one (the older one shows again), or a new object."""
        one = {"VersionId": version} if version else {}
        try:
            await self._target.calls.request(self._where, "delete_object", **self._target.at(self._name), **one)
        except FsbackupError as error:
            log.warning("%s: a damaged object stays under its name: %s", self._target.calls.name, error)


def _may_be_stored(error: BackendError) -> bool:
    """Tell whether a failed call may have stored the object: its answer was lost, or it met its own success."""
    lost = isinstance(error, (TransientError, ConflictError, ObjectNotFoundError))
    return lost or code_of(error) == "NoSuchUpload"
