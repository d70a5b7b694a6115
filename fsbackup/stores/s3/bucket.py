"""`Bucket`: the requests on one bucket, and what its responses say of an object.

A request is signed here, and made by a `Call` of `requests`, in a thread over a connection of `http`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar, cast

from fsbackup import __version__
from fsbackup.errors import BackendError, ObjectNotFoundError, TransientError
from fsbackup.lazy import cached_property
from fsbackup.sizing import READ_PIECE
from fsbackup.stores.base import ObjectStat
from fsbackup.stores.s3.errors import CallContext, code_of
from fsbackup.stores.s3.providers import Profile
from fsbackup.stores.s3.requests import Call, OnProgress, Receive, Reply, Request, read_small
from fsbackup.stores.s3.settings import Address, Settings, Signer, encode_query
from fsbackup.threads import Workers

if TYPE_CHECKING:
    from http.client import HTTPResponse

    from fsbackup.buffers import Buffers
    from fsbackup.stores.s3.http import Http, Signed

T = TypeVar("T")

USER_AGENT = f"fsbackup/{__version__}"
#: Requests at once per store, each with a thread and a connection; more wait, which counts towards the timeout.
_THREADS = 64
#: The largest MaxKeys of Amazon S3, R2 and B2.
PAGE_SIZE = 1000
_MD5 = re.compile(r"[0-9a-f]{32}")
_MD5_OF_PARTS = re.compile(r"[0-9a-f]{32}-[0-9]+")
#: With these the ETag is not an MD5 of the content (Amazon S3 API reference, "Object": ETag).
_OPAQUE_ENCRYPTION = frozenset({"aws:kms", "aws:kms:dsse"})
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
METADATA = "x-amz-meta-"
#: Of the bodies of requests.
XML_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a response says of an object; None where it says nothing.

    Parameters
    ----------
    size
        Bytes; only in a response to HEAD.
    etag
        Without quotes.
    version_id
        None in a bucket without versions.
    is_opaque
        The object is encrypted in a way that makes its ETag no MD5.
    modified
        Epoch seconds.
    metadata
        The user metadata.
    """

    etag: str | None
    version_id: str | None = None
    is_opaque: bool = False
    size: int | None = None
    modified: float | None = None
    metadata: Mapping[str, str] | None = None

    def md5(self, *, parts: bool = False) -> str | None:
        """Return the ETag when it has the form of an MD5 (`parts`: of an MD5 of MD5s), None when it is opaque."""
        form = _MD5_OF_PARTS if parts else _MD5
        return self.etag if self.etag and form.fullmatch(self.etag) and not self.is_opaque else None

    def stat(self, name: str, size: int) -> ObjectStat:
        """Return the properties of the object `name`."""
        return ObjectStat(name, size, self.modified, self.etag, self.version_id, self.metadata or {})


