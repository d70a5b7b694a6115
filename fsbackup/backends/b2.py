"""Backblaze B2: its endpoint, its variables and its facts."""

from __future__ import annotations

from fsbackup.backends.base import ErrorMode
from fsbackup.backends.s3.arguments import Argument, resolve
from fsbackup.backends.s3.objects import DEFAULT_CONCURRENCY, S3Objects
from fsbackup.backends.s3.profile import Profile
from fsbackup.backends.s3.storage import S3Backend
from fsbackup.objects import DEFAULT_TIMEOUT

#: By Backblaze's documentation of its S3-compatible API: buckets always keep versions, and a delete without a
#: version id only hides. ``If-None-Match`` is not documented and has been answered with NotImplemented; what a
#: multipart ETag is made of is not documented either.
B2 = Profile(scheme="b2", condition="none", multipart_etag_is_md5=False, removes_versions=True)


class BackblazeB2Storage(S3Backend):
    """A bucket of Backblaze B2, through its S3-compatible API.

    Every argument that is left out comes from its environment variable, where it has one.

    Parameters
    ----------
    bucket
        The bucket, which must exist (``B2_BUCKET_NAME``).
    region
        As in the bucket's endpoint, e.g. ``us-east-005`` (``B2_REGION``).
    access_key_id, secret_access_key
        An application key, not the master key (``B2_ACCESS_KEY_ID``, ``B2_SECRET_ACCESS_KEY``); it needs
        listFiles, readFiles, writeFiles and deleteFiles.
    endpoint_url
        Default ``https://s3.<region>.backblazeb2.com``.
    prefix
        Leading segments under which all keys are stored; default none.
    name
        The backend's name in results, logs and errors; default ``b2``.
    errors
        ``"return"`` (default): methods return False and log; ``"raise"``: they raise.
    timeout
        Longest silence in seconds; default 60.
    max_concurrency
        Parts of one object sent at once; default 4.
    ca_bundle
        A file of certificates to trust instead of the system's.

    Raises
    ------
    ConfigError
        When arguments are missing, naming all of them with their variables.
    """

    def __init__(
        self,
        bucket: str | None = None,
        region: str | None = None,
        access_key_id: str | None = None,
        secret_access_key: str | None = None,
        *,
        endpoint_url: str | None = None,
        prefix: str = "",
        name: str = "b2",
        errors: ErrorMode = "return",
        timeout: float = DEFAULT_TIMEOUT,
        max_concurrency: int = DEFAULT_CONCURRENCY,
        ca_bundle: str | None = None,
    ) -> None:
        given = resolve(
            name,
            bucket=Argument(bucket, "B2_BUCKET_NAME"),
            region=Argument(region, "B2_REGION"),
            access_key_id=Argument(access_key_id, "B2_ACCESS_KEY_ID"),
            secret_access_key=Argument(secret_access_key, "B2_SECRET_ACCESS_KEY"),
        )
        objects = S3Objects(
            name,
            **given,
            endpoint_url=endpoint_url or f"https://s3.{given['region']}.backblazeb2.com",
            prefix=prefix,
            profile=B2,
            timeout=timeout,
            max_concurrency=max_concurrency,
            ca_bundle=ca_bundle,
        )
        super().__init__(objects, errors=errors)
