"""What a failed S3 call means: one flat table from the service's codes to our errors, each with a hint."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, NamedTuple

from fsbackup.errors import (
    AccessDeniedError,
    BackendError,
    BackendUnavailableError,
    ConflictError,
    FsbackupError,
    LockedError,
    ObjectNotFoundError,
    OutOfSpaceError,
    TransientError,
)


class ErrorMapping(NamedTuple):
    """The error class of a code, and what a person can do about it."""

    kind: type[BackendError]
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class CallContext:
    """The place of a call, for its errors, and the longest silence allowed there in seconds."""

    backend: str
    operation: str
    key: str
    timeout: float

    def error(self, kind: type[FsbackupError], message: str, hint: str | None = None) -> Any:
        """Return an error of `kind` at this place."""
        return kind(message, backend=self.backend, operation=self.operation, key=self.key, hint=hint)


_KEYS_HINT = (
    "check that the access key belongs to this endpoint and may read, write, list and delete in the bucket,"
    " and that this machine's clock is right"
)
_SECRET_HINT = "the secret access key does not belong to the access key id, or the region is wrong"
_CHECKSUM_HINT = (
    "check the keys; if these keys work elsewhere, something on the way adds checksum headers"
    " (x-amz-checksum-*), which R2 refuses in this way"
)
_LOCK_HINT = "an object lock or bucket lock keeps this object until its retention ends"
_BUCKET_HINT = "create the bucket, or correct its name, the account and the endpoint"
_SPACE_HINT = "raise the provider's storage cap, free space, or shorten the retention"
_UPLOAD_HINT = "the upload was aborted by somebody else or by the bucket's lifecycle rule; run it again"

_ACCESS_DENIED = ErrorMapping(AccessDeniedError, _KEYS_HINT)
_OUT_OF_SPACE = ErrorMapping(OutOfSpaceError, _SPACE_HINT)
_RETRY = ErrorMapping(TransientError, "the service is busy or at fault: see its status page, and try again later")
_CONFLICT = ErrorMapping(ConflictError, "another object has this name, or is just getting it")
_RATE_LIMITED = ErrorMapping(TransientError, "the provider limits the rate of requests: lower max_concurrency")
_DAMAGED = ErrorMapping(TransientError, "bytes were damaged on the way: check memory and network")
_NOT_FOUND = ErrorMapping(ObjectNotFoundError)
_OBJECT_LOCKED = ErrorMapping(LockedError, _LOCK_HINT)

#: Sources: "Error responses" of the Amazon S3 API reference, R2's "Error codes", Backblaze's S3-compatible API
#: pages, and the servers' own sources where they differ.
CODES: dict[str, ErrorMapping] = {
    "NoSuchKey": _NOT_FOUND,
    "NoSuchBucket": ErrorMapping(BackendError, _BUCKET_HINT),
    "NoSuchUpload": ErrorMapping(BackendError, _UPLOAD_HINT),
    "InvalidBucketName": ErrorMapping(BackendError, _BUCKET_HINT),
    "AccessDenied": _ACCESS_DENIED,
    "AllAccessDisabled": _ACCESS_DENIED,
    "AccountProblem": ErrorMapping(AccessDeniedError, "sign in to the provider: the account needs attention"),
    "InvalidAccessKeyId": ErrorMapping(AccessDeniedError, "the provider does not know this access key id"),
    "InvalidSecurity": _ACCESS_DENIED,
    "SignatureDoesNotMatch": ErrorMapping(AccessDeniedError, _SECRET_HINT),
    "AuthorizationHeaderMalformed": ErrorMapping(AccessDeniedError, "check the region"),
    "ExpiredToken": ErrorMapping(AccessDeniedError, "the token has expired: make a new one"),
    "InvalidToken": ErrorMapping(AccessDeniedError, "the token is not valid: make a new one"),
    "RequestTimeTooSkewed": ErrorMapping(AccessDeniedError, "this machine's clock is wrong: synchronise it (NTP)"),
    "RequestExpired": ErrorMapping(AccessDeniedError, "this machine's clock is wrong: synchronise it (NTP)"),
    "Unauthorized": ErrorMapping(AccessDeniedError, _CHECKSUM_HINT),
    "ObjectLockedByBucketPolicy": _OBJECT_LOCKED,
    "ObjectLocked": _OBJECT_LOCKED,
    "QuotaExceeded": _OUT_OF_SPACE,
    "ServiceQuotaExceededException": _OUT_OF_SPACE,
    "StorageCapExceeded": _OUT_OF_SPACE,
    "InsufficientStorage": _OUT_OF_SPACE,
    "XMinioStorageFull": _OUT_OF_SPACE,
    "XMinioAdminBucketQuotaExceeded": _OUT_OF_SPACE,
    "PreconditionFailed": _CONFLICT,
    "ConditionalRequestConflict": _CONFLICT,
    "OperationAborted": _RETRY,
    "InternalError": _RETRY,
    "ServiceUnavailable": _RETRY,
    "SlowDown": _RATE_LIMITED,
    "TooManyRequests": _RATE_LIMITED,
    "RequestTimeout": _RETRY,
    "RequestTimeoutException": _RETRY,
    "Throttling": _RETRY,
    "ThrottlingException": _RETRY,
    "RequestThrottled": _RETRY,
    "IncompleteBody": _RETRY,
    "BadDigest": _DAMAGED,
    "XAmzContentSHA256Mismatch": _DAMAGED,
}

#: For answers without a body (HEAD), and for codes that are not in the table.
STATUSES: dict[int, ErrorMapping] = {
    401: ErrorMapping(AccessDeniedError, _CHECKSUM_HINT),
    403: _ACCESS_DENIED,
    408: _RETRY,
    412: _CONFLICT,
    429: _RETRY,
    501: ErrorMapping(BackendError, "the provider does not implement this"),
    505: ErrorMapping(BackendError),
    507: _OUT_OF_SPACE,
}
#: A 404 with one of these says "no such key", or it is a HEAD's, which cannot say what is missing.
_BARE_404 = frozenset({"404", "NotFound"})


def code_of(error: BaseException | None) -> str:
    """Return the service's error code behind one of our errors (or botocore's own), "" when there is none."""
    response = getattr(error, "response", None) or getattr(error.__cause__ if error else None, "response", None)
    return str(response["Error"].get("Code", "")) if isinstance(response, dict) and "Error" in response else ""


def retry_after(error: BaseException) -> float | None:
    """Return the seconds that the service asks to wait before the next try, None when it does not say."""
    response = getattr(error.__cause__, "response", None)
    if not isinstance(response, dict):
        return None
    text = str(response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("retry-after", ""))
    return float(text) if text.isdecimal() else None


def translate(error: Exception, context: CallContext, secrets: tuple[str, ...]) -> FsbackupError:
    """Return our error for what a call raised; raise it ``from`` the original, from which secrets are removed."""
    from botocore.exceptions import ClientError

    if isinstance(error, ClientError):
        return _from_response(error, context, secrets)
    return _from_exception(error, context)


def _from_response(error: Any, context: CallContext, secrets: tuple[str, ...]) -> FsbackupError:
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    code, text = _scrub_error(error, secrets)
    mapping = _mapping_of(code, status)
    said = f"{code}: {text}" if code != str(status) else f"HTTP {status}"
    message = "no such key" if mapping.kind is ObjectNotFoundError else f"the service answered {said}"
    made: FsbackupError = context.error(mapping.kind, message, mapping.hint)
    return made


def _mapping_of(code: str, status: int) -> ErrorMapping:
    if code in CODES:
        return CODES[code]
    if status == 404 and code in _BARE_404:
        return _NOT_FOUND
    return STATUSES.get(status) or (_RETRY if status >= 500 else ErrorMapping(BackendError))


def _scrub_error(error: Any, secrets: tuple[str, ...]) -> tuple[str, str]:
    """Strip from `error` itself what could identify the credentials: it is shown in tracebacks as the cause."""
    code, text = (_scrub(str(error.response.get("Error", {}).get(part, "")), secrets) for part in _ERROR_FIELDS)
    error.response["Error"] = {"Code": code, "Message": text}
    error.args = tuple(_scrub(str(part), secrets) for part in error.args)
    return code, text


_ERROR_FIELDS = ("Code", "Message")


def _scrub(text: str, secrets: tuple[str, ...]) -> str:
    for secret in filter(None, secrets):
        text = text.replace(secret, "***")
    return text


def _from_exception(error: Exception, context: CallContext) -> FsbackupError:
    """Classify what was raised without any answer from the service."""
    from aiohttp import ClientError as TransportError
    from botocore.exceptions import ConnectionError as UnreachableError
    from botocore.exceptions import HTTPClientError, IncompleteReadError
    from botocore.parsers import ResponseParserError

    text = _describe(error)
    _forget_request(error)
    kind: type[FsbackupError] = BackendError
    hint = None
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        hint = "the endpoint's certificate is not trusted: check endpoint_url, or set ca_bundle"
    elif isinstance(error, (HTTPClientError, UnreachableError, TransportError, asyncio.TimeoutError, OSError)):
        kind, hint = BackendUnavailableError, "check the network and the endpoint"
    elif isinstance(error, (IncompleteReadError, ResponseParserError)):
        kind = TransientError
    made: FsbackupError = context.error(kind, text, hint)
    return made


def _forget_request(error: Any) -> None:
    """botocore keeps the signed request in some errors; its headers name the access key id."""
    if hasattr(error, "request"):
        error.request = None


def _describe(error: Exception) -> str:
    """Say in one line what went wrong, with what is underneath: botocore has the same words for much of it."""
    beneath = getattr(error, "kwargs", {}).get("error")
    texts = [str(one) or type(one).__name__ for one in (error, beneath) if one is not None]
    return " ".join(": ".join(dict.fromkeys(texts)).split())
