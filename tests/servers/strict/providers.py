"""The rules that differ between Cloudflare R2 and Backblaze B2."""

from __future__ import annotations

import hashlib
import random
import string
import time
import unicodedata
from dataclasses import dataclass
from datetime import UTC, datetime

from tests.servers.strict.messages import Call, RefusedError, S3Error, not_implemented
from tests.servers.strict.store import Bucket

MIB = 1024 * 1024
WRITES = frozenset({"put_object", "copy_object", "create_multipart", "upload_part", "complete"})
_CONDITIONS = ("if-match", "if-none-match", "if-modified-since", "if-unmodified-since")
_NOT_HEX = "".join(sorted(set(string.ascii_lowercase) - set("abcdef")))


@dataclass
class Settings:
    """What a test may turn.

    Attributes
    ----------
    min_part_size
        The least size of every part but the last.
    write_interval
        R2: seconds that must lie between two writes of one key.
    unavailable_every
        B2: every so-many-th write request is answered 503; 0 for none.
    bucket_lock
        R2: seconds for which an object can be neither deleted nor replaced; 0 for no such rule.
    """

    min_part_size: int = 5 * MIB
    write_interval: float = 1.0
    unavailable_every: int = 7
    bucket_lock: float = 0.0


class Provider:
    """What both have in common."""

    name: str
    regions: frozenset[str]
    is_versioned: bool
    metadata_limit: int

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.writes = 0
        self.unavailable = 0

    def reset(self) -> None:
        """Count from the beginning again."""
        self.writes = self.unavailable = 0

    def identity(self, key: str) -> str:
        """Return the name under which a key is looked up."""
        return key

    def check_headers(self, call: Call) -> None:
        """Refuse headers the provider does not take."""
        raise NotImplementedError

    def before_write(self, bucket: Bucket, key: str) -> None:
        """Refuse a write that comes too soon after another to the same key."""

    def before_delete(self, bucket: Bucket, key: str) -> None:
        """Refuse to delete what is locked."""

    def check_part_sizes(self, sizes: list[int]) -> None:
        """Refuse parts that do not fit together at the completion of an upload."""
        if any(size < self.settings.min_part_size for size in sizes[:-1]):
            raise RefusedError(400, "EntityTooSmall", "A part is smaller than the minimum allowed size.")

    def multipart_etag(self, part_etags: list[str]) -> str:
        """Return the ETag of a completed upload."""
        raise NotImplementedError


class R2(Provider):
    """Cloudflare R2."""

    name = "r2"
    regions = frozenset({"auto", "us-east-1"})
    is_versioned = False
    metadata_limit = 8192

    _MISSING = (
        "x-amz-acl",
        "x-amz-grant-",
        "x-amz-tagging",
        "x-amz-server-side-encryption",
        "x-amz-object-lock-",
        "x-amz-bypass-governance-retention",
        "x-amz-request-payer",
        "x-amz-expected-bucket-owner",
        "x-amz-sdk-checksum-algorithm",
        "x-amz-checksum-crc",
        "x-amz-website-redirect-location",
    )

    def identity(self, key: str) -> str:
        return unicodedata.normalize("NFC", key)

    def check_headers(self, call: Call) -> None:
        if _is_chunked(call):  # a misleading answer, but the one that users have met
            raise RefusedError(401, "Unauthorized", "Unauthorized")
        for name in call.headers:
            is_customer_key = name.startswith("x-amz-server-side-encryption-customer")
            if name.startswith(self._MISSING) and not is_customer_key:
                raise not_implemented(f"Header '{name}' with value '{call.header(name)}' not implemented")
        if "versionId" in call.query:
            raise not_implemented("versionId not implemented")
        if call.header("x-amz-storage-class") not in {"", "STANDARD", "STANDARD_IA"}:
            raise RefusedError(400, "InvalidStorageClass", "The storage class is not valid.")

    def before_write(self, bucket: Bucket, key: str) -> None:
        now = time.monotonic()
        if now - bucket.written_at.get(key, -1e9) < self.settings.write_interval:
            message = "Reduce your concurrent request rate for the same object."
            raise RefusedError(429, "TooManyRequests", message)
        self.before_delete(bucket, key)
        bucket.written_at[key] = now

    def before_delete(self, bucket: Bucket, key: str) -> None:
        current = bucket.current(key)
        if current and (datetime.now(UTC) - current.modified).total_seconds() < self.settings.bucket_lock:
            raise S3Error(403, "ObjectLockedByBucketPolicy", "The object is locked by the bucket policy.")

    def check_part_sizes(self, sizes: list[int]) -> None:
        super().check_part_sizes(sizes)
        if len(set(sizes[:-1])) > 1 or sizes[-1] > sizes[0]:
            raise RefusedError(400, "InvalidPart", "All non-trailing parts must have the same length.")

    def multipart_etag(self, part_etags: list[str]) -> str:
        joined = b"".join(bytes.fromhex(etag) for etag in part_etags)
        return f"{hashlib.md5(joined, usedforsecurity=False).hexdigest()}-{len(part_etags)}"


class B2(Provider):
    """Backblaze B2, S3-compatible."""

    name = "b2"
    regions = frozenset({"us-west-004"})
    is_versioned = True
    metadata_limit = 2048

    _UNSUPPORTED = (
        "x-amz-checksum-",
        "x-amz-sdk-checksum-algorithm",
        "x-amz-trailer",
        "x-amz-acl",
        "x-amz-grant-",
        "x-amz-tagging",
        "x-amz-server-side-encryption-aws-",
    )

    def check_headers(self, call: Call) -> None:
        for name in call.headers:
            if name.startswith(self._UNSUPPORTED):
                message = f"Unsupported header '{name}' received for this API call."
                raise RefusedError(400, "InvalidArgument", message)
        if _is_chunked(call):
            raise RefusedError(400, "InvalidArgument", "Unsupported transfer or content encoding.")
        if call.operation in WRITES and any(name in call.headers for name in _CONDITIONS):
            raise not_implemented("A header you provided implies functionality that is not implemented.")
        self._maybe_busy(call)

    def _maybe_busy(self, call: Call) -> None:
        if call.operation not in WRITES:
            return
        self.writes += 1
        every = self.settings.unavailable_every
        if every and self.writes % every == 0:
            self.unavailable += 1
            raise S3Error(503, "ServiceUnavailable", "no tomes available", Connection="close")

    def multipart_etag(self, part_etags: list[str]) -> str:  # noqa: ARG002 - that is the point
        """Return something that has nothing to do with the content, so that nobody compares it."""
        return "".join(random.choices(_NOT_HEX, k=32))


def _is_chunked(call: Call) -> bool:
    is_chunked = "chunked" in call.header("transfer-encoding").lower()
    return is_chunked or "aws-chunked" in call.header("content-encoding") or "x-amz-trailer" in call.headers


def make_provider(name: str, settings: Settings) -> Provider:
    """Return the rules of the provider of that name."""
    kinds: dict[str, type[Provider]] = {"r2": R2, "b2": B2}
    return kinds[name](settings)
