"""Listing a bucket's objects, their versions and unfinished uploads: complete, in order, or an error."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import unquote_plus
from xml.etree.ElementTree import Element

from fsbackup.errors import BackendError, TransientError
from fsbackup.keys import META_PREFIX, RESERVED
from fsbackup.stores.base import ObjectStat
from fsbackup.stores.s3.errors import BadXmlError, CallContext, code_of, parse_xml
from fsbackup.stores.s3.http.bucket import Bucket
from fsbackup.stores.s3.http.requests import Request
from fsbackup.stores.s3.http.responses import iso_time, read_small, require, unquoted

if TYPE_CHECKING:
    from http.client import HTTPResponse

#: Sorts after all names under META_PREFIX and before every other key ("0" follows "/").
_AFTER_RECORDS = f"{RESERVED}0"
#: Most bytes of a page: 1,000 keys of 1,024 bytes take 4 MB when all of their characters are quoted.
_MAX_PAGE = 16 << 20
#: What moto calls some of the roots.
_OTHER_TAGS = {"ListPartsResult": "ListPartsResponse", "VersioningConfiguration": "GetBucketVersioningResponse"}
#: XML cannot have every character.
_QUOTED = ("encoding-type", "url")
#: Objects of a listing whose order is unknown that are held in memory, to sort them if need be.
_HELD = 10_000


@dataclass(frozen=True, slots=True)
class _Page:
    """One response to ListObjectsV2; `token` is None on the last page."""

    items: list[ObjectStat]
    token: str | None


async def list_objects(bucket: Bucket, prefix: str, start_after: str) -> AsyncIterator[ObjectStat]:
    """Yield the objects whose names start with `prefix` and sort after `start_after`, in ascending order.

    Amazon S3, R2 and B2 list in the order of the names' UTF-8 bytes. Servers that keep objects in directories
    list ``a/b`` before ``a b``, and what they make of StartAfter is undefined. What was yielded cannot be taken
    back, so of a server that is not known to keep the order, the first names are held and sorted. A listing that
    has more of them is looked through once, without keeping it, for a name out of order: then either it can be
    yielded page by page, as all later ones of this store, or it must be collected and sorted.
    """
    if bucket.lists_in_order is None:
        held = await _collect(bucket, prefix, _HELD + 1)
        if len(held) <= _HELD:
            for item in _sorted(held, prefix, start_after):
                yield item
            return
        del held
        bucket.lists_in_order = await _is_in_order(bucket, prefix)
    if bucket.lists_in_order:
        async for item in _in_order(bucket, prefix, start_after):
            yield item
    else:
        for item in _sorted(await _collect(bucket, prefix), prefix, start_after):
            yield item


async def list_level(bucket: Bucket, prefix: str, limit: int | None) -> AsyncIterator[ObjectStat]:
    """Yield what lies directly below `prefix`; see `ObjectStore.list_level`."""
    async for item in _in_order(bucket, prefix, "", "/", limit):
        yield item


async def list_beginning(bucket: Bucket, prefix: str, limit: int) -> AsyncIterator[ObjectStat]:
    """Yield what lies directly below `prefix`, of the first page of `limit` names that has any."""
    found: dict[str, ObjectStat] = {}
    async for item in _pages(bucket, prefix, limit=limit):
        head, slash, _ = item.name.removeprefix(prefix).partition("/")
        name = f"{prefix}{head}{slash}"
        found[name] = ObjectStat(name, 0) if slash else item
    for item in _sorted(list(found.values()), prefix, ""):
        yield item


async def _collect(bucket: Bucket, prefix: str, most: int | None = None) -> list[ObjectStat]:
    """Return the objects, up to `most` of them; one that comes again is an error, since there might be no end."""
    found: dict[str, ObjectStat] = {}
    async for item in _pages(bucket, prefix):
        if item.name in found:
            raise _listing_error(bucket, prefix, f"{item.name!r} is listed twice")
        found[item.name] = item
        if len(found) == most:
            break
    return list(found.values())


async def _is_in_order(bucket: Bucket, prefix: str) -> bool:
    last = ""
    async for item in _pages(bucket, prefix):
        if item.name < last:
            return False
        if item.name == last:  # it might be listed for ever
            raise _listing_error(bucket, prefix, f"{last!r} is listed twice")
        last = item.name
    return True


def _sorted(items: list[ObjectStat], prefix: str, after: str) -> list[ObjectStat]:
    """Return a whole listing in order, from `after` on, without fsbackup's records."""
    items.sort(key=lambda item: item.name.encode("utf-8", "surrogateescape"))
    hidden = _hidden(prefix)
    return [item for item in items if item.name > after and not _is_hidden(item, hidden)]


