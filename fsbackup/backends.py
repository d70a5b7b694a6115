"""`StorageBackend`: the five methods, written once over the object I/O of `fsbackup.stores.base`."""

from __future__ import annotations

import asyncio
import os
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

from fsbackup import events
from fsbackup.engine import delete, head, restore, upload
from fsbackup.engine.replicas import ReplicaSet
from fsbackup.engine.source import open_source
from fsbackup.errors import BackendError, ConfigError, FsbackupError, IntegrityError, ReplicationError
from fsbackup.keys import check_key
from fsbackup.loop import run
from fsbackup.stores.base import DEFAULT_TIMEOUT, ObjectStore
from fsbackup.stores.generic.store import GenericStore
from fsbackup.stores.generic.writer import Confirm
from fsbackup.stores.local.store import LocalStore
from fsbackup.stores.s3.arguments import Argument, resolve
from fsbackup.stores.s3.profile import AMAZON, B2, GENERIC, R2
from fsbackup.stores.s3.store import DEFAULT_CONCURRENCY, S3Store

T = TypeVar("T")

#: What a method does about a failure of the service: return False (or None), or raise the typed exception.
ErrorMode = Literal["return", "raise"]


class StorageBackend(ABC):
    """A place, or a set of places, that keeps objects under keys.

    Wrong *use* raises `ValueError` or `ConfigError` whatever `errors` says: an empty key, a key with ``..``, a
    directory where a file is meant. What a *service* does is reported as `errors` says and always logged.

    Parameters
    ----------
    name
        What results, logs and errors call it.
    errors
        ``"return"``: methods answer False (`get_size`: None) on failure. ``"raise"``: they raise the
        exceptions of `fsbackup.errors`.
    """

    def __init__(self, name: str, *, errors: ErrorMode = "return") -> None:
        if errors not in ("return", "raise"):
            raise ValueError(f"errors must be 'return' or 'raise', not {errors!r}")
        self.name = name
        self.errors = errors

    @property
    @abstractmethod
    def replica_set(self) -> ReplicaSet:
        """The stores that this backend keeps its objects in, and the rule over them."""

    def upload(self, local_path: str | os.PathLike[str], remote_path: str) -> bool:
        """Store a file under a key, replacing what is there.

        Returns
        -------
        bool
            True only when the bytes, and the manifest that proves them, are confirmed by the backend. For a
            set: by at least `min_copies` replicas.

        Raises
        ------
        SourceError
            With ``errors="raise"``: the file cannot be read, or changed while it was.
        BackendError, IntegrityError, TooFewCopiesError
            With ``errors="raise"``: what the service did.
        """
        key = check_key(remote_path)
        _refuse_directory(local_path)
        return self._attempt("upload", key, self._upload(local_path, key), False)

    def download(self, remote_path: str, local_path: str | os.PathLike[str]) -> bool:
        """Read an object into a file, which appears whole and proven or stays as it was.

        Parent directories are made. The file gets the mode and modification time of the one backed up.

        Raises
        ------
        ObjectNotFoundError
            With ``errors="raise"``: the key is not there, and that is proven.
        IntegrityError, NoHealthyReplicaError, BackendError
            With ``errors="raise"``: no proven bytes could be had.
        """
        key, target = check_key(remote_path), Path(os.fspath(local_path))
        if target.is_dir():
            raise ValueError(f"{target} is a directory where a file is meant")
        return self._attempt("download", key, self._download(key, target), False)

    def exists(self, remote_path: str) -> bool:
        """Tell whether the key is there.

        With ``errors="return"`` False also stands for "could not find out", which is logged as an ERROR; ask with
        ``errors="raise"`` where the difference matters.
        """
        key = check_key(remote_path)
        return self._attempt("exists", key, head.exists(self.replica_set, key), False)

    def delete(self, remote_path: str) -> bool:
        """Delete exactly this key; True when every store confirmed, also when it was not there."""
        key = check_key(remote_path)
        return self._attempt("delete", key, self._delete(key), False)

    def get_size(self, remote_path: str) -> int | None:
        """Return the object's size in bytes, None when the key is not there."""
        key = check_key(remote_path)
        return self._attempt("get_size", key, head.size(self.replica_set, key), None)

    async def _upload(self, local_path: str | os.PathLike[str], key: str) -> bool:
        source = await asyncio.to_thread(open_source, local_path)
        try:
            report = await upload.upload(self.replica_set, key, source, overwrite=True)
        finally:
            source.close()
        if not report:
            raise report.failure()
        return True

    async def _download(self, key: str, target: Path) -> bool:
        await restore.download(self.replica_set, key, target)
        return True

    async def _delete(self, key: str) -> bool:
        report = await delete.delete(self.replica_set, key)
        if not report:
            raise report.failure()
        return True

    def _attempt(self, operation: str, key: str, work: Coroutine[Any, Any, T], otherwise: T) -> T:
        """Run `work`; on a failure of the service do as `errors` says."""
        try:
            result = run(work)
        except ConfigError:
            raise
        except (FsbackupError, OSError) as error:
            if not _logged(operation, error):
                events.log_outcome(operation, self.name, key, error=error)
            if self.errors == "raise":
                raise
            return otherwise
        if operation in ("exists", "get_size"):
            events.log_outcome(operation, self.name, key)
        return result

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__} holds credentials and connections and cannot be pickled;"
            " build it again where it is needed, from the environment or a configuration file"
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r})"


