"""What responses say: of an object in their headers, and in a body that is read to its end and not beyond it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from fsbackup.errors import BackendError, TransientError
from fsbackup.sizing import READ_PIECE
from fsbackup.stores.base import ObjectStat
from fsbackup.stores.s3.errors import CallContext

if TYPE_CHECKING:
    from http.client import HTTPResponse

    from fsbackup.buffers import Buffers

MD5 = re.compile(r"[0-9a-f]{32}")
_MD5_OF_PARTS = re.compile(r"[0-9a-f]{32}-[0-9]+")
#: With these the ETag is not an MD5 of the content (Amazon S3 API reference, "Object": ETag).
_OPAQUE_ENCRYPTION = frozenset({"aws:kms", "aws:kms:dsse"})
CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
METADATA = "x-amz-meta-"
#: Of the bodies of requests.
XML_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
#: Most bytes of a response that is neither an object nor a page of a listing.
MAX_BODY = 1 << 20


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a response says of an object; None where it says nothing.

    Parameters
    ----------
    size
        Bytes of the body, also of the one that a response to HEAD leaves out: the object's own there, and in a
        response to GET without a range; in others, as to PUT, it says nothing of the object.
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
        form = _MD5_OF_PARTS if parts else MD5
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
        modified=http_time(headers.get("last-modified")),
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
def http_time(text: str | None) -> float | None:
    """Return the epoch seconds of a time in a header, None without one that can be read."""
    try:
        return parsedate_to_datetime(text).timestamp() if text else None
    except (ValueError, OverflowError):
        return None


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


def read_content(
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
    return cast(bytes, view[: response.readinto(view)])  # bytes for its callers


def _expected(response: HTTPResponse, context: CallContext, start: int, end: int | None) -> int:
    """Return the number of bytes to expect, after checking that the response has the requested range."""
    if start == 0 and end is None:
        return int(require(response.length, "ContentLength", context))
    if start == 0 == response.length and response.status == 200:
        return 0  # so some services answer for an empty object
    found = CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
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
    except (ValueError, OverflowError):
        return None


def read_small(response: HTTPResponse, limit: int = MAX_BODY) -> bytes:
    """Return a whole body.

    Raises
    ------
    ValueError
        When it has more than `limit` bytes.
    ConnectionError
        When it ends before its Content-Length.
    """
    announced = response.length
    body = response.read(limit + 1)
    if len(body) > limit:
        raise ValueError(f"the response has more than {limit} bytes")
    if announced is not None and len(body) < announced:
        raise ConnectionError(f"the connection was closed after {len(body)} of {announced} bytes")
    return body
