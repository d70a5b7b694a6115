"""Where one store's objects are, and the few calls that several of its parts need."""

from __future__ import annotations

import re
from typing import Any

from fsbackup.errors import BackendError, ObjectNotFoundError
from fsbackup.stores.base import ObjectStat
from fsbackup.stores.s3.calls import Calls, Response
from fsbackup.stores.s3.errors import CallContext
from fsbackup.stores.s3.profile import Profile

#: The most names that Amazon S3, R2 and B2 put on one page of a listing.
PAGE_SIZE = 1000
_MD5 = re.compile(r"[0-9a-f]{32}")
_MD5_OF_PARTS = re.compile(r"[0-9a-f]{32}-[0-9]+")
#: With these the ETag is no MD5 of the content (Amazon S3 API reference, "Object": ETag).
_OPAQUE_ENCRYPTION = frozenset({"aws:kms", "aws:kms:dsse"})


class Bucket:
    """A bucket, the prefix in it, and how to call its service."""

    def __init__(self, calls: Calls, name: str, prefix: str, profile: Profile, page_size: int = PAGE_SIZE) -> None:
        self.calls = calls
        self.name = name
        self.prefix = prefix
        self.profile = profile
        self.page_size = page_size
        #: Set once the service has refused ``If-None-Match`` as not implemented.
        self.refuses_condition = False
        self._exists = False

    def object_params(self, name: str) -> dict[str, Any]:
        """Return the parameters that name an object."""
        return {"Bucket": self.name, "Key": self.prefix + name}

    def context(self, operation: str, name: str, timeout: float | None = None) -> CallContext:
        """Return the place of a call; `timeout` (seconds of silence) is the store's own unless given."""
        return CallContext(self.calls.name, operation, name, self.calls.timeout if timeout is None else timeout)

    async def head(
        self, name: str, operation: str = "stat", *, version: str | None = None, timeout: float | None = None
    ) -> Response | None:
        """Return the answer to HEAD; None only when there is no such key in a bucket that exists."""
        params = {**self.object_params(name), "VersionId": version} if version else self.object_params(name)
        context = self.context(operation, name, timeout)
        try:
            response = await self.calls.request(context, "head_object", **params)
        except ObjectNotFoundError:
            await self.check_exists(context)
            return None
        self._exists = True
        require_field(response, "ContentLength", context)
        return response

    def mark_exists(self) -> None:
        """Note that a call on the bucket's content succeeded, which proves that it exists."""
        self._exists = True

    async def check_exists(self, context: CallContext) -> None:
        """Make sure, once, that the bucket exists: a 404 may also mean that it does not.

        Raises
        ------
        BackendError
            When it does not exist, or when this cannot be found out.
        """
        if not self._exists:
            try:
                await self._head_bucket(context)
            except ObjectNotFoundError as error:
                raise self._missing_bucket_error(context) from error
            self._exists = True

    async def _head_bucket(self, context: CallContext) -> None:
        bucket = {"Bucket": self.name}
        try:
            await self.calls.request(context, "head_bucket", **bucket)
        except PermissionError:  # R2's object-level tokens may list, but not ask for the bucket
            await self.calls.request(context, "list_objects_v2", **bucket, MaxKeys=1)

    def _missing_bucket_error(self, context: CallContext) -> BackendError:
        error: BackendError = context.error(
            BackendError,
            f"there is no bucket {self.name!r}",
            "create the bucket, or correct its name, the account and the endpoint",
        )
        return error


def require_field(response: Response, field: str, context: CallContext) -> Any:
    """Return what an answer must say.

    Raises
    ------
    BackendError
        When the service left it out.
    """
    value = response.get(field)
    if value is None or value == "":
        raise context.error(
            BackendError,
            f"the service's answer has no {field}",
            "what answers is no complete S3 service: check endpoint_url, or report this to the provider",
        )
    return value


def stat_of(name: str, response: Response) -> ObjectStat:
    """Return what an answer to HEAD says."""
    return ObjectStat(
        name=name,
        size=response["ContentLength"],
        modified=response["LastModified"].timestamp() if "LastModified" in response else None,
        etag=etag_of(response),
        version_id=version_of(response),
        metadata=response.get("Metadata", {}),
    )


def etag_of(response: Response) -> str | None:
    """Return the ETag without quotes, None when there is none."""
    return response.get("ETag", "").strip('"') or None


def version_of(response: Response) -> str | None:
    """Return the version's id, None in a bucket without versions."""
    version = response.get("VersionId", "null")
    return None if version == "null" else str(version)


def md5_etag(response: Response, *, parts: bool = False) -> str | None:
    """Return the answer's ETag when it has the form of an MD5 (of the parts' MD5s), None when it is opaque."""
    etag = etag_of(response) or ""
    encrypted = response.get("ServerSideEncryption") in _OPAQUE_ENCRYPTION or "SSECustomerAlgorithm" in response
    form = _MD5_OF_PARTS if parts else _MD5
    return etag if form.fullmatch(etag) and not encrypted else None
