"""What answers of failure mean: one table from the service's codes to backend errors, each with a hint."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from xml.etree import ElementTree

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

#: User and password in a URL, whatever text it is in.
_USERINFO = re.compile(r"//[^/\s@]+@")
#: A region; it goes into a header of every request.
_REGION = re.compile(r"[a-z0-9-]+")
#: Statuses by which HEAD, whose answer has no code, says that it was signed for another region.
_OTHER_REGION = frozenset({301, 307, 400})


class ProxyError(OSError):
    """The proxy did not connect to the service; `status` is its answer, 0 where it cannot be used at all."""

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status


def hide_userinfo(text: str) -> str:
    """Return a text without the users and passwords of the URLs in it."""
    return _USERINFO.sub("//***@", text)


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

_PROXY_HINT = "check the proxy's user and password in HTTPS_PROXY or HTTP_PROXY, or add the service to NO_PROXY"
_NETWORK_HINT = "check the network and the endpoint"
_CA_HINT = "check endpoint_url, or set ca_bundle: the certificate of the endpoint is not trusted"
_REDIRECT_HINT = (
    "correct endpoint_url or the region: a redirect is not followed, since no configuration names its target"
)

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
    407: ErrorMapping(AccessDeniedError, _PROXY_HINT),
    408: _RETRY,
    412: _CONFLICT,
    429: _RETRY,
    501: ErrorMapping(BackendError, "use another provider: this one does not implement the request"),
    505: ErrorMapping(BackendError),
    507: _OUT_OF_SPACE,
}
#: Codes of a service that does not implement a request.
NOT_OFFERED = frozenset({"NotImplemented", "MethodNotAllowed", "501", "405"})
#: Codes that decide elsewhere what is done, and that need no hint.
_OTHER_CODES = frozenset({
    "InvalidRange",
    "MethodNotAllowed",
    "NoSuchLifecycleConfiguration",
    "NoSuchVersion",
    "NotFound",
    "NotImplemented",
})  # fmt: skip
#: Codes of a 404 that means "no such key"; the 404 of a HEAD cannot tell a missing key from a missing bucket.
_BARE_404 = frozenset({"404", "NotFound"})


class AnswerError(Exception):
    """The service's answer to a request, when it is an error.

    Parameters
    ----------
    status
        The HTTP status.
    code, text
        The service's own, without secrets; the code is the status where the answer has none.
    headers
        With lower-case names.
    """

    def __init__(self, status: int, code: str, text: str, headers: Mapping[str, str]) -> None:
        super().__init__(f"HTTP {status}: {code}: {text}" if code != str(status) else f"HTTP {status}")
        self.status = status
        self.code = code
        self.text = text
        self.headers = headers


def code_of(error: BaseException | None) -> str:
    """Return the service's error code of a backend error or of its cause, "" without one."""
    for one in (error, error.__cause__ if error else None):
        if isinstance(one, AnswerError):
            return one.code
    return ""


def headers_of(error: BaseException) -> Mapping[str, str]:
    """Return the headers of the answer that led to a backend error, with lower-case names; empty without one."""
    cause = error.__cause__
    return cause.headers if isinstance(cause, AnswerError) else {}


def region_of(error: BaseException, signed_for: str) -> str:
    """Return the region that the service wants a request to be signed for, "" when it is not about that.

    `signed_for` is the one that it was signed for.
    """
    named = headers_of(error).get("x-amz-bucket-region", "").strip()
    answer = error.__cause__
    if named == signed_for or not _REGION.fullmatch(named) or not isinstance(answer, AnswerError):
        return ""
    is_bare = answer.status in _OTHER_REGION and answer.code == str(answer.status)
    return named if is_bare or answer.code == "AuthorizationHeaderMalformed" else ""


def retry_after(error: BaseException) -> float | None:
    """Return the Retry-After of the response in seconds, None without one."""
    text = headers_of(error).get("retry-after", "")
    return float(text) if text.isdecimal() else None


def translate(error: Exception, context: CallContext, secrets: tuple[str, ...]) -> FsbackupError:
    """Return the backend error for what a request raised, and remove the secrets from the original error."""
    if isinstance(error, AnswerError):
        return _from_answer(error, context)
    return _from_exception(error, context, secrets)


def _from_answer(answer: AnswerError, context: CallContext) -> FsbackupError:
    mapping = _mapping_of(answer.code, answer.status)
    if answer.status in _REDIRECTS:
        return _redirect_error(answer, context)
    response = f"{answer.code}: {answer.text}" if answer.code != str(answer.status) else f"HTTP {answer.status}"
    message = "no such key" if mapping.kind is ObjectNotFoundError else f"the service answered {response}"
    translated: FsbackupError = context.error(mapping.kind, message, mapping.hint)
    return translated


