"""Removes objects, and all their versions where a bucket has them: one by DeleteObject, many by DeleteObjects.

Before many objects are removed, a listing shows whether each is still the one to remove: one request for up to
1,000 consecutive names. In a bucket with versions, it gives their version ids. Then one DeleteObjects removes up
to 1,000 of them, and its response confirms each. Objects that it does not confirm are removed by a DeleteObject
each, which is retried and has precise errors; so are all where the service does not support DeleteObjects.

Without versions, the removal of a known object is conditional on its ETag, where the service supports that
(`Profile.conditional_delete`): an object that has replaced it since then stays. Elsewhere, as on R2, an object
that replaces another one between the HEAD or listing and the DELETE, a round trip later, is removed in its place.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple, cast

from fsbackup.aio import map_some
from fsbackup.errors import (
    AccessDeniedError,
    BackendError,
    ConflictError,
    FsbackupError,
    LockedError,
    ObjectNotFoundError,
    TransientError,
)
from fsbackup.events import log
from fsbackup.stores.base import ObjectStat
from fsbackup.stores.s3.control.listing import (
    Version,
    before_first,
    common_prefix,
    list_objects,
    read_page,
    versions_between,
    versions_of,
)
from fsbackup.stores.s3.control.shared_look import versions_now
from fsbackup.stores.s3.errors import (
    NOT_OFFERED,
    AnswerError,
    CallContext,
    code_of,
    scrub,
    scrubbed_code,
    translate,
)
from fsbackup.stores.s3.http.bucket import Bucket
from fsbackup.stores.s3.http.requests import Request
from fsbackup.stores.s3.http.responses import XML_NAMESPACE, iso_time

if TYPE_CHECKING:
    from http.client import HTTPResponse

#: Most names of one request (Amazon S3, R2 and B2: DeleteObjects).
_MAX_NAMES = 1000
#: Up to this many objects are checked by a HEAD each: a listing costs ten times as much on R2.
_FEW = 10
#: Other objects per name that a listing may return before the names are checked one by one.
_LIST_WORTH = 10
#: Concurrent requests for single objects.
_AT_ONCE = 16
#: Seconds by which the times of an object in HEAD and in a listing may differ: HTTP has whole seconds.
_SAME_TIME = 1.0


class _Target(NamedTuple):
    """What to delete: a name, one version of it, or its object only while that has a certain ETag."""

    name: str
    version: str = ""
    etag: str | None = None


#: By name the error of an object that still exists or may; None for one that is gone.
Outcomes = dict[str, FsbackupError | None]


async def remove_object(bucket: Bucket, removal: ObjectStat | str) -> None:
    """Remove exactly this one object; a missing one is success, a missing bucket is not.

    Raises
    ------
    ConflictError
        For an `ObjectStat`, when another object has the name by now, which stays: in a bucket with versions, and
        where the service has conditional deletes.
    """
    name = removal if isinstance(removal, str) else removal.name
    if not bucket.profile.removes_versions:
        await _delete(bucket, _unchanged(bucket, removal))
        return
    versions = await versions_of(bucket, name)
    later = _later(versions, None if isinstance(removal, str) else removal.version_id)
    for version in reversed(versions[later:]):  # the oldest first, so that an older one never becomes current
        await _delete(bucket, _Target(name, version.id))
    log.debug("%s: removed %d version(s) of %r", bucket.backend, len(versions) - later, name)
    if later:
        raise _replaced_error(bucket, name)


async def remove_objects(bucket: Bucket, removals: Sequence[ObjectStat | str]) -> list[FsbackupError | None]:
    """Remove many objects; return one result for each, see `ObjectStore.remove_many`."""
    stats = {each if isinstance(each, str) else each.name: each for each in removals}
    remove = _remove_versions if bucket.profile.removes_versions else _remove_unchanged
    outcomes = await remove(bucket, {name: stats[name] for name in sorted(stats)})
    return [outcomes[each if isinstance(each, str) else each.name] for each in removals]


async def replaced_version(bucket: Bucket, name: str, version: str) -> bool:
    """Return whether this version replaced another one, rather than nothing or a delete marker."""
    versions = await versions_now(bucket, name, version)
    ids = [each.id for each in versions]
    older = versions[ids.index(version) + 1 :] if version in ids else []
    return bool(older) and not older[0].is_marker


async def _remove_versions(bucket: Bucket, removals: Mapping[str, ObjectStat | str]) -> Outcomes:
    """Remove the older versions of all names first, so that an older one never becomes current."""
    versions, outcomes = await _versions(bucket, list(removals))
    newest: list[_Target] = []
    older: list[_Target] = []
    for name, found in versions.items():
        outcomes[name] = None
        removal = removals[name]
        later = _later(found, removal.version_id if isinstance(removal, ObjectStat) else None)
        newest += [_Target(name, each.id) for each in found[later : later + 1]]
        older += [_Target(name, each.id) for each in found[later + 1 :]]
        if later:
            outcomes[name] = _replaced_error(bucket, name)
    failed = await _delete_all(bucket, older)
    failed |= await _delete_all(bucket, [each for each in newest if each.name not in failed])
    return outcomes | failed


def _later(versions: list[Version], newest: str | None) -> int:
    """Return how many versions are later than `newest`: all, if that is gone and objects are left."""
    ids = [each.id for each in versions]
    if newest is None or newest in ids:
        return 0 if newest is None else ids.index(newest)
    return 0 if all(each.is_marker for each in versions) else len(versions)


async def _versions(bucket: Bucket, names: list[str]) -> tuple[dict[str, list[Version]], Outcomes]:
    """Return the versions of the names, and the errors of the names whose versions cannot be listed."""
    versions, outcomes = dict[str, list[Version]](), Outcomes()
    left: Sequence[str] = names
    try:
        if len(names) > 1:
            versions = await versions_between(bucket, names, _LIST_WORTH * len(names))
            left = [name for name in names if not versions.get(name)]  # a listing may omit some, which may exist
    except FsbackupError as error:
        return {}, {name: _for_name(error, bucket, name) for name in names}

    async def look(name: str) -> None:
        try:
            versions[name] = await versions_of(bucket, name)
        except FsbackupError as error:
            outcomes[name] = error

    await map_some(look, left, _AT_ONCE)
    return versions, outcomes


async def _remove_unchanged(bucket: Bucket, removals: Mapping[str, ObjectStat | str]) -> Outcomes:
    """Remove the objects that have not been replaced since their stat."""
    stats = [each for each in removals.values() if isinstance(each, ObjectStat)]
    outcomes = await _compare(bucket, stats)
    targets = [_unchanged(bucket, each) for name, each in removals.items() if name not in outcomes]
    return dict.fromkeys(removals) | outcomes | await _delete_all(bucket, targets)


def _unchanged(bucket: Bucket, removal: ObjectStat | str) -> _Target:
    if isinstance(removal, str):
        return _Target(removal)
    return _Target(removal.name, etag=removal.etag if bucket.deletes_on_condition else None)


async def _compare(bucket: Bucket, stats: list[ObjectStat]) -> Outcomes:
    """Return the outcomes of the objects that are gone, were replaced, or could not be checked."""
    outcomes: Outcomes = {}
    wanted = {stat.name: stat for stat in stats}

    def compare(stat: ObjectStat, now: ObjectStat | None) -> None:
        if now is None or not _is_same(stat, now):
            outcomes[stat.name] = None if now is None else _replaced_error(bucket, stat.name)

    async def look(stat: ObjectStat) -> None:
        try:
            info = await bucket.head(stat.name, "remove")
            compare(stat, None if info is None else info.stat(stat.name, info.size or 0))
        except FsbackupError as error:
            outcomes[stat.name] = error

    left = stats
    try:
        if len(stats) > _FEW:
            found = await _listed(bucket, stats)
            left = [stat for stat in stats if stat.name not in found]  # a listing may omit some, which may exist
            for name, now in found.items():
                compare(wanted[name], now)
    except AccessDeniedError as error:  # the key may delete and not list
        log.info("%s: objects are checked one by one: %s", bucket.backend, error)
    except FsbackupError as error:
        return {each.name: _for_name(error, bucket, each.name) for each in stats}
    await map_some(look, left, _AT_ONCE)
    return outcomes


async def _listed(bucket: Bucket, stats: list[ObjectStat]) -> dict[str, ObjectStat]:
    """List from the first name to the last, unless other objects are too many; return the objects found."""
    names = [each.name for each in stats]
    wanted, limit = set(names), _LIST_WORTH * len(names)
    found: dict[str, ObjectStat] = {}
    listing = list_objects(bucket, common_prefix(names), before_first(names))
    async with aclosing(listing):  # type: ignore[type-var]  # a generator
        async for item in listing:
            if item.name in wanted:
                found[item.name] = item
            else:
                limit -= 1
            if item.name >= names[-1] or limit < 0:
                break
    return found


def _is_same(stat: ObjectStat, now: ObjectStat) -> bool:
    has_etags = stat.etag is not None and now.etag is not None
    has_times = stat.modified is not None and now.modified is not None
    return (
        stat.size == now.size
        and (not has_etags or stat.etag == now.etag)
        and (not has_times or abs((stat.modified or 0.0) - (now.modified or 0.0)) <= _SAME_TIME)
    )


async def _delete_all(bucket: Bucket, targets: Sequence[_Target]) -> Outcomes:
    """Remove all targets; return the errors of the names of which a target still exists or may."""
    together = [each for each in targets if _fits_into_xml(each.name)]
    single = [each for each in targets if not _fits_into_xml(each.name)]
    errors: Outcomes = {}
    for start in range(0, len(together), _MAX_NAMES):
        some = together[start : start + _MAX_NAMES]
        if len(some) < 2 or bucket.refuses_delete_objects:
            single += some
            continue
        found, unknown = await _delete_objects(bucket, some)
        errors |= found
        single += unknown

    async def delete(target: _Target) -> None:
        try:
            await _delete(bucket, target)
        except FsbackupError as error:
            errors[target.name] = error

    await map_some(delete, single, _AT_ONCE)
    return errors


def _fits_into_xml(name: str) -> bool:
    """Tell whether a name survives a round trip through XML unchanged (XML 1.0, 2.2 and 2.11)."""
    return name.isprintable()


async def _delete_objects(bucket: Bucket, targets: Sequence[_Target]) -> tuple[Outcomes, list[_Target]]:
    """Send one DeleteObjects; return the names' errors, and the targets whose outcome is still unknown."""
    context = bucket.context("remove", common_prefix([each.name for each in targets]))
    body = _body(bucket, targets)
    md5 = hashlib.md5(body, usedforsecurity=False).digest()  # the only checksum that all services accept
    headers = {"Content-MD5": base64.b64encode(md5).decode(), "Content-Type": "application/xml"}
    request = Request("POST", query=(("delete", ""),), headers=headers, body=body)
    try:
        reply = await bucket.send(context, request, lambda response: _answers(response, bucket, context))
    except TransientError as error:  # it was retried already, until the timeout
        return {each.name: _for_name(error, bucket, each.name) for each in targets}, []
    except FsbackupError as error:
        if code_of(error) in NOT_OFFERED:
            bucket.refuses_delete_objects = True
        log.info("%s: objects are removed one by one: %s", bucket.backend, error)
        return {}, list(targets)
    bucket.mark_exists()
    return await _interpret(bucket, targets, reply.content)


