"""Cloudflare R2: its endpoint, its variables and its facts."""

from __future__ import annotations

from fsbackup.backends.base import ErrorMode
from fsbackup.backends.s3.arguments import Argument, resolve
from fsbackup.backends.s3.objects import DEFAULT_CONCURRENCY, S3Objects
from fsbackup.backends.s3.profile import Profile
from fsbackup.backends.s3.storage import S3Backend
from fsbackup.objects import DEFAULT_TIMEOUT

#: By Cloudflare's documentation of R2: "S3 API compatibility" and "Extensions" (conditional PutObject; conditional
#: CompleteMultipartUpload since 2023-08-11), "Multipart objects" (ETags since 2023-06-21). There are no versions.
R2 = Profile(scheme="r2", condition="atomic", multipart_etag_is_md5=True)


class CloudflareR2Storage(S3Backend):
    """A bucket of Cloudflare R2.

    Every argument that is left out comes from its environment variable, where it has one.

    Parameters
    ----------
    account_id
        Cloudflare's account id (``R2_ACCOUNT_ID``); not needed with `endpoint_url`.
    bucket
        The bucket, which must exist (``R2_BUCKET_NAME``).
    access_key_id, secret_access_key
        An R2 API token for it (``R2_ACCESS_KEY_ID``, ``R2_SECRET_ACCESS_KEY``); object read and write suffices.
    endpoint_url
        Default ``https://<account_id>.r2.cloudflarestorage.com``; buckets in a jurisdiction have another one.
    prefix
        Leading segments under which all keys are stored; default none.
    name
        The backend's name in results, logs and errors; default ``r2``.
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
        account_id: str | None = None,
        bucket: str | None = None,
        access_key_id: str | None = None,
        secret_access_key: str | None = None,
        *,
        endpoint_url: str | None = None,
        prefix: str = "",
        name: str = "r2",
        errors: ErrorMode = "return",
        timeout: float = DEFAULT_TIMEOUT,
        max_concurrency: int = DEFAULT_CONCURRENCY,
        ca_bundle: str | None = None,
    ) -> None:
        account = {} if endpoint_url else {"account_id": Argument(account_id, "R2_ACCOUNT_ID")}
        given = resolve(
            name,
            **account,
            bucket=Argument(bucket, "R2_BUCKET_NAME"),
            access_key_id=Argument(access_key_id, "R2_ACCESS_KEY_ID"),
            secret_access_key=Argument(secret_access_key, "R2_SECRET_ACCESS_KEY"),
        )
        account_id = given.pop("account_id", None)
        objects = S3Objects(
            name,
            **given,
            region="auto",
            endpoint_url=endpoint_url or f"https://{account_id}.r2.cloudflarestorage.com",
            prefix=prefix,
            profile=R2,
            timeout=timeout,
            max_concurrency=max_concurrency,
            ca_bundle=ca_bundle,
        )
        super().__init__(objects, errors=errors)