def _mapping_of(code: str, status: int) -> ErrorMapping:
    if code in CODES:
        return CODES[code]
    if status == 404 and code in _BARE_404:
        return _NOT_FOUND
    return STATUSES.get(status) or (_RETRY if status >= 500 else ErrorMapping(BackendError))


_REDIRECTS = frozenset({301, 302, 303, 307, 308})


def _redirect_error(answer: AnswerError, context: CallContext) -> FsbackupError:
    """Return the error for a redirect, which names its host and nothing else of its target."""
    host = _host_of(answer.headers.get("location", ""))
    code = "" if answer.code == str(answer.status) else f" ({answer.code})"
    target = f" to {host}" if host else ""
    message = f"the service answered with a redirect{target}: HTTP {answer.status}{code}"
    error: FsbackupError = context.error(BackendError, message, _REDIRECT_HINT)
    return error


def _host_of(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def scrubbed_code(code: str, secrets: tuple[str, ...]) -> str:
    """Return an error's code without secrets; a known one is none, though a short key may be a part of it."""
    return code if code in CODES or code in _OTHER_CODES else scrub(code, secrets)


def scrub(text: str, secrets: tuple[str, ...]) -> str:
    """Return a text without the secrets, and without the users and passwords of any URL."""
    for secret in filter(None, secrets):
        text = text.replace(secret, "***")
    return hide_userinfo(text)


def _scrub_exception(error: Any, secrets: tuple[str, ...]) -> None:
    """Remove the secrets from an error and its causes, which tracebacks show."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        error.args = tuple(scrub(part, secrets) if isinstance(part, str) else part for part in error.args)
        error = error.__cause__ or error.__context__


def _from_exception(error: Exception, context: CallContext, secrets: tuple[str, ...]) -> FsbackupError:
    """Return the backend error for a failure without a response from the service."""
    kind, hint = _kind_of(error)
    translated: FsbackupError = context.error(kind, scrub(_describe(error), secrets), hint)
    _scrub_exception(error, secrets)
    return translated


def _kind_of(error: Exception) -> tuple[type[FsbackupError], str | None]:
    names = {one.__name__ for one in type(error).__mro__}
    if "CERTIFICATE_VERIFY_FAILED" in str(error) or "CaBundleError" in names:
        return BackendError, _CA_HINT
    if isinstance(error, ProxyError) and error.status < 500 and error.status != 429:
        return (AccessDeniedError if error.status == 407 else BackendError), _PROXY_HINT
    if isinstance(error, OSError):
        return BackendUnavailableError, _NETWORK_HINT
    # By name, so that `http.client` is not imported to know its errors.
    return (TransientError if "HTTPException" in names else BackendError), None


def _describe(error: Exception) -> str:
    """Return the error in one line."""
    if isinstance(error, OSError) and error.strerror and isinstance(error.filename, str):
        return f"{error.filename}: {error.strerror}"
    return " ".join((str(error) or type(error).__name__).split())


def answer_error(status: int, headers: Mapping[str, str], body: bytes, secrets: tuple[str, ...]) -> AnswerError:
    """Return what an answer of failure says, without secrets."""
    said = {element.tag: element.text or "" for element in _error_of(body)}
    code, text = scrubbed_code(said.get("Code", ""), secrets), scrub(said.get("Message", ""), secrets)
    shown = {name: scrub(value, secrets) for name, value in headers.items()}
    if _REGION.fullmatch(region := said.get("Region", "").strip()):
        shown.setdefault("x-amz-bucket-region", region)
    return AnswerError(status, code or str(status), text, shown)


def _error_of(body: bytes) -> Sequence[ElementTree.Element]:
    try:
        root = parse_xml(body)
    except BadXmlError:
        return ()
    return list(root) if root.tag == "Error" else ()


class BadXmlError(ValueError):
    """The text is no XML document, or one that declares entities."""


def parse_xml(body: bytes) -> ElementTree.Element:
    """Return the root of a document, its tags without namespaces.

    Raises
    ------
    BadXmlError
        When it cannot be parsed, or has a document type: entities can make a small text a large one.
    """
    if b"<!DOCTYPE" in body:
        raise BadXmlError("it has a document type")
    try:
        # In this encoding only, since in another one the check above would not find what it looks for.
        root = ElementTree.fromstring(body, ElementTree.XMLParser(encoding="utf-8"))
    except ElementTree.ParseError as error:
        raise BadXmlError(f"it is not XML ({error})") from None
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return root
