"""Turns the result of a probe into lines for people: each with an outcome and advice. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fsbackup import clock
from fsbackup.engine.clock_skew import MAX_CLOCK_SKEW
from fsbackup.engine.guard import NOT_FILLED
from fsbackup.engine.records import has_records_inside
from fsbackup.errors import AccessDeniedError, FsbackupError, NewerFormatError
from fsbackup.replication.doctor.probe import ProbeResult
from fsbackup.replication.doctor.report import Check
from fsbackup.sizing import GIB
from fsbackup.stores.base import ObjectStore

#: Seconds after which an unfinished upload counts as abandoned.
_OLD_UPLOAD = 86_400.0
#: Free bytes below which doctor warns.
_LOW_SPACE = GIB

_SUCCESS = {
    "list": "",
    "write": "a small object was stored and confirmed",
    "read": "every byte came back",
    "delete": "the object is gone",
}
#: What does not work without an operation, and what does.
_CONSEQUENCES = {
    "list": "ls, status, verify, repair and retention do not work here",
    "write": "uploads, deletes in a set, repair and retention do not work here; listing and restores do",
    "read": "only listing works here: uploads read first what is there",
    "create-only": "jobs, and uploads that must not replace anything, do not work here",
    "delete": "deletes, retention and repair do not work here; uploads and restores do",
}


def checks(store: ObjectStore, result: ProbeResult, namesakes: Sequence[str] = ()) -> Iterator[Check]:
    """Yield one check for each operation and for each fact that a person can act on.

    `namesakes` are the other backends whose markers have the same id.
    """
    failure = _connect_error(result)
    if failure is not None:
        yield Check("connect", "failed", f"{store.location}: {failure.message}", _advice(failure, result))
        if result.trials.keys() > {"list"}:
            yield _check_clock(result)
        return
    yield Check("connect", "ok", store.location)
    for name in ("list", "write", "read"):
        yield _check_operation(name, result)
    yield _check_create_only(store, result)
    yield _check_delete(result)
    yield from _check_records(result)
    yield _check_clock(result)
    yield _check_versions(store, result)
    yield from _check_uploads(result)
    yield from _check_lifecycle(result)
    yield _check_space(result)
    yield from _check_marker(result, namesakes)


def _connect_error(result: ProbeResult) -> FsbackupError | None:
    """Return the error that makes the backend useless: nothing answers, or everything is refused."""
    if result.refusal is not None:
        return result.refusal
    listing = result.trials["list"]
    if listing is None:
        return None
    refused = all(isinstance(result.trials.get(name), AccessDeniedError) for name in ("list", "write", "read"))
    return listing if refused or result.trials.keys() == {"list"} else None


def _advice(error: FsbackupError, result: ProbeResult) -> str | None:
    """Return the error's hint and, after a refusal, the most frequent mistakes with this service."""
    access = result.facts.access if isinstance(error, AccessDeniedError) else None
    return "; ".join(dict.fromkeys(text for text in (error.hint, access) if text)) or None


def _check_operation(name: str, result: ProbeResult) -> Check:
    if name not in result.trials:
        return Check(name, "failed", "not tried: the backend stopped answering", "run doctor again")
    error = result.trials[name]
    if error is None:
        return _succeeded(name, result)
    if not isinstance(error, AccessDeniedError):
        return Check(name, "failed", error.message, _advice(error, result))
    consequence = _CONSEQUENCES[name] + _without_listing(result) * (name == "list")
    return Check(name, "not allowed", error.message, f"{consequence}{_access_advice(name, result)}")


def _access_advice(name: str, result: ProbeResult) -> str:
    """Return what to check about the credentials, with the first refusal only: all have the same cause."""
    first = next(each for each, error in result.trials.items() if isinstance(error, AccessDeniedError))
    access = result.facts.access
    return f"; if that is not intended: {access}" if access and first == name else ""


def _without_listing(result: ProbeResult) -> str:
    if result.reports_absence:
        return "; uploads and restores do"
    return ", nor do uploads: without the right to list, the service answers 403 for a missing object"


def _succeeded(name: str, result: ProbeResult) -> Check:
    if name == "list" and result.old_probes:
        first, count = result.old_probes[0], len(result.old_probes)
        detail = f"earlier runs of doctor left {count} of their objects, the first is {first}"
        return Check(name, "warning", detail, "delete them: they hold no data")
    if name == "read" and not result.worked("write"):
        return Check(name, "ok", "allowed; there was no object to read")
    return Check(name, "ok", _SUCCESS[name])


def _check_create_only(store: ObjectStore, result: ProbeResult) -> Check:
    name = "create-only"
    if not result.worked("write"):
        return Check(name, "not known", "no object could be written to try it on")
    if not result.worked(name):
        return _check_operation(name, result)
    if store.capabilities.conditional_create:
        return Check(name, "ok", "the backend itself refuses to create an object that exists")
    if not has_records_inside(store):
        return Check(name, "ok", "by write intents: of two that create one key, one waits for the other")
    return Check(name, "ok", "by asking first: fsbackup detects two writers of one key afterwards")


