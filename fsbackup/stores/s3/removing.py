"""Removes one object, with all its versions where the bucket keeps them."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any, cast

from fsbackup.errors import BackendError, ConflictError, LockedError, ObjectNotFoundError, TransientError
from fsbackup.events import log
from fsbackup.stores.s3.bucket import Bucket, iso_time, require
from fsbackup.stores.s3.errors import CallContext, code_of


async def remove_object(bucket: Bucket, name: str, newest: str | None = None) -> None:
    """Remove exactly this one object; a missing one is success, a missing bucket is not.

    Raises
    ------
    ConflictError
        Where versions are removed one by one, and one was stored after the version `newest`: it stays.
    """
    if bucket.profile.removes_versions:
        await _remove_versions(bucket, name, newest)
    else:
        await _delete(bucket, name)


async def _delete(bucket: Bucket, name: str, version: str | None = None) -> None:
    context = bucket.context("remove", name)
    try:
        await bucket.delete(context, name, version)
    except ObjectNotFoundError:
        await bucket.check_exists(context)
    except TransientError:
        raise
    except BackendError as error:
        if version and code_of(error) == "NoSuchVersion":
            return
        if (locked := await _lock(bucket, name, context, version)) is None:
            raise
        raise locked from error


async def _lock(bucket: Bucket, name: str, context: CallContext, version: str | None) -> BackendError | None:
    """Return the object lock behind a refused delete, None without one; the refusal does not name it."""
    try:
        headers = (await bucket.head_reply(context, name, version)).headers
    except BackendError:
        return None
    hint = "remove it when the lock has ended"
    if headers.get("x-amz-object-lock-legal-hold") == "ON":
        return cast(BackendError, context.error(LockedError, "the object has a legal hold", hint))
    until = iso_time(headers.get("x-amz-object-lock-retain-until-date"))
    if until is None or until <= time.time():
        return None
    mode = headers.get("x-amz-object-lock-mode", "").lower()
    end = datetime.fromtimestamp(until, UTC)
    message = f"the object has an object lock ({mode}) until {end:%Y-%m-%d %H:%M} UTC"
    return cast(BackendError, context.error(LockedError, message, hint))


async def _remove_versions(bucket: Bucket, name: str, newest: str | None) -> None:
    """Remove the oldest version first, so that an older one never becomes current."""
    versions = await _versions(bucket, name)
    later = versions.index(newest) if newest in versions else 0
    for version in reversed(versions[later:]):
        await _delete(bucket, name, version)
    log.debug("%s: removed %d version(s) of %r", bucket.calls.name, len(versions) - later, name)
    if later:
        raise bucket.context("remove", name).error(
            ConflictError,
            "another writer stored another object under this name",
            "run it again when the other writer has finished",
        )


async def _versions(bucket: Bucket, name: str) -> list[str]:
    """Return the ids of all versions and delete markers of exactly this name, newest first."""
    found: list[tuple[bool, float, str]] = []
    start: dict[str, str] = {}
    context = bucket.context("remove", name)
    while True:
        page = await bucket.calls.request(
            context,
            "list_object_versions",
            Bucket=bucket.name,
            Prefix=bucket.prefix + name,
            MaxKeys=bucket.page_size,
            **start,
        )
        bucket.mark_exists()
        entries = page.get("Versions", []) + page.get("DeleteMarkers", [])
        mine = [item for item in entries if require(item.get("Key"), "Key", context) == bucket.prefix + name]
        found += [_version(item, context) for item in mine]
        # The name sorts before all longer ones, so a page with another name is the last.
        if not page.get("IsTruncated") or len(mine) < len(entries):
            return [version for _, _, version in sorted(found, reverse=True)]
        start = _next_page(bucket, name, page, start)


def _version(item: dict[str, Any], context: CallContext) -> tuple[bool, float, str]:
    modified = require(item.get("LastModified"), "LastModified", context).timestamp()
    is_latest = bool(require(item.get("IsLatest"), "IsLatest", context))
    return is_latest, modified, str(require(item.get("VersionId"), "VersionId", context))


def _next_page(bucket: Bucket, name: str, page: dict[str, Any], start: dict[str, str]) -> dict[str, str]:
    following = {
        "KeyMarker": page.get("NextKeyMarker", ""),
        "VersionIdMarker": page.get("NextVersionIdMarker", ""),
    }
    if not following["KeyMarker"] or following == start:
        raise bucket.context("remove", name).error(
            BackendError,
            "invalid listing of versions: IsTruncated is true, but NextKeyMarker is missing or repeated",
        )
    return {key: value for key, value in following.items() if value}