async def _interpret(
    bucket: Bucket, targets: Sequence[_Target], answers: Mapping[_Target, AnswerError | None]
) -> tuple[Outcomes, list[_Target]]:
    """Return errors and unknown targets as `_delete_objects`, by the service's answers."""
    errors, unknown = Outcomes(), list[_Target]()

    async def interpret(target: _Target) -> None:
        key = _Target(target.name, _given(target.version))
        if key not in answers:
            unknown.append(target)
        elif (answer := answers[key]) is not None:
            context = bucket.context("remove", target.name)
            error = translate(answer, context, bucket.secrets)
            error.__cause__ = answer
            if isinstance(error, TransientError) or (target.etag and isinstance(error, ConflictError)):
                unknown.append(target)
            elif not isinstance(error, ObjectNotFoundError) and answer.code != "NoSuchVersion":
                errors[target.name] = await _explained(bucket, context, target.version or None, error)

    await map_some(interpret, targets, _AT_ONCE)
    return errors, unknown


def _body(bucket: Bucket, targets: Sequence[_Target]) -> bytes:
    from html import escape

    objects = "".join(
        f"<Object><Key>{escape(bucket.prefix + name, quote=False)}</Key>"
        f"{f'<VersionId>{escape(version, quote=False)}</VersionId>' if version else ''}"
        f"{f'<ETag>{escape(etag)}</ETag>' if etag else ''}</Object>"
        for name, version, etag in targets
    )
    return f'<Delete xmlns="{XML_NAMESPACE}">{objects}</Delete>'.encode()


