"""From what was found to what a person reads: each line with its outcome, and what to do about it. Pure."""

from __future__ import annotations

import time
from collections.abc import Iterator

from fsbackup.errors import AccessDeniedError, FsbackupError
from fsbackup.replication.doctor.probe import ProbeResult
from fsbackup.replication.doctor.report import Check
from fsbackup.sizing import GIB
from fsbackup.stores.base import ObjectStore

#: Seconds that clocks may differ. Amazon S3 refuses requests that are 15 minutes off ("RequestTimeTooSkewed").
MAX_CLOCK_SKEW = 300.0
#: Seconds after which an unfinished upload is more likely forgotten than under way.
_OLD_UPLOAD = 86_400.0
_LITTLE = GIB

_GOOD = {
    "list": "",
    "write": "a small object was stored and confirmed",
    "read": "every byte came back",
    "delete": "it is gone",
}
#: What does not work without an ability, and what does.
_WITHOUT = {
    "list": "ls, status, verify, repair and retention will not work here",
    "write": "uploads, deletes, repair and retention will not work here; listing and restores will",
    "read": "nothing but listing will work here: uploads look first at what is there",
    "create-only": "jobs, and uploads that must not replace anything, will not work here",
    "delete": "deletes, retention and repair will not work here; uploads and restores will",
}


def checks(store: ObjectStore, found: ProbeResult) -> Iterator[Check]:
    """Yield one check for each thing that was looked at."""
    failure = _no_way_in(found)
    if failure is not None:
        yield Check("connect", "failed", f"{store.location}: {failure.message}", _advice(failure, found))
        if found.trials.keys() > {"list"}:
            yield _clock(found)
        return
    yield Check("connect", "ok", store.location)
    for name in ("list", "write", "read"):
        yield _ability(name, found)
    yield _create_only(store, found)
    yield _delete(found)
    yield _clock(found)
    yield _versions(store, found)
    yield from _uploads(found)
    yield from _rules(found)
    yield _space(found)


def _no_way_in(found: ProbeResult) -> FsbackupError | None:
    """Return why the place is of no use at all: it is not there, or it refuses everything."""
    listing = found.trials["list"]
    if listing is None:
        return None
    refused = all(isinstance(found.trials.get(name), AccessDeniedError) for name in ("list", "write", "read"))
    return listing if refused or found.trials.keys() == {"list"} else None


def _advice(error: FsbackupError, found: ProbeResult) -> str | None:
    """Return what to do about a failure: what the error says, and what this place's users get wrong most often."""
    access = found.facts.access if isinstance(error, AccessDeniedError) else None
    return "; ".join(dict.fromkeys(text for text in (error.hint, access) if text)) or None


def _ability(name: str, found: ProbeResult) -> Check:
    if name not in found.trials:
        return Check(name, "failed", "not tried: it stopped answering", "examine it again")
    error = found.trials[name]
    if error is None:
        return _good(name, found)
    if not isinstance(error, AccessDeniedError):
        return Check(name, "failed", error.message, _advice(error, found))
    loss = _WITHOUT[name] + _of_listing(found) * (name == "list")
    return Check(name, "not allowed", error.message, f"{loss}{_if_not_meant(name, found)}")


def _if_not_meant(name: str, found: ProbeResult) -> str:
    """Return what to check, with the first of the refusals, which all have one reason."""
    first = next(each for each, error in found.trials.items() if isinstance(error, AccessDeniedError))
    return f"; if that is not meant: {found.facts.access}" if found.facts.access and first == name else ""


def _of_listing(found: ProbeResult) -> str:
    if found.tells_absent:
        return "; uploads and restores will"
    return ", nor will uploads: without the right to list, a missing object looks like a forbidden one"


def _good(name: str, found: ProbeResult) -> Check:
    if name == "list" and found.forgotten:
        first, count = found.forgotten[0], len(found.forgotten)
        detail = f"earlier examinations left {count} of their objects behind, the first is {first}"
        return Check(name, "warning", detail, "remove them: there is nothing in them")
    if name == "read" and not found.worked("write"):
        return Check(name, "ok", "allowed; there was nothing to read back")
    return Check(name, "ok", _GOOD[name])


