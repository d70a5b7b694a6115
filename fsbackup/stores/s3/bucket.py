"""`Bucket`: where a store's objects are, and the calls that several modules need."""

from __future__ import annotations

import re
from typing import Any

from fsbackup.errors import BackendError, ObjectNotFoundError
from fsbackup.stores.base import ObjectStat
from fsbackup.stores.s3.calls import Calls, Response
from fsbackup.stores.s3.errors import CallContext
from fsbackup.stores.s3.profile import Profile

#: The largest MaxKeys of Amazon S3, R2 and B2.
PAGE_SIZE = 1000
_MD5 = re.compile(r"[0-9a-f]{32}")
_MD5_OF_PARTS = re.compile(r"[0-9a-f]{32}-[0-9]+")
#: With these the ETag is not an MD5 of the content (Amazon S3 API reference, "Object": ETag).
_OPAQUE_ENCRYPTION = frozenset({"aws:kms", "aws:kms:dsse"})


class Bucket:
    """A bucket, the prefix of all names in it, and the calls of its service."""

    def __init__(self, calls: Calls, name: str, prefix: str, profile: Profile, page_size: int = PAGE_SIZE) -> None:
        self.calls = calls
        self.name = name
        self.prefix = prefix
        self.profile = profile
        self.page_size = page_size
        #: Set when the service has answered NotImplemented to ``If-None-Match``.
        self.refuses_condition = False
        self._exists = False

    def object_params(self, name: str) -> dict[str, Any]:
        """Return the Bucket and Key parameters of an object."""
        return {"Bucket": self.name, "Key": self.prefix + name}

    def context(self, operation: str, name: str, timeout: float | None = None) -> CallContext:
        """Return the context of a call; `timeout` in seconds, by default the store's own."""
        return CallContext(self.calls.name, operation, name, self.calls.timeout if timeout is None else timeout)

    async def head(
        self, name: str, operation: str = "stat", *, version: str | None = None, timeout: float | None = None
    ) -> Response | None:
        """Return the response to HEAD; None only when the bucket exists and the key does not."""
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
        """Record that a call on the bucket's content succeeded, so the bucket exists."""
        self._exists = True

    async def check_exists(self, context: CallContext) -> None:
        """Check once that the bucket exists, because a 404 may also mean that it does not.

        Raises
        ------
        BackendError
            When it does not exist, or the check fails.
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
        except PermissionError:  # R2's object-level tokens may list, but not HEAD the bucket
            await self.calls.request(context, "list_objects_v2", **bucket, MaxKeys=1)

    def _missing_bucket_error(self, context: CallContext) -> BackendError:
        error: BackendError = context.error(
            BackendError,
            f"the bucket {self.name!r} does not exist",
            "create the bucket, or correct its name, the account or the endpoint",
        )
        return error


def require_field(response: Response, field: str, context: CallContext) -> Any:
    """Return a required field of a response.

    Raises
    ------
    BackendError
        When the service omitted it.
    """
    value = response.get(field)
    if value is None or value == "":
        raise context.error(
            BackendError,
            f"the service's response has no {field}",
            "check that endpoint_url is an S3 service, or report this to the provider",
        )
    return value


def stat_of(name: str, response: Response) -> ObjectStat:
    """Return the properties in a response to HEAD."""
    return ObjectStat(
        name=name,
        size=response["ContentLength"],
        modified=response["LastModified"].timestamp() if "LastModified" in response else None,
        etag=etag_of(response),
        version_id=version_of(response),
        metadata=response.get("Metadata", {}),
    )


def etag_of(response: Response) -> str | None:
    """Return the ETag without quotes, None without one."""
    return response.get("ETag", "").strip('"') or None


def version_of(response: Response) -> str | None:
    """Return the VersionId, None in a bucket without versions."""
    version = response.get("VersionId", "null")
    return None if version == "null" else str(version)


def md5_etag(response: Response, *, parts: bool = False) -> str | None:
    """Return the ETag when it has the form of an MD5 (`parts`: of an MD5 of MD5s), None when it is opaque."""
    etag = etag_of(response) or ""
    encrypted = response.get("ServerSideEncryption") in _OPAQUE_ENCRYPTION or "SSECustomerAlgorithm" in response
    form = _MD5_OF_PARTS if parts else _MD5
    return etag if form.fullmatch(etag) and not encrypted else None
