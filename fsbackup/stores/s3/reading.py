"""Reads a range of an object: exactly the requested bytes, or an error."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from fsbackup.aio import IdleTimeout
from fsbackup.errors import BackendError, ObjectNotFoundError, TransientError
from fsbackup.sizing import KIB
from fsbackup.stores.s3.bucket import Bucket, require_field
from fsbackup.stores.s3.calls import Response
from fsbackup.stores.s3.errors import CallContext, code_of

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
#: More than the kernel returns at a time, so that no buffer is split and joined again.
_READ_SIZE = 1 << 20
#: Average bytes per buffer below which buffers are joined: a slow line delivers a thousand small ones.
_MIN_BUFFER = 64 * KIB
_INVALID_RANGE = "InvalidRange"


async def read_range(
    bucket: Bucket, name: str, start: int, end: int | None, on_progress: Callable[[int], None]
) -> list[bytes]:
    """Return the bytes from `start` up to `end` (None: to the last) as buffers; see `ObjectStore.read`."""
    context = bucket.context("read", name)
    params = {**bucket.object_params(name), **_range(start, end)}

    async def attempt(idle: IdleTimeout) -> list[bytes]:
        on_progress(0)
        get = await bucket.calls.connection.method("get_object")
        response: Response = await get(**params)
        async with response["Body"] as body:
            expected = _expected(response, context, start, end)
            return await _content(body, expected, context, idle, on_progress)

    try:
        buffers = await bucket.calls.run(context, attempt)
    except ObjectNotFoundError:
        await bucket.check_exists(context)
        raise
    except BackendError as error:
        if code_of(error) != _INVALID_RANGE:
            raise
        buffers = []
    bucket.mark_exists()
    return buffers


async def require(bucket: Bucket, name: str) -> bytes:
    """Return b"" if the object exists.

    Raises
    ------
    ObjectNotFoundError
        When it does not exist.
    """
    if await bucket.head(name, "read") is None:
        raise bucket.context("read", name).error(ObjectNotFoundError, "no such key")
    return b""


def _range(start: int, end: int | None) -> dict[str, str]:
    if start == 0 and end is None:
        return {}  # an empty object has no range at all
    return {"Range": f"bytes={start}-{'' if end is None else end - 1}"}


def _expected(response: Response, context: CallContext, start: int, end: int | None) -> int:
    """Return the number of bytes to expect, after checking that the response has the requested range."""
    if start == 0 and end is None:
        return int(require_field(response, "ContentLength", context))
    found = _CONTENT_RANGE.fullmatch(response.get("ContentRange", ""))
    if found:
        first, last, size = map(int, found.groups())
        if first == start and last == (size if end is None else min(end, size)) - 1:
            return last - first + 1
    raise context.error(TransientError, "the Content-Range of the response is not the requested range")


async def _content(
    body: Any, expected: int, context: CallContext, idle: IdleTimeout, on_progress: Callable[[int], None]
) -> list[bytes]:
    buffers, size = list[bytes](), 0
    while chunk := await body.read(_READ_SIZE):
        idle.touch()
        on_progress(len(chunk))
        buffers.append(chunk)
        size += len(chunk)
    if size != expected:
        raise context.error(TransientError, f"{size} bytes arrived instead of {expected}")
    return buffers if size >= len(buffers) * _MIN_BUFFER else [b"".join(buffers)]