def _hidden(prefix: str) -> str:
    """Return the beginning of the names that a listing leaves out, "" when fsbackup's records were asked for."""
    return "" if prefix.startswith(RESERVED) else META_PREFIX


def _is_hidden(item: ObjectStat, hidden: str) -> bool:
    return bool(hidden) and item.name.startswith(hidden)


async def _in_order(
    bucket: Bucket, prefix: str, start_after: str, delimiter: str = "", limit: int | None = None
) -> AsyncIterator[ObjectStat]:
    """Yield the objects as they are listed; an error when they are not in order."""
    hidden, last = _hidden(prefix), start_after
    async for item in _pages(bucket, prefix, start_after, hidden, delimiter, limit):
        if item.name <= last and last:
            bucket.lists_in_order = bucket.profile.lists_in_order or False
            raise _listing_error(bucket, prefix, f"{item.name!r} is listed after {last!r}")
        last = item.name
        if not _is_hidden(item, hidden):
            yield item


async def _pages(
    bucket: Bucket, prefix: str, after: str = "", hidden: str = "", delimiter: str = "", limit: int | None = None
) -> AsyncIterator[ObjectStat]:
    """Yield the items of all pages; skip those that start with `hidden` from the page on that reaches them.

    With a `delimiter`, the names that have it after the prefix are one item each, up to it and of size 0. With a
    `limit` pages have at most so many items, and the first with one that is not hidden is the last.

    A page whose token is missing or was used before, and a second page in a row without an object, are errors:
    such a listing might never end.
    """
    token: str | None = None
    used_tokens: set[str] = set()
    was_empty = False
    while True:
        page = await _page(bucket, prefix, after, token, delimiter, limit)
        for item in page.items:
            yield item
        if page.token is None or (limit and any(not _is_hidden(item, hidden) for item in page.items)):
            return
        if page.items and _is_hidden(page.items[-1], hidden):
            after, token, was_empty = _AFTER_RECORDS, None, False
            continue
        if not page.token or page.token in used_tokens:
            raise _listing_error(
                bucket, prefix, "IsTruncated is true, but NextContinuationToken is missing or repeated"
            )
        if was_empty and not page.items:
            raise _listing_error(bucket, prefix, "two pages in a row have no object, and more are announced")
        was_empty = not page.items
        used_tokens.add(page.token)
        token = page.token


async def _page(
    bucket: Bucket, prefix: str, after: str, token: str | None, delimiter: str, limit: int | None
) -> _Page:
    context = bucket.context("list", prefix)
    query = {
        "list-type": "2",
        "prefix": bucket.prefix + prefix,
        "max-keys": str(min(limit or bucket.page_size, bucket.page_size)),
        _QUOTED[0]: _QUOTED[1],
    }
    if delimiter:
        query["delimiter"] = delimiter
    if token:
        query["continuation-token"] = token
    elif after:
        query["start-after"] = bucket.prefix + after
    request = Request("GET", query=tuple(query.items()))
    reply = await bucket.send(context, request, lambda response: _read(response, bucket, prefix, context))
    bucket.mark_exists()
    return reply.content


def _read(response: HTTPResponse, bucket: Bucket, prefix: str, context: CallContext) -> _Page:
    """Read and check a page, in a thread."""
    root = read_page(response, "ListBucketResult", context)
    decode = _decoder(root)
    items = [_item(element, bucket, prefix, context, decode) for element in root.iterfind("Contents")]
    common = root.iterfind("CommonPrefixes")
    if prefixes := [_common_prefix(element, bucket, prefix, context, decode) for element in common]:
        items = sorted(items + prefixes, key=lambda item: item.name.encode("utf-8", "surrogateescape"))
    name, requested = root.findtext("Name"), bucket.prefix + prefix
    if require(name, "Name", context) != bucket.name or decode(root.findtext("Prefix") or "") != requested:
        raise _listing_error(bucket, prefix, f"it is of {name!r} and the prefix {root.findtext('Prefix')!r}")
    is_truncated = require(root.findtext("IsTruncated"), "IsTruncated", context) == "true"
    return _Page(items, (root.findtext("NextContinuationToken") or "") if is_truncated else None)