def to_headers(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return user metadata as headers."""
    return {f"{METADATA}{name}": value for name, value in metadata.items()}


def from_headers(headers: Mapping[str, str]) -> ObjectInfo:
    """Return what the headers of a response say."""
    length = headers.get("content-length", "")
    encryption = headers.get("x-amz-server-side-encryption")
    return ObjectInfo(
        etag=unquoted(headers.get("etag")),
        version_id=_version(headers.get("x-amz-version-id")),
        is_opaque=encryption in _OPAQUE_ENCRYPTION or "x-amz-server-side-encryption-customer-algorithm" in headers,
        size=int(length) if length.isdecimal() else None,
        modified=_http_time(headers.get("last-modified")),
        metadata={
            name.removeprefix(METADATA): value for name, value in headers.items() if name.startswith(METADATA)
        },
    )


def unquoted(etag: str | None) -> str | None:
    """Return an ETag without quotes, None without one."""
    return (etag or "").strip('"') or None


def _version(text: str | None) -> str | None:
    return None if text in (None, "", "null") else text


@lru_cache(maxsize=256)  # many answers are of the same second
def _http_time(text: str | None) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp() if text else None
    except ValueError:
        return None


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
        from fsbackup.stores.s3.http import Http

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
        from fsbackup.stores.s3.http import Signed

        path, query = self._address.path(request.key), encode_query(request.query)
        headers = self.signer.sign(request.method, self._address.netloc, path, query, request.headers)
        headers["User-Agent"] = USER_AGENT
        return Signed(request.method, f"{path}?{query}" if query else path, headers, request.body)

    def note_date(self, headers: Mapping[str, str]) -> None:
        """Compare the clocks, unless the answer comes out of a cache on the way (RFC 9111, section 5.1)."""
        if "age" not in headers and (said := _http_time(headers.get("date"))) is not None:
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
        found = _CONTENT_RANGE.fullmatch(reply.headers.get("content-range", ""))
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
                lambda response: _content(response, context, start, end, limit, buffers),
                on_progress,
            )
        except ObjectNotFoundError:
            await self.check_exists(context)
            raise
        except BackendError as error:
            if code_of(error) != "InvalidRange":
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

    async def delete(self, context: CallContext, name: str, version: str | None = None) -> None:
        """Send a DELETE, of one version where there is a `version`."""
        await self.send(context, Request("DELETE", self.prefix + name, version_query(version)), read_small)
        self._exists = True

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


def require(value: Any, field: str, context: CallContext) -> Any:
    """Return a required field of a response.

    Raises
    ------
    BackendError
        When the service omitted it.
    """
    if value is None or value == "":
        raise context.error(
            BackendError,
            f"the service's response has no {field}",
            "check that endpoint_url is an S3 service, or report this to the provider",
        )
    return value


def _range(start: int, end: int | None) -> dict[str, str]:
    if start == 0 and end is None:
        return {}  # an empty object has no range at all
    return {"Range": f"bytes={start}-{'' if end is None else end - 1}"}


def _content(
    response: HTTPResponse,
    context: CallContext,
    start: int,
    end: int | None,
    limit: int | None,
    buffers: Buffers | None,
) -> list[bytes]:
    """Read exactly the requested bytes, in a thread; not one more is kept, whatever the service sends."""
    expected = _expected(response, context, start, end)
    if limit is not None and expected > limit:
        raise context.error(BackendError, f"the object has {expected} bytes, more than the {limit} it may have")
    pieces, left = list[bytes](), expected
    while left:
        data = _read_piece(response, min(left, READ_PIECE), buffers)
        if not data:
            break
        pieces.append(data)
        left -= len(data)
    if left:
        raise context.error(TransientError, f"{expected - left} bytes arrived instead of {expected}")
    if response.read(1):
        raise context.error(TransientError, f"more than the {expected} bytes asked for arrived")
    return pieces


def _read_piece(response: HTTPResponse, length: int, buffers: Buffers | None) -> bytes:
    if buffers is None:
        return response.read(length)
    view = buffers.take(length)
    return cast(bytes, view[: response.readinto(view)])  # to all who get it


def _expected(response: HTTPResponse, context: CallContext, start: int, end: int | None) -> int:
    """Return the number of bytes to expect, after checking that the response has the requested range."""
    if start == 0 and end is None:
        return int(require(response.length, "ContentLength", context))
    if start == 0 == response.length and response.status == 200:
        return 0  # so some services answer for an empty object
    found = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
    if found:
        first, last, size = map(int, found.groups())
        expected = last - first + 1
        if first == start and last == (size if end is None else min(end, size)) - 1 and expected >= 0:
            if response.length in (None, expected):
                return expected
            raise context.error(TransientError, f"{response.length} bytes arrive instead of {expected}")
    raise context.error(TransientError, "the Content-Range of the response is not the requested range")


def iso_time(text: str | None) -> float | None:
    """Return the epoch seconds of a time in a listing, None without one that can be read."""
    try:
        return datetime.fromisoformat(text).timestamp() if text else None
    except ValueError:
        return None
