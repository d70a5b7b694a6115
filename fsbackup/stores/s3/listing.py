"""Listing a bucket: complete, in order, or an error."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from fsbackup.errors import BackendError
from fsbackup.keys import META_PREFIX, RESERVED
from fsbackup.stores.base import ObjectStat
from fsbackup.stores.s3.calls import Answer
from fsbackup.stores.s3.target import Bucket, etag_of, require_field

#: Sorts behind all names under META_PREFIX and before every other key that a key can be ("0" follows "/").
_BEHIND_OWN = f"{RESERVED}0"


async def list_objects(target: Bucket, prefix: str, start_after: str) -> AsyncIterator[ObjectStat]:
    """Yield the objects whose names start with `prefix` and sort after `start_after`, in ascending order."""
    hidden = not prefix.startswith(RESERVED)
    last = start_after
    if target.profile.lists_in_order:
        items = _items(target, prefix, start_after, hidden)
    else:  # and nothing of it jumped over: where such a server goes on after a name is its own affair
        items = _sorted(_items(target, prefix, "", hidden=False), target, start_after)
    async for item in items:
        name = item["Key"].removeprefix(target.prefix)
        if name <= last and last:
            raise _disordered(target, prefix, f"{name!r} comes after {last!r}")
        last = name
        if not (hidden and name.startswith(META_PREFIX)):
            yield _stat(name, item)


async def _sorted(
    items: AsyncIterator[dict[str, Any]], target: Bucket, after: str
) -> AsyncIterator[dict[str, Any]]:
    """Bring a whole listing into order, in memory: what such a server lists first says nothing of what comes."""
    found = [item async for item in items]
    for item in sorted(found, key=lambda item: str(item["Key"]).encode("utf-8", "surrogateescape")):
        if not after or item["Key"].removeprefix(target.prefix) > after:
            yield item


async def _items(target: Bucket, prefix: str, after: str, hidden: bool) -> AsyncIterator[dict[str, Any]]:
    """Yield what the pages hold, leaving our own records out as early as a page shows them."""
    token: str | None = None
    seen: set[str] = set()
    where = target.where("list", prefix)
    while True:
        page = await _page(target, prefix, after, token)
        items = page.get("Contents", [])
        for item in items:
            require_field(item, "Size", where)
            if not require_field(item, "Key", where).startswith(target.prefix + prefix):
                raise _disordered(target, prefix, f"{item['Key']!r} was not asked for")
            yield item
        if not page.get("IsTruncated"):
            return
        if hidden and items and items[-1]["Key"].startswith(target.prefix + META_PREFIX):
            after, token = _BEHIND_OWN, None
            continue
        token = _next(target, prefix, page, seen)


async def _page(target: Bucket, prefix: str, after: str, token: str | None) -> Answer:
    start = {"ContinuationToken": token} if token else {"StartAfter": target.prefix + after} if after else {}
    page = await target.calls.request(
        target.where("list", prefix),
        "list_objects_v2",
        Bucket=target.bucket,
        Prefix=target.prefix + prefix,
        MaxKeys=target.page_size,
        **start,
    )
    target.seen()
    return page


def _next(target: Bucket, prefix: str, page: Answer, seen: set[str]) -> str:
    token = str(page.get("NextContinuationToken", ""))
    if not token or token in seen:
        raise _disordered(target, prefix, "it says that there is more, but not where")
    seen.add(token)
    return token


def _stat(name: str, item: dict[str, Any]) -> ObjectStat:
    return ObjectStat(
        name=name,
        size=item["Size"],
        modified=item["LastModified"].timestamp() if "LastModified" in item else None,
        etag=etag_of(item),
    )


def _disordered(target: Bucket, prefix: str, what: str) -> BackendError:
    error: BackendError = target.where("list", prefix).error(
        BackendError,
        f"the service's listing cannot be trusted: {what}",
        "the listing would be incomplete; report this to the provider",
    )
    return error