def read_page(response: HTTPResponse, tag: str, context: CallContext) -> Element:
    """Return the root of a response of up to 1,000 entries, which must have this tag; called in a thread.

    Some servers have names of their own for it.
    """
    try:
        root = parse_xml(read_small(response, _MAX_PAGE))
    except BadXmlError as error:
        raise context.error(TransientError, f"the response is not a {tag}: {error}") from None
    if root.tag not in (tag, _OTHER_TAGS.get(tag)):
        # A service that does not know a question about the bucket lists it, and will do so again.
        kind = BackendError if root.tag == "ListBucketResult" else TransientError
        raise context.error(kind, f"the response is not a {tag}, but {root.findtext('Code') or root.tag!r}")
    return root


def _item(
    element: Element, bucket: Bucket, prefix: str, context: CallContext, decode: Callable[[str], str]
) -> ObjectStat:
    said = {child.tag: child.text or "" for child in element}
    key = decode(require(said.get("Key"), "Key", context))
    size = require(said.get("Size"), "Size", context)
    if not key.startswith(bucket.prefix + prefix):
        raise _listing_error(bucket, prefix, f"{key!r} does not start with the requested prefix")
    if not size.isdecimal():
        raise _listing_error(bucket, prefix, f"the Size of {key!r} is {size!r}")
    return ObjectStat(
        name=key.removeprefix(bucket.prefix),
        size=int(size),
        modified=iso_time(said.get("LastModified")),
        etag=unquoted(said.get("ETag")),
    )


def _common_prefix(
    element: Element, bucket: Bucket, prefix: str, context: CallContext, decode: Callable[[str], str]
) -> ObjectStat:
    """Return the item of all names that start with a common prefix."""
    name = decode(require(element.findtext("Prefix"), "Prefix", context))
    if not name.startswith(bucket.prefix + prefix):
        raise _listing_error(bucket, prefix, f"the common prefix {name!r} does not start with the requested one")
    return ObjectStat(name.removeprefix(bucket.prefix), 0)


def _listing_error(bucket: Bucket, prefix: str, what: str) -> BackendError:
    error: BackendError = bucket.context("list", prefix).error(
        BackendError,
        f"invalid listing: {what}",
        "report this to the provider: the listing would be incomplete",
    )
    return error


@dataclass(frozen=True, slots=True)
class Version:
    """A version of an object, or a delete marker."""

    name: str
    id: str
    is_marker: bool
    modified: float


async def versions_of(bucket: Bucket, name: str) -> list[Version]:
    """Return all versions and delete markers of exactly this name, newest first."""
    found: list[Version] = []
    async for page in _version_pages(bucket, name, ()):
        mine = [each for each in page if each.name == name]
        found += mine
        if len(mine) < len(page):  # the name sorts before all longer ones
            break
    return _newest_first(found)


async def versions_between(
    bucket: Bucket, names: Sequence[str], limit: int, page_size: int | None = None
) -> dict[str, list[Version]]:
    """Return the versions of some names, which ascend, by listing from the first to the last of them.

    Without the names that were not reached because more than `limit` other versions lie between them.
    """
    found: dict[str, list[Version]] = {name: [] for name in names}
    prefix, before = common_prefix(names), before_first(names)
    start = (("key-marker", bucket.prefix + before),) if before.startswith(prefix) else ()
    async for page in _version_pages(bucket, prefix, start, page_size):
        for version in page:
            if version.name in found:
                found[version.name].append(version)
            else:
                limit -= 1
        reached = page[-1].name if page else ""
        if reached > names[-1]:
            break
        if limit < 0:
            return {name: _newest_first(found[name]) for name in names if name < reached}
    return {name: _newest_first(each) for name, each in found.items()}


def common_prefix(names: Sequence[str]) -> str:
    """Return the text with which all names start, which ascend."""
    pairs = enumerate(zip(names[0], names[-1], strict=False))
    return names[0][: next((at for at, (first, last) in pairs if first != last), len(names[0]))]


def before_first(names: Sequence[str]) -> str:
    """Return a text that sorts before the first of ascending names, with little between the two."""
    return names[0][:-1]


def _newest_first(versions: list[Version]) -> list[Version]:
    """Within a second, versions stay in the order of the service."""
    return sorted(versions, key=lambda each: each.modified, reverse=True)


async def _version_pages(
    bucket: Bucket, prefix: str, start: tuple[tuple[str, str], ...], page_size: int | None = None
) -> AsyncIterator[list[Version]]:
    context, most = bucket.context("remove", prefix), min(page_size or bucket.page_size, bucket.page_size)
    query = (("versions", ""), ("prefix", bucket.prefix + prefix), ("max-keys", str(most)), _QUOTED)
    markers = {"key-marker": "NextKeyMarker", "version-id-marker": "NextVersionIdMarker"}
    async for page in _marked_pages(
        bucket, context, "ListVersionsResult", Request("GET", query=query), markers, start
    ):
        entries = [each for each in page if each.tag in ("Version", "DeleteMarker")]
        decode = _decoder(page)
        yield [_version(each, bucket, context, decode) for each in entries]


