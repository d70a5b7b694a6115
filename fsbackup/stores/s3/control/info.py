"""`service_info`: what people want to know of a bucket beyond its objects, asked for in the data plane."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing
from typing import Any
from xml.etree.ElementTree import Element

from fsbackup.errors import AccessDeniedError, BackendError, FsbackupError
from fsbackup.stores.base import BackendInfo
from fsbackup.stores.s3.control.listing import list_uploads, read_page
from fsbackup.stores.s3.errors import NOT_OFFERED, code_of
from fsbackup.stores.s3.http.bucket import Bucket
from fsbackup.stores.s3.http.requests import Request
from fsbackup.stores.s3.http.responses import iso_time

#: What each provider's users get wrong most often. By Cloudflare's "Consistency model" (a new key takes up to a
#: minute) and Backblaze's "Introduction to the S3-Compatible API" (no master key; what a restricted key needs).
_ACCESS_HINTS = {
    "r2": "if the keys work elsewhere, check that the R2 token covers the bucket {bucket!r} with Object Read &"
    " Write and the account id in the endpoint is the bucket's; a new token takes up to a minute to work",
    "b2": "use an application key, not the master key; it needs listFiles, readFiles, writeFiles and deleteFiles"
    " for the bucket {bucket!r}, and listAllBucketNames when it is restricted to one; check the region",
}
_DEFAULT_ACCESS_HINT = (
    "check that these keys may list, read, write and delete in the bucket {bucket!r}, and that the region is right"
)
#: Seconds.
_DAY = 86_400
#: Most unfinished uploads that are counted.
_COUNTED = 1000
#: The error code for a setting that does not exist.
_NOT_CONFIGURED = frozenset({"NoSuchLifecycleConfiguration"})

Query = Callable[[Bucket], Awaitable[dict[str, Any]]]


async def service_info(bucket: Bucket) -> BackendInfo:
    """Make all requests at once."""
    queries: dict[str, Query] = {
        "clock_ahead": _clock,
        "keeps_versions": _versions,
        "uploads": _uploads,
        "expires": _expires,
    }
    results = await asyncio.gather(*(_run_query(bucket, name, query) for name, query in queries.items()))
    known = {name: value for found, _ in results for name, value in found.items()}
    unknown = {"free": "the service does not report it"} | {
        name: why for _, bad in results for name, why in bad.items()
    }
    access = _ACCESS_HINTS.get(bucket.profile.scheme, _DEFAULT_ACCESS_HINT).format(bucket=bucket.name)
    return BackendInfo(**known, access=access, unknown=unknown)


async def _run_query(bucket: Bucket, name: str, query: Query) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the fields found, or by name why a field is not known."""
    try:
        return await query(bucket), {}
    except AccessDeniedError:
        return {}, {name: "these credentials may not ask for it"}
    except FsbackupError as error:
        offered = code_of(error) not in NOT_OFFERED
        return {}, {name: error.message if offered else "the service does not implement the request"}


async def _ask(bucket: Bucket, subresource: str, tag: str) -> Element:
    context = bucket.context("examine", "")
    request = Request("GET", query=((subresource, ""),))
    return (await bucket.send(context, request, lambda response: read_page(response, tag, context))).content


async def _clock(bucket: Bucket) -> dict[str, Any]:
    """Ask for an answer, each of which tells the service's time; a refusal does, too."""
    try:
        await bucket.head_bucket(bucket.context("examine", ""))
    except BackendError:
        if bucket.clock_skew is None:
            raise
    skew = bucket.clock_skew
    return {"clock_ahead": None if skew is None else -skew}


async def _versions(bucket: Bucket) -> dict[str, Any]:
    response = await _ask(bucket, "versioning", "VersioningConfiguration")
    # "Suspended" keeps old versions, but no new ones.
    return {"keeps_versions": response.findtext("Status") == "Enabled"}


async def _uploads(bucket: Bucket) -> dict[str, Any]:
    begun = list[float]()
    async with aclosing(list_uploads(bucket)) as uploads:  # type: ignore[type-var]  # a generator
        async for _, _, started in uploads:
            begun.append(started)
            if len(begun) == _COUNTED:
                break
    return {"uploads": len(begun), "oldest_upload": min(begun, default=None)}


async def _expires(bucket: Bucket) -> dict[str, Any]:
    rules: Iterable[Element] = ()
    try:
        rules = (await _ask(bucket, "lifecycle", "LifecycleConfiguration")).iterfind("Rule")
    except BackendError as error:
        if code_of(error) not in _NOT_CONFIGURED:
            raise
    days = [_days(rule) for rule in rules if _applies_to(rule, bucket.prefix)]
    return {"expires": tuple(sorted(each for each in days if each is not None))}


def _applies_to(rule: Element, prefix: str) -> bool:
    """Tell whether a rule may delete objects below `prefix`; fsbackup's objects have no tags."""
    places = ("Prefix", "Filter/Prefix", "Filter/And/Prefix")
    rule_prefix = next((text for place in places if (text := rule.findtext(place))), "")
    has_tags = any(rule.find(place) is not None for place in ("Filter/Tag", "Filter/And/Tag"))
    return (
        rule.findtext("Status") == "Enabled"
        and not has_tags
        and (prefix.startswith(rule_prefix) or rule_prefix.startswith(prefix))
    )


def _days(rule: Element) -> int | None:
    """Return after how many days a rule deletes objects; a rule for one date counts from now."""
    days, date = rule.findtext("Expiration/Days", ""), iso_time(rule.findtext("Expiration/Date"))
    if date is not None:
        return max(0, int(date - time.time()) // _DAY)
    return int(days) if days.isdecimal() else None
