"""What an S3 service says of its clock, its bucket and its rules; each question may be refused by itself."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from fsbackup.errors import AccessDeniedError, BackendError, FsbackupError
from fsbackup.stores.base import BackendInfo
from fsbackup.stores.s3.body import PartProgress
from fsbackup.stores.s3.calls import Answer
from fsbackup.stores.s3.errors import code_of
from fsbackup.stores.s3.target import Bucket

_BYTES = b"fsbackup doctor: may another writer replace this?"
#: What each provider's users get wrong most often. By Cloudflare's "Consistency model" (a new key takes up to a
#: minute) and Backblaze's "Introduction to the S3-Compatible API" (no master key; what a restricted key needs).
_ACCESS = {
    "r2": "if the keys work elsewhere, check that the R2 token covers the bucket {bucket!r} with Object Read &"
    " Write and the account id in the endpoint is the bucket's; a new token takes up to a minute to work",
    "b2": "use an application key, not the master key; it needs listFiles, readFiles, writeFiles and deleteFiles"
    " for the bucket {bucket!r}, and listAllBucketNames when it is restricted to one; check the region",
}
_OTHER = (
    "check that these keys may list, read, write and delete in the bucket {bucket!r}, and that the region is right"
)
#: How services say that there is none of what was asked for, or that they know no such thing.
_NONE = frozenset({"NoSuchLifecycleConfiguration", "NoSuchUpload"})
_NOT_OFFERED = frozenset({"NotImplemented", "MethodNotAllowed", "501", "405"})

Question = Callable[[Bucket], Awaitable[dict[str, Any]]]


async def service_info(target: Bucket, probe: str | None) -> BackendInfo:
    """Ask all questions at once; `probe` is an object on which conditional creation may be tried."""
    questions: dict[str, Question] = {
        "clock_ahead": _clock,
        "keeps_versions": _versions,
        "uploads": _uploads,
        "expires": _expires,
    }
    if probe is not None and target.profile.condition != "atomic":  # there, every write tries it
        questions["conditional_create"] = lambda target: _condition(target, probe)
    answers = await asyncio.gather(*(_answered(target, name, ask) for name, ask in questions.items()))
    known = {name: value for found, _ in answers for name, value in found.items()}
    unknown = {"free": "the service does not say"} | {name: why for _, bad in answers for name, why in bad.items()}
    access = _ACCESS.get(target.profile.scheme, _OTHER).format(bucket=target.bucket)
    return BackendInfo(**known, access=access, unknown=unknown)


async def _answered(target: Bucket, name: str, ask: Question) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what is known, and why it is not."""
    try:
        return await ask(target), {}
    except AccessDeniedError:
        return {}, {name: "these credentials may not ask for it"}
    except FsbackupError as error:
        offered = code_of(error) not in _NOT_OFFERED
        return {}, {name: error.message if offered else "the service does not offer it"}


async def _ask(target: Bucket, method: str, **params: Any) -> Answer:
    return await target.calls.request(target.where("examine", ""), method, Bucket=target.bucket, **params)


async def _clock(target: Bucket) -> dict[str, Any]:
    """Compare the time in the head of an answer, which a refusal has too."""
    try:
        answer = await _ask(target, "head_bucket")
    except BackendError as error:
        answer = getattr(error.__cause__, "response", None) or {}
        if "ResponseMetadata" not in answer:
            raise
    return {"clock_ahead": _ahead(answer)}


def _ahead(answer: Answer) -> float | None:
    said = str(answer["ResponseMetadata"].get("HTTPHeaders", {}).get("date", ""))
    try:
        return parsedate_to_datetime(said).timestamp() - time.time()
    except ValueError:
        return None


async def _versions(target: Bucket) -> dict[str, Any]:
    answer = await _ask(target, "get_bucket_versioning")
    # Suspended keeps what was kept before, but nothing new.
    return {"keeps_versions": answer.get("Status") == "Enabled"}


async def _uploads(target: Bucket) -> dict[str, Any]:
    try:
        answer = await _ask(target, "list_multipart_uploads", Prefix=target.prefix)
    except BackendError as error:
        if code_of(error) not in _NONE:
            raise
        answer = {}
    begun = [each["Initiated"].timestamp() for each in answer.get("Uploads", [])]
    return {"uploads": len(begun), "oldest_upload": min(begun, default=None)}


async def _expires(target: Bucket) -> dict[str, Any]:
    try:
        answer = await _ask(target, "get_bucket_lifecycle_configuration")
    except BackendError as error:
        if code_of(error) not in _NONE:
            raise
        answer = {}
    days = [_days(rule) for rule in answer.get("Rules", []) if _concerns(rule, target.prefix)]
    return {"expires": tuple(sorted(each for each in days if each is not None))}


def _concerns(rule: dict[str, Any], prefix: str) -> bool:
    """Tell whether a rule may take an object of ours; ours have no tags for a rule to choose them by."""
    chosen = rule.get("Filter", {})
    both = chosen.get("And", {})
    ruled = str(rule.get("Prefix") or chosen.get("Prefix") or both.get("Prefix") or "")
    tagged = "Tag" in chosen or "Tags" in both
    return rule["Status"] == "Enabled" and not tagged and (prefix.startswith(ruled) or ruled.startswith(prefix))


def _days(rule: dict[str, Any]) -> int | None:
    """Return after how many days a rule deletes objects; a rule for one date counts from now."""
    expiration = rule.get("Expiration", {})
    if "Date" in expiration:
        return max(0, int((expiration["Date"] - datetime.now(UTC)).days))
    return int(expiration["Days"]) if expiration.get("Days") else None


async def _condition(target: Bucket, probe: str) -> dict[str, Any]:
    """Try to create a name that exists, by one PUT that the store itself would not send without asking first."""
    try:
        await target.calls.send(
            target.where("examine", probe),
            "put_object",
            _BYTES,
            PartProgress(lambda _: None),
            **target.at(probe),
            ContentType="application/octet-stream",
            ContentMD5=base64.b64encode(hashlib.md5(_BYTES, usedforsecurity=False).digest()).decode(),
            Metadata={},
            IfNoneMatch="*",
        )
    except BackendError as error:
        refused = code_of(error) in ("PreconditionFailed", "412", "ConditionalRequestConflict")
        if not refused and code_of(error) not in _NOT_OFFERED:
            raise
        return {"conditional_create": refused}
    return {"conditional_create": False}
