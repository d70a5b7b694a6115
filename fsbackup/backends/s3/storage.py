"""`S3Storage`: a bucket of any S3 service as a storage backend."""

from __future__ import annotations

from fsbackup.backends.base import ErrorMode, SingleBackend
from fsbackup.backends.s3.arguments import Argument, resolve
from fsbackup.backends.s3.objects import DEFAULT_CONCURRENCY, S3Objects
from fsbackup.backends.s3.profile import AMAZON, GENERIC
from fsbackup.objects import DEFAULT_TIMEOUT


class S3Backend(SingleBackend):
    """What the backends of all S3 services share."""

    objects: S3Objects

    @property
    def endpoint_url(self) -> str | None:
        """Where the service is; None for Amazon S3 itself."""
        return self.objects.endpoint_url

    @property
    def bucket(self) -> str:
        """The bucket's name."""
        return self.objects.bucket


class S3Storage(S3Backend):
    """A bucket of Amazon S3, or of any service that speaks its protocol.

    Parameters
    ----------
    bucket
        The bucket, which must exist.
    region
        The region to sign for; default ``us-east-1``, which most other services take.
    access_key_id, secret_access_key
        How to sign in.
    endpoint_url
        Where the service is; default None, Amazon S3 itself.
    prefix
        Leading segments under which all keys are stored; default none.
    name
        The backend's name in results, logs and errors.
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
        When arguments are missing, naming all of them.
    """

    def __init__(
        self,
        bucket: str,
        region: str = "us-east-1",
        access_key_id: str | None = None,
        secret_access_key: str | None = None,
        endpoint_url: str | None = None,
        prefix: str = "",
        name: str = "s3",
        errors: ErrorMode = "return",
        timeout: float = DEFAULT_TIMEOUT,
        max_concurrency: int = DEFAULT_CONCURRENCY,
        ca_bundle: str | None = None,
    ) -> None:
        given = resolve(
            name,
            bucket=Argument(bucket),
            access_key_id=Argument(access_key_id),
            secret_access_key=Argument(secret_access_key),
        )
        objects = S3Objects(
            name,
            **given,
            region=region,
            endpoint_url=endpoint_url,
            prefix=prefix,
            profile=GENERIC if endpoint_url else AMAZON,
            timeout=timeout,
            max_concurrency=max_concurrency,
            ca_bundle=ca_bundle,
        )
        super().__init__(objects, errors=errors)
