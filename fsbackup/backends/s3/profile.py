"""What differs between S3 providers, as facts with their sources. No logic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Profile:
    """One provider's facts.

    Parameters
    ----------
    scheme
        Short name of the provider, as in ``r2://bucket``.
    condition
        What ``If-None-Match: *`` on a write does: ``"atomic"`` (documented, relied on), ``"try"`` (sent, but the
        name is asked for first too, because some servers ignore the header) or ``"none"`` (not sent).
    multipart_etag_is_md5
        An ETag of the form ``<hex>-<parts>`` is the MD5 of the parts' MD5s, so that it can be compared.
    removes_versions
        The bucket keeps every version, and a plain delete frees no space: remove them one by one.
    """

    scheme: str
    condition: Literal["atomic", "try", "none"] = "try"
    multipart_etag_is_md5: bool = True
    removes_versions: bool = False


#: Any other S3 endpoint, by the documentation of Amazon S3 (PutObject, CompleteMultipartUpload, "Checking object
#: integrity": the ETag of a multipart object is computed from the MD5s of its parts).
GENERIC = Profile(scheme="s3")
