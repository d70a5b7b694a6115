"""`S3Storage`, `CloudflareR2Storage` and `BackblazeB2Storage`: a bucket of an S3 service."""

from __future__ import annotations

from fsbackup.backends.base import ErrorMode, SingleBackend
from fsbackup.stores.base import DEFAULT_TIMEOUT
from fsbackup.stores.s3.http.settings import Addressing, Argument, resolve
from fsbackup.stores.s3.providers import AMAZON, B2, GENERIC, R2
from fsbackup.stores.s3.store import DEFAULT_CONCURRENCY, Records, S3Store


class S3Backend(SingleBackend):
    """Base of the backends for S3 services.

    Parameters
    ----------
    prefix
        Leading segments under which all keys are stored; default none.
    name
        The backend's name in results, logs and errors; default ``s3``, ``r2`` or ``b2``.
    errors
        ``"return"`` (default) or ``"raise"``, see `StorageBackend`.
    timeout
        Seconds without a byte moved after which the service counts as unavailable; default 60.
    max_concurrency
        Parts of one object sent at once; default 4.
    ca_bundle
        A PEM file of the authorities to trust instead of the system's.
    session_token
        The token of temporary credentials; default none.
    addressing
        ``"path"`` or ``"virtual"``: whether the bucket's name is in the path of a URL or in its host's name. By
        default in the path; for Amazon S3 itself, without `endpoint_url`, in the host's name unless it has dots.
    records
        Where the records of objects are: ``"inside"`` (default) the objects' user metadata, or ``"beside"`` them,
        for a service that does not keep user metadata, and for a bucket that was filled that way.

    Raises
    ------
    ConfigError
        When required arguments are missing; names all of them, and their environment variables.
    """

    store: S3Store

    @property
    def endpoint_url(self) -> str | None:
        """The URL of the service; None for Amazon S3 itself."""
        return self.store.endpoint_url

    @property
    def bucket(self) -> str:
        """The bucket's name."""
        return self.store.bucket


class S3Storage(S3Backend):
    """A bucket of Amazon S3, or of any service with its API.

    Parameters
    ----------
    bucket
        The bucket, which must exist.
    region
        The region of the bucket; default ``us-east-1``, which most other services accept.
    access_key_id, secret_access_key
        The credentials.
    endpoint_url
        The URL of the service; default None, Amazon S3 itself.
    prefix, name, errors, timeout, max_concurrency, ca_bundle, session_token, addressing,
    records
        See `S3Backend`.
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
        session_token: str | None = None,
        addressing: Addressing | None = None,
        records: Records = "inside",
    ) -> None:
        arguments = resolve(
            name,
            bucket=Argument(bucket),
            access_key_id=Argument(access_key_id),
            secret_access_key=Argument(secret_access_key),
        )
        store = S3Store(
            name,
            **arguments,
            region=region,
            endpoint_url=endpoint_url,
            prefix=prefix,
            profile=GENERIC if endpoint_url else AMAZON,
            timeout=timeout,
            max_concurrency=max_concurrency,
            ca_bundle=ca_bundle,
            session_token=session_token,
            addressing=addressing,
            records=records,
        )
        super().__init__(store, errors=errors)


class CloudflareR2Storage(S3Backend):
    """A bucket of Cloudflare R2.

    An omitted argument is read from its environment variable, where it has one.

    Parameters
    ----------
    account_id
        Cloudflare's account id (``R2_ACCOUNT_ID``); not needed with `endpoint_url`.
    bucket
        The bucket, which must exist (``R2_BUCKET_NAME``).
    access_key_id, secret_access_key
        An R2 API token for it (``R2_ACCESS_KEY_ID``, ``R2_SECRET_ACCESS_KEY``); Object Read & Write suffices.
        Temporary ones have a `session_token`, too (``R2_SESSION_TOKEN``).
    endpoint_url
        Default ``https://<account_id>.r2.cloudflarestorage.com``; buckets in a jurisdiction have another endpoint.
    prefix, name, errors, timeout, max_concurrency, ca_bundle, session_token, addressing,
    records
        See `S3Backend`.
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
        session_token: str | None = None,
        addressing: Addressing | None = None,
        records: Records = "inside",
    ) -> None:
        account = {} if endpoint_url else {"account_id": Argument(account_id, "R2_ACCOUNT_ID")}
        arguments = resolve(
            name,
            **account,
            bucket=Argument(bucket, "R2_BUCKET_NAME"),
            access_key_id=Argument(access_key_id, "R2_ACCESS_KEY_ID"),
            secret_access_key=Argument(secret_access_key, "R2_SECRET_ACCESS_KEY"),
        )
        account_id = arguments.pop("account_id", None)
        store = S3Store(
            name,
            **arguments,
            region="auto",
            endpoint_url=endpoint_url or f"https://{account_id}.r2.cloudflarestorage.com",
            prefix=prefix,
            profile=R2,
            timeout=timeout,
            max_concurrency=max_concurrency,
            ca_bundle=ca_bundle,
            session_token=Argument(session_token, "R2_SESSION_TOKEN").resolved,
            addressing=addressing,
            records=records,
        )
        super().__init__(store, errors=errors)


class BackblazeB2Storage(S3Backend):
    """A bucket of Backblaze B2, through its S3-compatible API.

    An omitted argument is read from its environment variable, where it has one.

    Parameters
    ----------
    bucket
        The bucket, which must exist (``B2_BUCKET_NAME``).
    region
        As in the bucket's endpoint, e.g. ``us-east-005`` (``B2_REGION``).
    access_key_id, secret_access_key
        An application key, not the master key (``B2_ACCESS_KEY_ID``, ``B2_SECRET_ACCESS_KEY``); it needs
        listFiles, readFiles, writeFiles and deleteFiles. A `session_token` also comes from ``B2_SESSION_TOKEN``.
    endpoint_url
        Default ``https://s3.<region>.backblazeb2.com``.
    prefix, name, errors, timeout, max_concurrency, ca_bundle, session_token, addressing,
    records
        See `S3Backend`.
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
        session_token: str | None = None,
        addressing: Addressing | None = None,
        records: Records = "inside",
    ) -> None:
        arguments = resolve(
            name,
            bucket=Argument(bucket, "B2_BUCKET_NAME"),
            region=Argument(region, "B2_REGION"),
            access_key_id=Argument(access_key_id, "B2_ACCESS_KEY_ID"),
            secret_access_key=Argument(secret_access_key, "B2_SECRET_ACCESS_KEY"),
        )
        store = S3Store(
            name,
            **arguments,
            endpoint_url=endpoint_url or f"https://s3.{arguments['region']}.backblazeb2.com",
            prefix=prefix,
            profile=B2,
            timeout=timeout,
            max_concurrency=max_concurrency,
            ca_bundle=ca_bundle,
            session_token=Argument(session_token, "B2_SESSION_TOKEN").resolved,
            addressing=addressing,
            records=records,
        )
        super().__init__(store, errors=errors)
