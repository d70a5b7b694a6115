"""Listing a bucket: complete, in order, or an error."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from fsbackup.errors import BackendError
from fsbackup.keys import META_PREFIX, RESERVED
from fsbackup.stores.base import ObjectStat
from fsbackup.stores.s3.bucket import Bucket, etag_of, require_field
from fsbackup.stores.s3.calls import Response

#: Sorts after all names under META_PREFIX and before every other key ("0" follows "/").
_AFTER_RECORDS = f"{RESERVED}0"


async def list_objects(bucket: Bucket, prefix: str, start_after: str) -> AsyncIterator[ObjectStat]:
    """Yield the objects whose names start with `prefix` and sort after `start_after`, in ascending order."""
    hide_records = not prefix.startswith(RESERVED)
    last = start_after
    if bucket.profile.lists_in_order:
        items = _list_pages(bucket, prefix, start_after, hide_records)
    else:  # without StartAfter, whose meaning on such a server is undefined
        items = _sorted(_list_pages(bucket, prefix, "", hide_records=False), bucket, start_after)
    async for item in items:
        name = item["Key"].removeprefix(bucket.prefix)
        if name <= last and last:
            raise _listing_error(bucket, prefix, f"{name!r} is listed after {last!r}")
        last = name
        if not (hide_records and name.startswith(META_PREFIX)):
            yield _stat(name, item)


async def _sorted(
    items: AsyncIterator[dict[str, Any]], bucket: Bucket, after: str
) -> AsyncIterator[dict[str, Any]]:
    """Sort a whole listing in memory, for a server that lists in another order."""
    found = [item async for item in items]
    for item in sorted(found, key=lambda item: str(item["Key"]).encode("utf-8", "surrogateescape")):
        if not after or item["Key"].removeprefix(bucket.prefix) > after:
            yield item


async def _list_pages(
    bucket: Bucket, prefix: str, after: str, hide_records: bool
) -> AsyncIterator[dict[str, Any]]:
    """Yield the items of all pages; skip the records of fsbackup from the page on that reaches them."""
    token: str | None = None
    used_tokens: set[str] = set()
    context = bucket.context("list", prefix)
    while True:
        page = await _page(bucket, prefix, after, token)
        items = page.get("Contents", [])
        for item in items:
            require_field(item, "Size", context)
            if not require_field(item, "Key", context).startswith(bucket.prefix + prefix):
                raise _listing_error(bucket, prefix, f"{item['Key']!r} does not start with the requested prefix")
            yield item
        if not page.get("IsTruncated"):
            return
        if hide_records and items and items[-1]["Key"].startswith(bucket.prefix + META_PREFIX):
            after, token = _AFTER_RECORDS, None
            continue
        token = _next_page(bucket, prefix, page, used_tokens)


async def _page(bucket: Bucket, prefix: str, after: str, token: str | None) -> Response:
    start = {"ContinuationToken": token} if token else {"StartAfter": bucket.prefix + after} if after else {}
    page = await bucket.calls.request(
        bucket.context("list", prefix),
        "list_objects_v2",
        Bucket=bucket.name,
        Prefix=bucket.prefix + prefix,
        MaxKeys=bucket.page_size,
        **start,
    )
    bucket.mark_exists()
    return page


def _next_page(bucket: Bucket, prefix: str, page: Response, used_tokens: set[str]) -> str:
    token = str(page.get("NextContinuationToken", ""))
    if not token or token in used_tokens:
        raise _listing_error(
            bucket, prefix, "IsTruncated is true, but NextContinuationToken is missing or repeated"
        )
    used_tokens.add(token)
    return token


def _stat(name: str, item: dict[str, Any]) -> ObjectStat:
    return ObjectStat(
        name=name,
        size=item["Size"],
        modified=item["LastModified"].timestamp() if "LastModified" in item else None,
        etag=etag_of(item),
    )


def _listing_error(bucket: Bucket, prefix: str, what: str) -> BackendError:
    error: BackendError = bucket.context("list", prefix).error(
        BackendError,
        f"invalid listing: {what}",
        "report this to the provider: the listing would be incomplete",
    )
    return error