def _answers(response: HTTPResponse, bucket: Bucket, context: CallContext) -> dict[_Target, AnswerError | None]:
    """Read, in a thread, the service's answer for each target: its error, None where it is gone."""
    found: dict[_Target, AnswerError | None] = {}
    for element in read_page(response, "DeleteResult", context):
        said = {child.tag: child.text or "" for child in element}
        target = _Target(said.get("Key", "").removeprefix(bucket.prefix), _given(said.get("VersionId", "")))
        if element.tag == "Deleted":
            found.setdefault(target, None)
        elif element.tag == "Error":
            code = scrubbed_code(said.get("Code", ""), bucket.secrets)
            text = scrub(said.get("Message", ""), bucket.secrets)
            found[target] = AnswerError(response.status, code, text, {})
    return found


def _given(version: str) -> str:
    """Return a version id; empty for ``null``, that of objects from before versioning, which answers may omit."""
    return "" if version == "null" else version


def _for_name(error: FsbackupError, bucket: Bucket, name: str) -> FsbackupError:
    """Return the error of a request for many names as an error of one name."""
    named: FsbackupError = bucket.context("remove", name).error(type(error), error.message, error.hint)
    named.__cause__ = error.__cause__
    return named


def _replaced_error(bucket: Bucket, name: str) -> FsbackupError:
    error: FsbackupError = bucket.context("remove", name).error(
        ConflictError,
        "another writer stored another object under this name",
        "run it again when the other writer has finished",
    )
    return error