def _logged(operation: str, error: Exception) -> bool:
    """Tell whether each store's failure was logged when it happened, so that it is not said twice."""
    return operation in ("upload", "delete") and isinstance(
        error, (BackendError, IntegrityError, ReplicationError)
    )


def _refuse_directory(path: str | os.PathLike[str]) -> None:
    if os.path.isdir(path):
        raise ValueError(f"{os.fspath(path)} is a directory where a file is meant; a job backs up a directory")


class SingleBackend(StorageBackend):
    """One storage place: the five methods over one `ObjectStore`.

    Parameters
    ----------
    objects
        The store; its name is the backend's name.
    errors
        See `StorageBackend`.
    part_size
        Bytes per multipart part, None to let it follow the object's size.
    """

    def __init__(self, store: ObjectStore, *, errors: ErrorMode = "return", part_size: int | None = None) -> None:
        super().__init__(store.name, errors=errors)
        self.store = store
        self._set = ReplicaSet((store,), min_copies=1, part_size=part_size)

    @property
    def replica_set(self) -> ReplicaSet:
        return self._set

    @property
    def fs(self) -> Any:
        """The fsspec filesystem that this backend wraps."""
        return self.store.filesystem

    @property
    def location(self) -> str:
        """Where the objects are, for people: a path or URL without secrets."""
        return self.store.location

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r}, location={self.location!r})"


DEFAULT_BASE_PATH = "/var/backups/jewelry-shop"
BASE_PATH_VARIABLE = "BACKUP_LOCAL_PATH"


class LocalStorage(SingleBackend):
    """Backups as plain files in a directory, under their own names.

    Every write is a temp file beside the target, fsync, rename and fsync of the directory, so that a crash
    leaves the old file or the new one. Copies keep the source's mtime and permission bits; what has no source
    is readable by its owner only. Directories are made when a write needs them and removed when empty.

    Parameters
    ----------
    base_path
        The directory. Default: ``$BACKUP_LOCAL_PATH``, and without it ``/var/backups/jewelry-shop``.
    name
        The backend's name in results, logs and errors.
    errors
        ``"return"``: the methods report failure as False or None and log it. ``"raise"``: they raise.
    create
        Whether a missing base directory is an empty backend that the first write makes (the default), or
        `BackendUnavailableError`. Set it to False for a disk that may not be mounted, and let the base be a
        directory on that disk, not the mount point: an unmounted disk then never looks like an empty one.
    timeout
        Longest silence of the disk in seconds, after which it counts as unavailable.
    """

    def __init__(
        self,
        base_path: str | os.PathLike[str] | None = None,
        *,
        name: str = "local",
        errors: ErrorMode = "return",
        create: bool = True,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> None:
        path = base_path if base_path is not None else os.environ.get(BASE_PATH_VARIABLE) or DEFAULT_BASE_PATH
        super().__init__(LocalStore(path, name=name, create=create, timeout=timeout), errors=errors)

    @property
    def base_path(self) -> str:
        """The directory, as an absolute path."""
        return self.location


class S3Backend(SingleBackend):
    """What the backends of all S3 services share."""

    objects: S3Store

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
        objects = S3Store(
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
        objects = S3Store(
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
        objects = S3Store(
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


class GenericStorage(SingleBackend):
    """Backups as plain files below any fsspec URL, under their own names.

    Every write is a temp file beside the target, read back and compared, then renamed over the target. How
    much a rename promises depends on the protocol:

    - ``sftp``: atomic where the server has ``posix-rename@openssh.com`` (OpenSSH and most others do); without
      it replacing an object is refused, and the old one stays.
    - ``ftp``: as the server does RNFR/RNTO. Most on Unix replace atomically; one that refuses keeps the old.
    - ``memory``: a copy that appears in one step, then the temp file is removed. Gone with the process.
    - Object stores (``gcs``, ``abfs``, ...): a copy on the server, which appears in one step.

    Over ``sftp`` files get the source's permission bits, 0600 without a source. fsspec trusts any host key unless
    ``options`` say ``host_key_policy: reject``.

    ``create_only`` asks first and is not atomic against other writers. One connection serves all operations of
    a backend, one after the other. A missing base directory is an empty backend: nothing tells an unmounted disk
    of the server from a new one.

    Parameters
    ----------
    url
        The base directory, ``protocol://host/path``. Types ``local``, ``s3``, ``r2`` and ``b2`` are not for this
        class; neither are chains (``::``).
    options
        What fsspec opens the filesystem with. Never shown in a log, repr, error or pickle.
    name
        The backend's name in results, logs and errors; default: the protocol.
    errors
        ``"return"``: the methods report failure as False or None and log it. ``"raise"``: they raise.
    confirm
        ``"checksum"`` (the default) reads each object back before it gets its name, which doubles the traffic;
        ``"size"`` compares its size only.
    timeout
        Longest silence in seconds, after which the backend counts as unavailable.

    Raises
    ------
    ConfigError
        For a URL that cannot be used, naming the package when one is missing.
    """

    def __init__(
        self,
        url: str,
        *,
        options: Mapping[str, Any] | None = None,
        name: str | None = None,
        errors: ErrorMode = "return",
        confirm: Confirm = "checksum",
        timeout: float = DEFAULT_TIMEOUT,
    ) -> None:
        objects = GenericStore(url, options=options, name=name, confirm=confirm, timeout=timeout)
        super().__init__(objects, errors=errors)
