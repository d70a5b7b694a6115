"""What differs between S3 providers, with sources. No logic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Profile:
    """The properties of one provider.

    Parameters
    ----------
    scheme
        Short name of the provider, as in ``r2://bucket``.
    condition
        What ``If-None-Match: *`` and ``If-Match`` on a write do: ``"atomic"`` (documented, relied on), ``"try"``
        (sent, the first after a HEAD, because some servers ignore them) or ``"none"`` (not sent).
    copy_condition
        What the names of these conditions begin with in a request that copies an object.
    writes_slowly
        A name may be written about once a second, and not at all sooner: the record of an object of several parts
        is not written over the note on its upload.
    multipart_etag_is_md5
        An ETag of the form ``<hex>-<parts>`` is the MD5 of the parts' MD5s, so that it can be compared.
    conditional_delete
        ``If-Match`` on a DELETE, and an ETag in DeleteObjects, are sent; some servers ignore both.
    removes_versions
        The bucket keeps every version, and a plain delete frees no space: remove them one by one.
    lists_in_order
        Listings ascend by the names' UTF-8 bytes, as Amazon S3 documents it for ListObjectsV2. Servers that keep
        objects in directories list ``a/b`` before ``a b``.
    """

    scheme: str
    condition: Literal["atomic", "try", "none"] = "try"
    copy_condition: str = ""
    writes_slowly: bool = False
    multipart_etag_is_md5: bool = True
    conditional_delete: bool = True
    removes_versions: bool = False
    lists_in_order: bool = True


#: By the documentation of Amazon S3 (PutObject, CompleteMultipartUpload, "Checking object
#: integrity": the ETag of a multipart object is computed from the MD5s of its parts; "How to prevent object
#: overwrites with conditional writes", since 2024-11-25; "How to perform conditional deletes", since 2025-09-16).
AMAZON = Profile(scheme="s3", condition="atomic")
#: Any other server with the S3 API.
GENERIC = Profile(scheme="s3", lists_in_order=False)


#: By Cloudflare's documentation of R2: "S3 API compatibility" and "Extensions" (conditional PutObject; conditional
#: CompleteMultipartUpload since 2023-08-11; of CopyObject by headers of its own), "Multipart objects" (ETags since
#: 2023-06-21), "Limits" (one write per second and key; 429 otherwise). There are no versions, and no conditional
#: DeleteObject.
R2 = Profile(
    scheme="r2",
    condition="atomic",
    copy_condition="cf-copy-destination-",
    writes_slowly=True,
    conditional_delete=False,
)
#: By Backblaze's documentation of its S3-compatible API: buckets always keep versions, and a delete without a
#: version id only hides. ``If-None-Match`` is not documented and has been answered with NotImplemented; what a
#: multipart ETag is made of is not documented either. What is removed is named by its version id.
B2 = Profile(
    scheme="b2", condition="none", multipart_etag_is_md5=False, conditional_delete=False, removes_versions=True
)