async def list_uploads(bucket: Bucket) -> AsyncIterator[tuple[str, str, float]]:
    """Yield name, UploadId and start (epoch seconds, 0.0 if unknown) of all unfinished uploads."""
    context = bucket.context("examine", "")
    query = (("uploads", ""), ("prefix", bucket.prefix), ("max-uploads", str(bucket.page_size)), _QUOTED)
    markers = {"key-marker": "NextKeyMarker", "upload-id-marker": "NextUploadIdMarker"}
    tag, request = "ListMultipartUploadsResult", Request("GET", query=query)
    try:
        async for page in _marked_pages(bucket, context, tag, request, markers):
            decode = _decoder(page)
            for each in page.iterfind("Upload"):
                key = decode(require(each.findtext("Key"), "Key", context))
                upload_id = str(require(each.findtext("UploadId"), "UploadId", context))
                if key.startswith(bucket.prefix):
                    started = iso_time(each.findtext("Initiated")) or 0.0
                    yield key.removeprefix(bucket.prefix), upload_id, started
    except BackendError as error:
        if code_of(error) != "NoSuchUpload":  # what servers answer that have none
            raise


async def upload_parts(bucket: Bucket, name: str, upload_id: str) -> AsyncIterator[tuple[int, float]]:
    """Yield size and time (epoch seconds) of each part of an upload."""
    context = bucket.context("examine", name)
    request = Request("GET", bucket.prefix + name, (("uploadId", upload_id),))
    markers = {"part-number-marker": "NextPartNumberMarker"}
    async for page in _marked_pages(bucket, context, "ListPartsResult", request, markers):
        for each in page.iterfind("Part"):
            size = require(each.findtext("Size"), "Size", context)
            if not size.isdecimal():
                raise context.error(BackendError, f"invalid listing: the Size of a part is {size!r}")
            yield int(size), require(iso_time(each.findtext("LastModified")), "LastModified", context)


async def _marked_pages(
    bucket: Bucket,
    context: CallContext,
    tag: str,
    request: Request,
    markers: Mapping[str, str],
    start: tuple[tuple[str, str], ...] = (),
) -> AsyncIterator[Element]:
    """Yield the pages of a listing that goes on from markers: by parameter, the field with its next value.

    Markers that were used before are an error, and so are entries that came before, and a second page in a row
    without any: such a listing might never end.
    """
    used, came, was_empty = {start}, set[int](), False
    while True:
        asked = replace(request, query=(*request.query, *start))
        page = (await bucket.send(context, asked, lambda response: read_page(response, tag, context))).content
        bucket.mark_exists()
        yield page
        if page.findtext("IsTruncated") != "true":
            return
        entries = hash(tuple("".join(each.itertext()) for each in page if len(each)))
        is_empty = entries == hash(())
        if (is_empty and was_empty) or entries in came:
            raise context.error(BackendError, "invalid listing: a page has nothing new, and more are announced")
        was_empty = is_empty
        if not is_empty:
            came.add(entries)
        start = _following(context, page, markers, used)
        used.add(start)


def _version(element: Element, bucket: Bucket, context: CallContext, decode: Callable[[str], str]) -> Version:
    key = decode(require(element.findtext("Key"), "Key", context))
    modified = require(iso_time(element.findtext("LastModified")), "LastModified", context)
    identity = str(require(element.findtext("VersionId"), "VersionId", context))
    return Version(key.removeprefix(bucket.prefix), identity, element.tag == "DeleteMarker", modified)


def _following(
    context: CallContext, page: Element, markers: Mapping[str, str], used: Container[tuple[tuple[str, str], ...]]
) -> tuple[tuple[str, str], ...]:
    said = {name: page.findtext(field) or "" for name, field in markers.items()}
    if said.get("key-marker"):
        said["key-marker"] = _decoder(page)(said["key-marker"])
    following = tuple((name, value) for name, value in said.items() if value)
    first = next(iter(markers))
    if not said[first] or following in used:
        raise context.error(
            BackendError, f"invalid listing: IsTruncated is true, but {markers[first]} is missing or repeated"
        )
    return following


def _decoder(page: Element) -> Callable[[str], str]:
    return unquote_plus if page.findtext("EncodingType") == "url" else str