async def _delete(bucket: Bucket, target: _Target) -> None:
    name, version = target.name, target.version or None
    context = bucket.context("remove", name)
    try:
        await bucket.delete(context, name, version, target.etag)
    except ObjectNotFoundError:
        await bucket.check_exists(context)
    except TransientError:
        raise
    except BackendError as error:
        if target.etag and isinstance(error, ConflictError):
            await _settle(bucket, target, error)
            return
        if version and code_of(error) == "NoSuchVersion":
            return
        explained = await _explained(bucket, context, version, error)
        if explained is error:
            raise
        raise explained from error


async def _settle(bucket: Bucket, target: _Target, refusal: BackendError) -> None:
    """Find out why a condition failed: the object is gone, or another one has replaced it, which stays."""
    now = await bucket.head(target.name, "remove")
    if now is None:  # removed by an attempt whose response was lost, or by another process
        return
    if now.etag != target.etag:
        raise _replaced_error(bucket, target.name) from refusal
    if code_of(refusal) == "ConditionalRequestConflict":  # a concurrent write that HEAD does not show yet
        raise refusal
    log.info("%s: a conditional DELETE compares other ETags than HEAD shows: %s", bucket.backend, refusal)
    await _delete(bucket, _Target(target.name))


async def _explained(
    bucket: Bucket, context: CallContext, version: str | None, error: FsbackupError
) -> FsbackupError:
    """Return the object lock behind a refused delete as an error, or the refusal itself if there is none."""
    try:
        headers = (await bucket.head_reply(context, context.key, version)).headers
    except BackendError:
        return error
    hint = "remove it when the lock has ended"
    if headers.get("x-amz-object-lock-legal-hold") == "ON":
        return _locked(context, "the object has a legal hold", hint, error)
    until = iso_time(headers.get("x-amz-object-lock-retain-until-date"))
    if until is None or until <= time.time():
        return error
    mode = headers.get("x-amz-object-lock-mode", "").lower()
    end = datetime.fromtimestamp(until, UTC)
    message = f"the object has an object lock ({mode}) until {end:%Y-%m-%d %H:%M} UTC"
    return _locked(context, message, hint, error)


def _locked(context: CallContext, message: str, hint: str, cause: FsbackupError) -> FsbackupError:
    locked = cast(FsbackupError, context.error(LockedError, message, hint))
    locked.__cause__ = cause
    return locked
