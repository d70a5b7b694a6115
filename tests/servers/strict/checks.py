"""The rules that both providers have."""

from __future__ import annotations

import base64
import binascii
import hashlib

from tests.servers.strict.messages import Call, RefusedError
from tests.servers.strict.providers import Provider

MAX_KEY_BYTES = 1024
_NEED_A_CHECKSUM = frozenset({"put_object", "upload_part"})


def check_call(call: Call, provider: Provider) -> None:
    """Refuse whatever either provider or both do not take, before the request is done."""
    provider.check_headers(call)
    _check_body_hash(call)
    _check_md5(call)
    if len(call.key.encode()) > MAX_KEY_BYTES:
        raise RefusedError(400, "KeyTooLongError", "Your key is too long.")
    if sum(len(name) + len(value) for name, value in call.metadata.items()) > provider.metadata_limit:
        raise RefusedError(400, "MetadataTooLarge", "The metadata headers exceed the maximum allowed size.")


def _check_body_hash(call: Call) -> None:
    claimed = call.header("x-amz-content-sha256")
    if claimed != "UNSIGNED-PAYLOAD" and claimed != hashlib.sha256(call.body).hexdigest():
        message = "The provided 'x-amz-content-sha256' header does not match what was computed."
        raise RefusedError(400, "XAmzContentSHA256Mismatch", message)


def _check_md5(call: Call) -> None:
    md5, sha256 = call.header("content-md5"), call.header("x-amz-checksum-sha256")
    if md5:
        _compare("Content-MD5", md5, hashlib.md5(call.body, usedforsecurity=False).digest())
    if sha256:
        _compare("x-amz-checksum-sha256", sha256, hashlib.sha256(call.body).digest())
    if call.operation == "delete_objects" and not md5:
        raise RefusedError(400, "MissingContentMD5", "Missing required header for this request: Content-MD5")
    has_body = not call.header("x-amz-copy-source")
    if call.operation in _NEED_A_CHECKSUM and has_body and not (md5 or sha256):
        message = "Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object requests"
        raise RefusedError(400, "InvalidRequest", f"{message} with Object Lock parameters")


def _compare(name: str, claimed: str, actual: bytes) -> None:
    try:
        is_equal = base64.b64decode(claimed, validate=True) == actual
    except binascii.Error as error:
        raise RefusedError(400, "InvalidDigest", f"The {name} you specified is not valid.") from error
    if not is_equal:
        raise RefusedError(400, "BadDigest", f"The {name} you specified did not match what we received.")
