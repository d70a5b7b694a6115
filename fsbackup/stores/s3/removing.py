"""Removing one object, with all its versions where the bucket keeps them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import cast

from fsbackup.errors import BackendError, LockedError, ObjectNotFoundError, TransientError
from fsbackup.events import log
from fsbackup.stores.s3.calls import Answer
from fsbackup.stores.s3.errors import CallContext, code_of
from fsbackup.stores.s3.target import Bucket, require_field


async def remove_object(target: Bucket, name: str) -> None:
    """Remove exactly this one object; a missing one is success, a missing bucket is not."""
    if target.profile.removes_versions:
        await _remove_versions(target, name)
    else:
        await _delete(target, name)


async def _delete(target: Bucket, name: str, **version: str) -> None:
    where = target.where("remove", name)
    try:
        await target.calls.request(where, "delete_object", **target.at(name), **version)
    except ObjectNotFoundError:
        await target.prove(where)
    except TransientError:
        raise
    except BackendError as error:
        if version and code_of(error) == "NoSuchVersion":
            return
        if (locked := await _lock(target, name, where, version)) is None:
            raise
        raise locked from error
    else:
        target.seen()


async def _lock(target: Bucket, name: str, where: CallContext, version: dict[str, str]) -> BackendError | None:
    """Return what keeps an object whose delete was refused: services only say "access denied" or the like."""
    try:
        head = await target.calls.request(where, "head_object", **target.at(name), **version)
    except BackendError:
        return None
    until, hint = head.get("ObjectLockRetainUntilDate"), "it can be removed when the lock has ended"
    if head.get("ObjectLockLegalHoldStatus") == "ON":
        return cast(BackendError, where.error(LockedError, "a legal hold keeps it", hint))
    if until is None or until <= datetime.now(UTC):
        return None
    mode = str(head.get("ObjectLockMode", "")).lower()
    said = f"its object lock ({mode}) keeps it until {until:%Y-%m-%d %H:%M} UTC"
    return cast(BackendError, where.error(LockedError, said, hint))


async def _remove_versions(target: Bucket, name: str) -> None:
    """Remove the oldest version first: an older one never shows in place of the newest."""
    versions = await _versions(target, name)
    for version in reversed(versions):
        await _delete(target, name, VersionId=version)
    log.debug("%s: removed %d version(s) of %r", target.calls.name, len(versions), name)


async def _versions(target: Bucket, name: str) -> list[str]:
    """Return the ids of all versions and delete markers of exactly this name, newest first."""
    found: list[tuple[bool, float, str]] = []
    start: dict[str, str] = {}
    where = target.where("remove", name)
    while True:
        page = await target.calls.request(
            where,
            "list_object_versions",
            Bucket=target.bucket,
            Prefix=target.prefix + name,
            MaxKeys=target.page_size,
            **start,
        )
        target.seen()
        entries = page.get("Versions", []) + page.get("DeleteMarkers", [])
        mine = [item for item in entries if require_field(item, "Key", where) == target.prefix + name]
        found += [_version(item, where) for item in mine]
        # The name itself sorts before all others that start with it: a page with another one is the last.
        if not page.get("IsTruncated") or len(mine) < len(entries):
            return [version for _, _, version in sorted(found, reverse=True)]
        start = _next(target, name, page, start)


def _version(item: Answer, where: CallContext) -> tuple[bool, float, str]:
    modified = require_field(item, "LastModified", where).timestamp()
    return bool(require_field(item, "IsLatest", where)), modified, str(require_field(item, "VersionId", where))


def _next(target: Bucket, name: str, page: Answer, start: dict[str, str]) -> dict[str, str]:
    following = {
        "KeyMarker": page.get("NextKeyMarker", ""),
        "VersionIdMarker": page.get("NextVersionIdMarker", ""),
    }
    if not following["KeyMarker"] or following == start:
        raise target.where("remove", name).error(
            BackendError, "the service's listing of versions cannot be trusted: it does not go on"
        )
    return {key: value for key, value in following.items() if value}
