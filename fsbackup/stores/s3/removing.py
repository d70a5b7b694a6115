"""Removes one object, with all its versions where the bucket keeps them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, cast
from urllib.parse import unquote_plus

from fsbackup.errors import BackendError, ConflictError, LockedError, ObjectNotFoundError, TransientError
from fsbackup.events import log
from fsbackup.stores.s3.attempts import Request
from fsbackup.stores.s3.bucket import Bucket, iso_time, require
from fsbackup.stores.s3.errors import CallContext, code_of
from fsbackup.stores.s3.listing import read_page

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element


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


async def replaced_version(bucket: Bucket, name: str, version: str) -> bool:
    """Return whether the version of that id replaced another one, and not nothing or a delete marker."""
    versions = await _versions(bucket, name)
    ids = [each.id for each in versions]
    older = versions[ids.index(version) + 1 :] if version in ids else []
    return bool(older) and not older[0].is_marker


async def _remove_versions(bucket: Bucket, name: str, newest: str | None) -> None:
    """Remove the oldest version first, so that an older one never becomes current."""
    versions = [each.id for each in await _versions(bucket, name)]
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


@dataclass(frozen=True, slots=True)
class _Version:
    """A version of an object, or a delete marker; a listing has them newest first."""

    id: str
    is_marker: bool
    modified: float


async def _versions(bucket: Bucket, name: str) -> list[_Version]:
    """Return all versions and delete markers of exactly this name, newest first."""
    found: list[_Version] = []
    start: tuple[tuple[str, str], ...] = ()
    context = bucket.context("remove", name)
    while True:
        page = await _page(bucket, name, start, context)
        bucket.mark_exists()
        entries = [each for each in page if each.tag in ("Version", "DeleteMarker")]
        mine = [each for each in entries if _key(each, page, context) == bucket.prefix + name]
        found += [_version(each, context) for each in mine]
        # The name sorts before all longer ones, so a page with another name is the last.
        if page.findtext("IsTruncated") != "true" or len(mine) < len(entries):
            # Within a second in the order of the service.
            return sorted(found, key=lambda each: each.modified, reverse=True)
        start = _next_page(bucket, name, page, start)


async def _page(bucket: Bucket, name: str, start: tuple[tuple[str, str], ...], context: CallContext) -> Element:
    query = (
        ("versions", ""),
        ("prefix", bucket.prefix + name),
        ("max-keys", str(bucket.page_size)),
        ("encoding-type", "url"),
        *start,
    )
    request = Request("GET", query=query)
    reply = await bucket.calls.send(
        context, request, lambda response: read_page(response, "ListVersionsResult", context)
    )
    return reply.content


def _key(element: Element, page: Element, context: CallContext) -> str:
    key = str(require(element.findtext("Key"), "Key", context))
    return unquote_plus(key) if page.findtext("EncodingType") == "url" else key


def _version(element: Element, context: CallContext) -> _Version:
    modified = require(iso_time(element.findtext("LastModified")), "LastModified", context)
    identity = str(require(element.findtext("VersionId"), "VersionId", context))
    return _Version(identity, element.tag == "DeleteMarker", modified)


def _next_page(
    bucket: Bucket, name: str, page: Element, start: tuple[tuple[str, str], ...]
) -> tuple[tuple[str, str], ...]:
    key, version = page.findtext("NextKeyMarker") or "", page.findtext("NextVersionIdMarker") or ""
    key = unquote_plus(key) if page.findtext("EncodingType") == "url" else key
    following = tuple(each for each in (("key-marker", key), ("version-id-marker", version)) if each[1])
    if not key or following == start:
        raise bucket.context("remove", name).error(
            BackendError,
            "invalid listing of versions: IsTruncated is true, but NextKeyMarker is missing or repeated",
        )
    return following
