"""`Bucket`: the requests on one bucket, signed here and made each by a `Call`."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from fsbackup import __version__
from fsbackup.errors import BackendError, ObjectNotFoundError
from fsbackup.lazy import cached_property
from fsbackup.stores.s3.errors import NOT_OFFERED, CallContext, code_of
from fsbackup.stores.s3.http.requests import Call, OnProgress, Receive, Reply, Request
from fsbackup.stores.s3.http.responses import (
    CONTENT_RANGE,
    ObjectInfo,
    from_headers,
    http_time,
    read_content,
    read_small,
    require,
)
from fsbackup.stores.s3.http.settings import Address, Settings, Signer, encode_query
from fsbackup.stores.s3.providers import Profile
from fsbackup.threads import Workers

if TYPE_CHECKING:
    from fsbackup.buffers import Buffers
    from fsbackup.stores.s3.http.connection import Signed
    from fsbackup.stores.s3.http.pool import Http

T = TypeVar("T")

USER_AGENT = f"fsbackup/{__version__}"
#: Requests at once per store, each with a thread and a connection; more wait, which counts towards the timeout.
_THREADS = 64
#: Codes of an empty range, also of an answer without a body.
_NO_SUCH_RANGE = frozenset({"InvalidRange", "416"})
#: The largest MaxKeys of Amazon S3, R2 and B2.
PAGE_SIZE = 1000
#: Most bytes of a record of fsbackup that is read whole: a manifest with its most blocks has about 1 MiB.
MAX_RECORD = 64 << 20


class Bucket:
    """A bucket.

    Parameters
    ----------
    backend
        The backend's name, for errors.
    settings
        Address, credentials and timeout: the longest time in seconds without progress, over all attempts of one
        request and the waits between them.
    prefix
        Of all names in it.
    profile
        The properties of the provider.
    page_size
        MaxKeys of a listing.
    """

    def __init__(
        self, backend: str, settings: Settings, prefix: str, profile: Profile, page_size: int = PAGE_SIZE
    ) -> None:
        self.backend = backend
        self.name = settings.bucket
        self.timeout = settings.timeout
        #: Seconds by which this machine's clock is ahead of the service's, as its last answer dated itself.
        self.clock_skew: float | None = None
        self.workers = Workers(f"s3-{backend}", _THREADS)
        self.signer = Signer(
            settings.access_key_id, settings.secret_access_key, settings.session_token, settings.region
        )
        self._address = Address(settings)
        self._settings = settings
        self.prefix = prefix
        self.profile = profile
        self.page_size = page_size
        #: Set when the service has answered NotImplemented to ``If-None-Match``.
        self.refuses_condition = False
        #: Set when the service has answered NotImplemented to ``If-Match`` on a DELETE.
        self.refuses_delete_condition = False
        #: Set when the service has answered NotImplemented to DeleteObjects.
        self.refuses_delete_objects = False
        #: Set when a write was answered with the id of a version.
        self.keeps_versions = False
        #: Whether listings ascend; None as long as nothing is known about it.
        self.lists_in_order: bool | None = profile.lists_in_order or None
        self._exists = False

    @cached_property
    def http(self) -> Http:
        """The connections; created by the first request, which imports the library."""
        from fsbackup.stores.s3.http.pool import Http

        return Http(self._address, self.timeout, self._settings.ca_bundle)

    @property
    def secrets(self) -> tuple[str, ...]:
        """The texts that no error may contain."""
        proxy = self.http.proxy if "http" in vars(self) else None
        return self._settings.secrets + (proxy.secrets if proxy else ())

    def send(
        self, context: CallContext, request: Request, receive: Receive[T], on_progress: OnProgress | None = None
    ) -> Coroutine[Any, Any, Reply[T]]:
        """Make a request and return the response.

        Parameters
        ----------
        context
            What the request is for, and its timeout.
        request
            The request.
        receive
            Reads the body of a response of success, as `read_small` does.
        on_progress
            Hears of the bytes that move: of those of a body that is sent once, however often it is sent, and 0
            while it is sent again; of those of a response in each attempt, which begins with 0.
        """
        return Call(self, context, request, receive, on_progress).run()

    def sign(self, request: Request) -> Signed:
        """Return the request as it is sent."""
        from fsbackup.stores.s3.http.connection import Signed

        path, query = self._address.path(request.key), encode_query(request.query)
        headers = self.signer.sign(request.method, self._address.netloc, path, query, request.headers)
        headers["User-Agent"] = USER_AGENT
        return Signed(request.method, f"{path}?{query}" if query else path, headers, request.body)

    def note_date(self, headers: Mapping[str, str]) -> None:
        """Compare the clocks, unless the answer comes out of a cache on the way (RFC 9111, section 5.1)."""
        if "age" not in headers and (said := http_time(headers.get("date"))) is not None:
            self.clock_skew = time.time() - said

    def close(self) -> None:
        """Close the connections; the next request opens new ones."""
        if "http" in vars(self):
            self.http.close()

    def context(self, operation: str, name: str, timeout: float | None = None) -> CallContext:
        """Return the context of a call; `timeout` in seconds, by default the store's own."""
        return CallContext(self.backend, operation, name, self.timeout if timeout is None else timeout)

    async def head(
        self, name: str, operation: str = "stat", *, version: str | None = None, timeout: float | None = None
    ) -> ObjectInfo | None:
        """Send HEAD; None only when the bucket exists and the key does not."""
        context = self.context(operation, name, timeout)
        try:
            reply = await self.head_reply(context, name, version)
        except ObjectNotFoundError:
            await self.check_exists(context)
            return None
        self._exists = True
        info = from_headers(reply.headers)
        require(info.size, "ContentLength", context)
        return info

    async def head_reply(self, context: CallContext, name: str, version: str | None = None) -> Reply[bytes]:
        """Send HEAD and return the response with all of its headers."""
        request = Request("HEAD", self.prefix + name, version_query(version))
        return await self.send(context, request, read_small)

    async def get(
        self,
        name: str,
        start: int,
        end: int | None,
        on_progress: OnProgress,
        limit: int | None = None,
        buffers: Buffers | None = None,
    ) -> list[bytes]:
        """Send GET and return the bytes from `start` up to `end`; [] when there are none."""
        reply = await self._get(name, start, end, on_progress, limit, buffers)
        return [] if reply is None else reply.content

    async def open(self, name: str, end: int, on_progress: OnProgress) -> tuple[ObjectInfo, list[bytes]] | None:
        """Send GET for the bytes before `end`; return them and what HEAD would say, None when there are none."""
        reply = await self._get(name, 0, end, on_progress)
        if reply is None:
            return None
        found = CONTENT_RANGE.fullmatch(reply.headers.get("content-range", ""))
        info = from_headers(reply.headers)
        return (replace(info, size=int(found[3])) if found else info), reply.content

    async def _get(
        self,
        name: str,
        start: int,
        end: int | None,
        on_progress: OnProgress,
        limit: int | None = None,
        buffers: Buffers | None = None,
    ) -> Reply[list[bytes]] | None:
        context = self.context("read", name)
        request = Request("GET", self.prefix + name, headers=_range(start, end))
        try:
            reply = await self.send(
                context,
                request,
                lambda response: read_content(response, context, start, end, limit, buffers),
                on_progress,
            )
        except ObjectNotFoundError:
            await self.check_exists(context)
            raise
        except BackendError as error:
            if code_of(error) not in _NO_SUCH_RANGE:
                raise
            return None
        self._exists = True
        return reply

    async def put(
        self,
        context: CallContext,
        name: str,
        body: bytes | memoryview,
        headers: Mapping[str, str],
        on_progress: Callable[[int], None],
        query: tuple[tuple[str, str], ...] = (),
    ) -> ObjectInfo:
        """Send a PUT: an object, or with `query` a part of an upload."""
        request = Request("PUT", self.prefix + name, query, headers, body)
        reply = await self.send(context, request, read_small, on_progress)
        self._exists = True
        return from_headers(reply.headers)

    async def delete(
        self, context: CallContext, name: str, version: str | None = None, etag: str | None = None
    ) -> None:
        """Send a DELETE, of one version where there is a `version`; with `etag` on the condition of that ETag.

        Raises
        ------
        ConflictError
            When the service refuses the condition: another object has the name, or none has.
        """
        headers = {} if etag is None else {"If-Match": f'"{etag}"'}
        try:
            await self.send(
                context, Request("DELETE", self.prefix + name, version_query(version), headers), read_small
            )
        except BackendError as error:
            if not headers or code_of(error) not in NOT_OFFERED:
                raise
            self.refuses_delete_condition = True
            await self.delete(context, name, version)
        self._exists = True

    @property
    def deletes_on_condition(self) -> bool:
        """Whether an ETag is sent with a DELETE."""
        return self.profile.conditional_delete and not self.refuses_delete_condition

    def mark_exists(self) -> None:
        """Record that a call on the content of the bucket succeeded, so that it exists."""
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

    async def head_bucket(self, context: CallContext) -> Reply[bytes]:
        """Send HeadBucket."""
        return await self.send(context, Request("HEAD"), read_small)

    async def _head_bucket(self, context: CallContext) -> None:
        try:
            await self.head_bucket(context)
        except PermissionError:  # R2's object-level tokens may list, but not HEAD the bucket
            query = (("list-type", "2"), ("max-keys", "1"))
            await self.send(context, Request("GET", query=query), read_small)

    def _missing_bucket_error(self, context: CallContext) -> BackendError:
        error: BackendError = context.error(
            BackendError,
            f"the bucket {self.name!r} does not exist",
            "create the bucket, or correct its name, the account or the endpoint",
        )
        return error


def version_query(version: str | None) -> tuple[tuple[str, str], ...]:
    """Return the query of a request for one version."""
    return (("versionId", version),) if version else ()


def _range(start: int, end: int | None) -> dict[str, str]:
    if start == 0 and end is None:
        return {}  # an empty object has no range at all
    return {"Range": f"bytes={start}-{'' if end is None else end - 1}"}
