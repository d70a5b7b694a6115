"""Reading a range of an object: exactly the bytes that were asked for, or an error."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from fsbackup.errors import BackendError, ObjectNotFoundError, TransientError
from fsbackup.sizing import KIB
from fsbackup.stores.s3.calls import Answer
from fsbackup.stores.s3.errors import CallContext, code_of
from fsbackup.stores.s3.target import Bucket, require_field
from fsbackup.stores.s3.watch import IdleTimeout

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
#: More than the kernel hands over at a time: then nothing is cut and joined again on the way.
_AT_ONCE = 1 << 20
#: Bytes from which on a piece is worth being handled by itself: a slow line gives a thousand smaller ones.
_WORTH = 64 * KIB
_NOTHING_THERE = "InvalidRange"


async def read_range(
    target: Bucket, name: str, start: int, end: int | None, moved: Callable[[int], None]
) -> list[bytes]:
    """Return the bytes from `start` up to `end` (None: to the last) as they came; see `ObjectStore.read`."""
    where = target.where("read", name)
    params = {**target.at(name), **_range(start, end)}

    async def once(watch: IdleTimeout) -> list[bytes]:
        moved(0)
        get = await target.calls.connection.method("get_object")
        answer: Answer = await get(**params)
        async with answer["Body"] as body:
            expected = _expected(answer, where, start, end)
            return await _content(body, expected, where, watch, moved)

    try:
        pieces = await target.calls.run(where, once)
    except ObjectNotFoundError:
        await target.prove(where)
        raise
    except BackendError as error:
        if code_of(error) != _NOTHING_THERE:
            raise
        pieces = []
    target.seen()
    return pieces


async def require(target: Bucket, name: str) -> bytes:
    """Return nothing of an object that is there.

    Raises
    ------
    ObjectNotFoundError
        When it is not.
    """
    if await target.head(name, "read") is None:
        raise target.where("read", name).error(ObjectNotFoundError, "no such key")
    return b""


def _range(start: int, end: int | None) -> dict[str, str]:
    if start == 0 and end is None:
        return {}  # an empty object has no range at all
    return {"Range": f"bytes={start}-{'' if end is None else end - 1}"}


def _expected(answer: Answer, where: CallContext, start: int, end: int | None) -> int:
    """Return how many bytes have to come, after checking that they are the ones that were asked for."""
    if start == 0 and end is None:
        return int(require_field(answer, "ContentLength", where))
    found = _CONTENT_RANGE.fullmatch(answer.get("ContentRange", ""))
    if found:
        first, last, size = map(int, found.groups())
        if first == start and last == (size if end is None else min(end, size)) - 1:
            return last - first + 1
    raise where.error(TransientError, "the service answered with another range than was asked for")


async def _content(
    body: Any, expected: int, where: CallContext, watch: IdleTimeout, moved: Callable[[int], None]
) -> list[bytes]:
    chunks, size = list[bytes](), 0
    while chunk := await body.read(_AT_ONCE):
        watch.moved()
        moved(len(chunk))
        chunks.append(chunk)
        size += len(chunk)
    if size != expected:
        raise where.error(TransientError, f"{size} bytes came instead of {expected}")
    return chunks if size >= len(chunks) * _WORTH else [b"".join(chunks)]
