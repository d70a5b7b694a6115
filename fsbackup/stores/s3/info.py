"""What people want to know of a bucket beyond its objects: clock, versions, lifecycle rules, open uploads."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

from fsbackup.errors import AccessDeniedError, BackendError, FsbackupError
from fsbackup.stores.base import BackendInfo
from fsbackup.stores.s3.bucket import Bucket
from fsbackup.stores.s3.errors import code_of
from fsbackup.stores.s3.listing import list_uploads

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
#: Most unfinished uploads that are counted.
_COUNTED = 1000
#: Error codes for a setting that does not exist, and for a request that the service does not implement.
_NOT_CONFIGURED = frozenset({"NoSuchLifecycleConfiguration"})
_NOT_OFFERED = frozenset({"NotImplemented", "MethodNotAllowed", "501", "405"})

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
        offered = code_of(error) not in _NOT_OFFERED
        return {}, {name: error.message if offered else "the service does not implement the request"}


async def _request(bucket: Bucket, method: str, **params: Any) -> dict[str, Any]:
    return await bucket.calls.request(bucket.context("examine", ""), method, Bucket=bucket.name, **params)


async def _clock(bucket: Bucket) -> dict[str, Any]:
    """Ask for an answer, each of which tells the service's time; a refusal does, too."""
    try:
        await bucket.head_bucket(bucket.context("examine", ""))
    except BackendError:
        if bucket.calls.clock_skew is None:
            raise
    skew = bucket.calls.clock_skew
    return {"clock_ahead": None if skew is None else -skew}


async def _versions(bucket: Bucket) -> dict[str, Any]:
    response = await _request(bucket, "get_bucket_versioning")
    # "Suspended" keeps old versions, but no new ones.
    return {"keeps_versions": response.get("Status") == "Enabled"}


async def _uploads(bucket: Bucket) -> dict[str, Any]:
    begun = list[float]()
    async with aclosing(list_uploads(bucket)) as uploads:  # type: ignore[type-var]  # a generator
        async for _, _, started in uploads:
            begun.append(started)
            if len(begun) == _COUNTED:
                break
    return {"uploads": len(begun), "oldest_upload": min(begun, default=None)}


async def _expires(bucket: Bucket) -> dict[str, Any]:
    try:
        response = await _request(bucket, "get_bucket_lifecycle_configuration")
    except BackendError as error:
        if code_of(error) not in _NOT_CONFIGURED:
            raise
        response = {}
    days = [_days(rule) for rule in response.get("Rules", []) if _applies_to(rule, bucket.prefix)]
    return {"expires": tuple(sorted(each for each in days if each is not None))}


def _applies_to(rule: dict[str, Any], prefix: str) -> bool:
    """Tell whether a rule may delete objects below `prefix`; fsbackup's objects have no tags."""
    criteria = rule.get("Filter", {})
    both = criteria.get("And", {})
    rule_prefix = str(rule.get("Prefix") or criteria.get("Prefix") or both.get("Prefix") or "")
    tagged = "Tag" in criteria or "Tags" in both
    return (
        rule["Status"] == "Enabled"
        and not tagged
        and (prefix.startswith(rule_prefix) or rule_prefix.startswith(prefix))
    )


def _days(rule: dict[str, Any]) -> int | None:
    """Return after how many days a rule deletes objects; a rule for one date counts from now."""
    expiration = rule.get("Expiration", {})
    if "Date" in expiration:
        return max(0, int((expiration["Date"] - datetime.now(UTC)).days))
    return int(expiration["Days"]) if expiration.get("Days") else None