def _create_only(store: ObjectStore, found: ProbeResult) -> Check:
    name = "create-only"
    if not found.worked("write"):
        return Check(name, "not known", "nothing could be written to try it on")
    if not found.worked(name):
        return _ability(name, found)
    if store.capabilities.conditional_create:
        return Check(name, "ok", "the place itself refuses to create what is there, also to two writers at once")
    if found.facts.conditional_create:
        return Check(name, "ok", "what is there is refused, by asking first and by the place itself")
    return Check(name, "ok", "only by asking first: two writers of one key at once are noticed after the fact")


def _delete(found: ProbeResult) -> Check:
    if "delete" not in found.trials:
        return Check("delete", "not known", "nothing could be written that could be deleted")
    check = _ability("delete", found)
    if found.left_behind is None:
        return check
    stays = "stays" if found.worked("write") else "may be there"
    advice = f"{check.advice}; " if check.advice else ""
    detail = f"{check.detail}; the object {found.left_behind} {stays}"
    return Check("delete", check.outcome, detail, f"{advice}remove {found.left_behind} by other means")


def _clock(found: ProbeResult) -> Check:
    facts = found.facts
    ahead = found.ahead if facts.clock_ahead is None else facts.clock_ahead
    if ahead is None:
        return Check("clock", "not known", facts.unknown.get("clock_ahead", "the place does not say its time"))
    if abs(ahead) <= MAX_CLOCK_SKEW:
        return Check("clock", "ok", f"{abs(ahead):.0f} s apart")
    detail = f"its clock is {_span(abs(ahead))} {'ahead of' if ahead > 0 else 'behind'} this machine's"
    advice = (
        "synchronise this machine's clock, or the server's (NTP): S3 services refuse requests when clocks differ"
        " by 15 minutes, and retention counts ages by them"
    )
    return Check("clock", "warning", detail, advice)


def _span(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _versions(store: ObjectStore, found: ProbeResult) -> Check:
    keeps = found.facts.keeps_versions
    if keeps is None:
        return Check("versions", "not known", found.facts.unknown.get("keeps_versions", "the place does not say"))
    if not keeps:
        return Check("versions", "ok", "none are kept: a delete is final, and frees the space")
    if store.capabilities.removes_versions:
        return Check(
            "versions",
            "ok",
            "kept; a delete removes them all, and a lifecycle rule may end what replacements leave",
        )
    return Check(
        "versions",
        "warning",
        "kept: what is deleted or replaced is only hidden, and is billed on",
        "add a lifecycle rule to the bucket that ends versions some days after they were replaced"
        " (for Backblaze B2, use a backend of type b2)",
    )


def _uploads(found: ProbeResult) -> Iterator[Check]:
    count, oldest = found.facts.uploads, found.facts.oldest_upload
    if count is None:
        if "uploads" in found.facts.unknown:
            yield Check("uploads", "not known", found.facts.unknown["uploads"])
    elif not count or oldest is None:
        yield Check("uploads", "ok", "none are unfinished")
    else:
        days = (time.time() - oldest) / 86_400
        detail = f"{count:,} unfinished, the oldest was begun {days:,.1f} days ago"
        yield _unfinished(detail, forgotten=days * 86_400 > _OLD_UPLOAD)


def _unfinished(detail: str, *, forgotten: bool) -> Check:
    if not forgotten:
        return Check("uploads", "ok", detail)
    return Check(
        "uploads",
        "warning",
        f"{detail}; what was sent of them is billed",
        "abort them, or add a lifecycle rule to the bucket that aborts unfinished uploads after some days",
    )


def _rules(found: ProbeResult) -> Iterator[Check]:
    days = found.facts.expires
    if days is None:
        if "expires" in found.facts.unknown:
            yield Check("rules", "not known", found.facts.unknown["expires"])
    elif not days:
        yield Check("rules", "ok", "no lifecycle rule of the bucket deletes objects")
    else:
        yield Check(
            "rules",
            "warning",
            f"a lifecycle rule of the bucket deletes objects after {days[0]} days",
            "fsbackup takes them for lost: let its retention delete instead, or have the rule wait for longer",
        )


def _space(found: ProbeResult) -> Check:
    free, total = found.facts.free, found.facts.total
    if free is None or total is None:
        return Check("space", "not known", found.facts.unknown.get("free", "the place does not say"))
    detail = f"{free / GIB:,.1f} of {total / GIB:,.1f} GiB are free"
    if free >= _LITTLE:
        return Check("space", "ok", detail)
    return Check("space", "warning", detail, "free space on it, or shorten its retention")