def _check_delete(result: ProbeResult) -> Check:
    if "delete" not in result.trials:
        return Check("delete", "not known", "no object could be written to delete")
    check = _check_operation("delete", result)
    if result.left_behind is None:
        return check
    remains = "remains" if result.worked("write") else "may remain"
    advice = f"{check.advice}; " if check.advice else ""
    detail = f"{check.detail}; the object {result.left_behind} {remains}"
    return Check("delete", check.outcome, detail, f"{advice}delete {result.left_behind} by other means")


def _check_records(result: ProbeResult) -> Iterator[Check]:
    """Warn when a newer version of fsbackup writes here; other failures concern one object, and are verify's."""
    error = result.trials.get("records")
    if isinstance(error, NewerFormatError):
        yield Check("records", "warning", f"{error.key}: {error.message}", error.hint)


def _check_clock(result: ProbeResult) -> Check:
    facts = result.facts
    ahead = result.clock_ahead if facts.clock_ahead is None else facts.clock_ahead
    if ahead is None:
        return Check("clock", "not known", facts.unknown.get("clock_ahead", "the backend does not tell its time"))
    if abs(ahead) <= MAX_CLOCK_SKEW:
        return Check("clock", "ok", f"{abs(ahead):.0f} s apart")
    direction = "ahead of" if ahead > 0 else "behind"
    detail = f"the backend's clock is {_duration(abs(ahead))} {direction} this machine's"
    advice = (
        "synchronise this machine's clock, or the server's (NTP): S3 services refuse requests when clocks differ"
        " by 15 minutes, and retention counts ages by them"
    )
    return Check("clock", "warning", detail, advice)


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _check_versions(store: ObjectStore, result: ProbeResult) -> Check:
    name, keeps = "versions", result.facts.keeps_versions
    if keeps is None:
        return Check(name, "not known", result.facts.unknown.get("keeps_versions", "the backend does not tell"))
    if not keeps:
        return Check(name, "ok", "off: a delete is final and frees the space")
    if store.capabilities.removes_versions:
        return Check(
            name, "ok", "on; fsbackup deletes all versions of an object, a lifecycle rule can end replaced ones"
        )
    return Check(
        name,
        "warning",
        "on: a deleted or replaced object is only hidden, and is still billed",
        "add a lifecycle rule to the bucket that ends versions some days after they were replaced"
        " (for Backblaze B2, use a backend of type b2)",
    )


def _check_uploads(result: ProbeResult) -> Iterator[Check]:
    """Warn about unfinished multipart uploads that nobody continues: their parts are billed."""
    count, oldest = result.facts.uploads, result.facts.oldest_upload
    age = 0.0 if oldest is None else clock.now() - oldest
    if count and age > _OLD_UPLOAD:
        detail = f"{count:,} multipart uploads are unfinished, the oldest is {age / 86_400:,.1f} days old"
        advice = "abort them, or add a lifecycle rule to the bucket that aborts unfinished uploads after some days"
        yield Check("uploads", "warning", f"{detail}; their parts are billed", advice)


def _check_lifecycle(result: ProbeResult) -> Iterator[Check]:
    days = result.facts.expires
    if days is None:
        if "expires" in result.facts.unknown:
            yield Check("rules", "not known", result.facts.unknown["expires"])
    elif not days:
        yield Check("rules", "ok", "no lifecycle rule of the bucket deletes objects")
    else:
        yield Check(
            "rules",
            "warning",
            f"a lifecycle rule of the bucket deletes objects after {days[0]} days",
            "let fsbackup's retention delete instead, or set the rule to more days: what the rule deletes counts"
            " as missing",
        )


def _check_space(result: ProbeResult) -> Check:
    free, total = result.facts.free, result.facts.total
    if free is None or total is None:
        return Check("space", "not known", result.facts.unknown.get("free", "the backend does not tell"))
    detail = f"{free / GIB:,.1f} of {total / GIB:,.1f} GiB are free"
    if free >= _LOW_SPACE:
        return Check("space", "ok", detail)
    return Check("space", "warning", detail, "free space on it, or shorten its retention")


def _check_marker(result: ProbeResult, namesakes: Sequence[str]) -> Iterator[Check]:
    """Warn about a marker that another backend has, too, and about a backend that is still to be filled."""
    if namesakes:
        detail = f"its id is the same as of {' and '.join(namesakes)}: one place under two names, or a clone"
        advice = (
            "give each backend a place of its own; on a cloned disk delete `.fsbackup/backend`, the next upload"
            " makes another one"
        )
        yield Check("marker", "warning", detail, advice)
    if result.mark is not None and result.mark.is_filling:
        if filled := ", ".join(result.mark.filled):
            yield Check("marker", "ok", f"it was accepted empty, and filled at or below {filled}")
        else:
            yield Check("marker", "warning", NOT_FILLED, "run `fsbackup repair`")
