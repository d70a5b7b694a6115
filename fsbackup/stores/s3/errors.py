"""One table from the service's error codes to backend errors, each with a hint."""

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
    """The error class of a code, and what a person can do."""

    kind: type[BackendError]
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class CallContext:
    """Backend, operation and key of a request, for its errors, and its timeout in seconds."""

    backend: str
    operation: str
    key: str
    timeout: float

    def error(self, kind: type[FsbackupError], message: str, hint: str | None = None) -> Any:
        """Return an error of `kind` with this context."""
        return kind(message, backend=self.backend, operation=self.operation, key=self.key, hint=hint)


_KEYS_HINT = (
    "check that the access key belongs to this endpoint and may read, write, list and delete in the bucket,"
    " and that this machine's clock is right"
)
_SECRET_HINT = "check the secret access key and the region"
_CHECKSUM_HINT = (
    "check the keys; if they work elsewhere, look for a proxy that adds checksum headers (x-amz-checksum-*),"
    " which R2 refuses"
)
_LOCK_HINT = "wait until the object lock or bucket lock ends"
_BUCKET_HINT = "create the bucket, or correct its name, the account or the endpoint"
_SPACE_HINT = "raise the provider's storage cap, free space, or shorten the retention"
_UPLOAD_HINT = "run it again; another program or the bucket's lifecycle rule aborted the upload"

_ACCESS_DENIED = ErrorMapping(AccessDeniedError, _KEYS_HINT)
_OUT_OF_SPACE = ErrorMapping(OutOfSpaceError, _SPACE_HINT)
_RETRY = ErrorMapping(TransientError, "check the provider's status page, and try again later")
_CONFLICT = ErrorMapping(
    ConflictError, "check the object under this name: another writer stored it at the same time"
)
_RATE_LIMITED = ErrorMapping(TransientError, "lower max_concurrency: the provider limits the rate of requests")
_DAMAGED = ErrorMapping(TransientError, "check this machine's memory and network")
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
    "AccountProblem": ErrorMapping(AccessDeniedError, "check the account at the provider"),
    "InvalidAccessKeyId": ErrorMapping(
        AccessDeniedError, "check the access key id: the provider does not know it"
    ),
    "InvalidSecurity": _ACCESS_DENIED,
    "SignatureDoesNotMatch": ErrorMapping(AccessDeniedError, _SECRET_HINT),
    "AuthorizationHeaderMalformed": ErrorMapping(AccessDeniedError, "check the region"),
    "ExpiredToken": ErrorMapping(AccessDeniedError, "create a new token: this one has expired"),
    "InvalidToken": ErrorMapping(AccessDeniedError, "create a new token: this one is not valid"),
    "RequestTimeTooSkewed": ErrorMapping(AccessDeniedError, "synchronise this machine's clock (NTP)"),
    "RequestExpired": ErrorMapping(AccessDeniedError, "synchronise this machine's clock (NTP)"),
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

#: For responses without a body (HEAD), and for codes that are not in the table.
STATUSES: dict[int, ErrorMapping] = {
    401: ErrorMapping(AccessDeniedError, _CHECKSUM_HINT),
    403: _ACCESS_DENIED,
    408: _RETRY,
    412: _CONFLICT,
    429: _RETRY,
    501: ErrorMapping(BackendError, "use another provider: this one does not implement the request"),
    505: ErrorMapping(BackendError),
    507: _OUT_OF_SPACE,
}
#: Codes of a 404 that means "no such key"; the 404 of a HEAD cannot tell a missing key from a missing bucket.
_BARE_404 = frozenset({"404", "NotFound"})


def code_of(error: BaseException | None) -> str:
    """Return the service's error code of a backend error or of botocore's error, "" when there is none."""
    response = getattr(error, "response", None) or getattr(error.__cause__ if error else None, "response", None)
    return str(response["Error"].get("Code", "")) if isinstance(response, dict) and "Error" in response else ""


def retry_after(error: BaseException) -> float | None:
    """Return the Retry-After of the response in seconds, None without one."""
    response = getattr(error.__cause__, "response", None)
    if not isinstance(response, dict):
        return None
    text = str(response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("retry-after", ""))
    return float(text) if text.isdecimal() else None


def translate(error: Exception, context: CallContext, secrets: tuple[str, ...]) -> FsbackupError:
    """Return the backend error for what a request raised, and remove the secrets from the original error."""
    from botocore.exceptions import ClientError

    if isinstance(error, ClientError):
        return _from_response(error, context, secrets)
    return _from_exception(error, context)


def _from_response(error: Any, context: CallContext, secrets: tuple[str, ...]) -> FsbackupError:
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    code, text = _scrub_error(error, secrets)
    mapping = _mapping_of(code, status)
    response = f"{code}: {text}" if code != str(status) else f"HTTP {status}"
    message = "no such key" if mapping.kind is ObjectNotFoundError else f"the service answered {response}"
    translated: FsbackupError = context.error(mapping.kind, message, mapping.hint)
    return translated


def _mapping_of(code: str, status: int) -> ErrorMapping:
    if code in CODES:
        return CODES[code]
    if status == 404 and code in _BARE_404:
        return _NOT_FOUND
    return STATUSES.get(status) or (_RETRY if status >= 500 else ErrorMapping(BackendError))


def _scrub_error(error: Any, secrets: tuple[str, ...]) -> tuple[str, str]:
    """Remove the credentials from `error` itself, which tracebacks show as the cause; return its code and text."""
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
    """Return the backend error for a failure without a response from the service."""
    from aiohttp import ClientError as TransportError
    from botocore.exceptions import ConnectionError as UnreachableError
    from botocore.exceptions import HTTPClientError, IncompleteReadError
    from botocore.parsers import ResponseParserError

    text = _describe(error)
    _forget_request(error)
    kind: type[FsbackupError] = BackendError
    hint = None
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        hint = "check endpoint_url, or set ca_bundle: the certificate of the endpoint is not trusted"
    elif isinstance(error, (HTTPClientError, UnreachableError, TransportError, asyncio.TimeoutError, OSError)):
        kind, hint = BackendUnavailableError, "check the network and the endpoint"
    elif isinstance(error, (IncompleteReadError, ResponseParserError)):
        kind = TransientError
    translated: FsbackupError = context.error(kind, text, hint)
    return translated


def _forget_request(error: Any) -> None:
    """Remove the signed request that botocore stores in some errors; its headers contain the access key id."""
    if hasattr(error, "request"):
        error.request = None


def _describe(error: Exception) -> str:
    """Return the error and its cause in one line; botocore's own text often omits the cause."""
    cause = getattr(error, "kwargs", {}).get("error")
    texts = [str(one) or type(one).__name__ for one in (error, cause) if one is not None]
    return " ".join(": ".join(dict.fromkeys(texts)).split())
