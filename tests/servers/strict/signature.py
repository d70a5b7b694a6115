"""Signature version 4, checked by recomputing it from the request as it arrived."""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

from tests.servers.strict.messages import Call, RefusedError

_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]*)/s3/aws4_request, ?"
    r"SignedHeaders=([^,]+), ?Signature=([0-9a-f]{64})"
)
_CLOCK_SKEW = timedelta(minutes=15)


@dataclass(frozen=True)
class Credentials:
    """Whom the server knows, and the names it takes for its region."""

    access_key_id: str
    secret_access_key: str
    regions: frozenset[str]


@dataclass(frozen=True)
class _Claim:
    access_key_id: str
    day: str
    region: str
    signed_headers: tuple[str, ...]
    signature: str


def check_signature(call: Call, known: Credentials) -> None:
    """Refuse a request that is unsigned, signed by somebody else, or changed after it was signed."""
    claim = _read_claim(call)
    if claim.access_key_id != known.access_key_id:
        raise RefusedError(403, "InvalidAccessKeyId", "The access key id does not exist.")
    if claim.region not in known.regions:
        raise RefusedError(400, "AuthorizationHeaderMalformed", f"The region {claim.region!r} is wrong.")
    _check_signed_headers(call, claim)
    _check_clock(call)
    expected = _sign(_string_to_sign(call, claim), claim, known.secret_access_key)
    if not hmac.compare_digest(expected, claim.signature):
        raise RefusedError(403, "SignatureDoesNotMatch", "The signature does not match the request.")


def _read_claim(call: Call) -> _Claim:
    match = _AUTHORIZATION.fullmatch(call.header("authorization"))
    if not match:
        raise RefusedError(403, "AccessDenied", "No Signature Version 4 authorization header.")
    key, day, region, headers, signature = match.groups()
    return _Claim(key, day, region, tuple(headers.split(";")), signature)


def _check_signed_headers(call: Call, claim: _Claim) -> None:
    needed = {"host", *(name for name in call.headers if name.startswith("x-amz-"))}
    if unsigned := needed - set(claim.signed_headers):
        raise RefusedError(403, "AccessDenied", f"Headers that were not signed: {sorted(unsigned)}")
    if not call.header("x-amz-content-sha256"):
        raise RefusedError(400, "InvalidRequest", "Missing required header: x-amz-content-sha256")


def _check_clock(call: Call) -> None:
    try:
        sent = datetime.strptime(call.header("x-amz-date"), "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError as error:
        raise RefusedError(403, "AccessDenied", "No valid x-amz-date.") from error
    if abs(datetime.now(UTC) - sent) > _CLOCK_SKEW:
        raise RefusedError(403, "RequestTimeTooSkewed", "The clocks differ too much.")


def _canonical_request(call: Call, claim: _Claim) -> str:
    parts = urlsplit(call.target)
    pairs = sorted(tuple(pair.partition("=")[::2]) for pair in parts.query.split("&") if pair)
    query = "&".join(f"{name}={value}" for name, value in pairs)
    headers = "".join(f"{name}:{' '.join(call.header(name).split())}\n" for name in claim.signed_headers)
    signed = ";".join(claim.signed_headers)
    return "\n".join([call.method, parts.path, query, headers, signed, call.header("x-amz-content-sha256")])


def _string_to_sign(call: Call, claim: _Claim) -> str:
    request = hashlib.sha256(_canonical_request(call, claim).encode("utf-8", "surrogateescape")).hexdigest()
    scope = f"{claim.day}/{claim.region}/s3/aws4_request"
    return "\n".join(["AWS4-HMAC-SHA256", call.header("x-amz-date"), scope, request])


def _sign(text: str, claim: _Claim, secret: str) -> str:
    key = f"AWS4{secret}".encode()
    for step in (claim.day, claim.region, "s3", "aws4_request", text):
        key = hmac.digest(key, step.encode(), "sha256")
    return key.hex()
