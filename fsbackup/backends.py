"""The storage backends: `upload`, `download`, `exists`, `delete` and `get_size`, written once over object stores.

`StorageBackend` implements the five methods over a `ReplicaSet` through `fsbackup.engine`. `SingleBackend` is such
a set of one store; `LocalStorage`, `S3Storage`, `CloudflareR2Storage`, `BackblazeB2Storage` and `GenericStorage`
only choose the store. `fsbackup.replication.storage` builds a set of several.
"""

from __future__ import annotations

import asyncio
import os
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar

from fsbackup import events
from fsbackup.engine import delete, head, marker, restore, upload
from fsbackup.engine.replicas import ReplicaSet
from fsbackup.engine.source import open_source
from fsbackup.errors import BackendError, ConfigError, FsbackupError, IntegrityError, ReplicationError
from fsbackup.keys import check_key
from fsbackup.loop import run
from fsbackup.redact import redact
from fsbackup.stages import Undo
from fsbackup.stages.undo import IdentityFiles
from fsbackup.stores.base import DEFAULT_TIMEOUT, ObjectStore
from fsbackup.stores.generic.store import GenericStore
from fsbackup.stores.generic.writer import Confirm
from fsbackup.stores.local.store import LocalStore
from fsbackup.stores.s3.providers import AMAZON, B2, GENERIC, R2
from fsbackup.stores.s3.settings import Addressing, Argument, resolve
from fsbackup.stores.s3.store import DEFAULT_CONCURRENCY, Records, S3Store

if TYPE_CHECKING:
    from fsbackup.engine.command import Command

T = TypeVar("T")

#: What a method does when the service fails: return False (`get_size`: None), or raise the typed exception.
ErrorMode = Literal["return", "raise"]


class StorageBackend(ABC):
    """Stores objects under keys, in one place or in a replication set.

    Wrong *use* always raises `ValueError` or `ConfigError`: an empty key, a key with ``..``, a directory instead
    of a file. A failure of a *service* is returned or raised, depending on `errors`, and always logged.

    Parameters
    ----------
    name
        The name in results, logs and errors.
    errors
        ``"return"``: methods return False (`get_size`: None) on failure. ``"raise"``: they raise the exceptions of
        `fsbackup.errors`.
    """

    def __init__(self, name: str, *, errors: ErrorMode = "return") -> None:
        if errors not in ("return", "raise"):
            raise ValueError(f"errors must be 'return' or 'raise', not {errors!r}")
        self.name = name
        self.errors = errors

    @property
    @abstractmethod
    def replica_set(self) -> ReplicaSet:
        """The stores of this backend, and the number of copies required."""

    def upload(self, local_path: str | os.PathLike[str] | Command, remote_path: str) -> bool:
        """Store a file, or the output of a command that exits with 0, under a key, replacing an existing object.

        Returns
        -------
        bool
            True only when the backend has confirmed the bytes and the manifest that proves them; in a set, at
            least `min_copies` replicas.

        Raises
        ------
        SourceError
            With ``errors="raise"``: the file cannot be read, or changed during the upload; the command failed.
        BackendError, IntegrityError, TooFewCopiesError
            With ``errors="raise"``: the service failed.
        """
        key = check_key(remote_path)
        _refuse_directory(local_path)
        return self._attempt("upload", key, self._upload(local_path, key), False)

    def download(
        self,
        remote_path: str,
        local_path: str | os.PathLike[str],
        *,
        identity: IdentityFiles | None = None,
        raw: bool = False,
    ) -> bool:
        """Read an object into a file; the file appears complete and verified, or stays as it was.

        Creates parent directories. The file gets the permission bits (never setuid, setgid or sticky) and the
        modification time of the uploaded one.

        Parameters
        ----------
        identity
            The file of an age identity or a private SSH key, or several files, to decrypt with; by default the
            file that ``$FSBACKUP_AGE_IDENTITY`` names.
        raw
            Leave what was compressed or encrypted by `Stages` as it is stored.

        Raises
        ------
        ConfigError
            When the object is encrypted and there is no identity for it, or a package is missing.
        ObjectNotFoundError
            With ``errors="raise"``: the key provably does not exist.
        IntegrityError, NoHealthyReplicaError, BackendError
            With ``errors="raise"``: no replica could provide verified bytes.
        """
        key, target = check_key(remote_path), Path(os.path.expanduser(local_path))
        if target.is_dir():
            raise ValueError(f"{target} is a directory, not a file")
        return self._attempt("download", key, self._download(key, target, None if raw else Undo(identity)), False)

    def exists(self, remote_path: str) -> bool:
        """Return whether the key exists.

        With ``errors="return"``, False also means that the service failed, which is logged as an ERROR; use
        ``errors="raise"`` where the difference matters.
        """
        key = check_key(remote_path)
        return self._attempt("exists", key, head.exists(self.replica_set, key), False)

    def delete(self, remote_path: str) -> bool:
        """Delete exactly this key; return True when every store confirmed it; a missing key is success."""
        key = check_key(remote_path)
        return self._attempt("delete", key, self._delete(key), False)

    def get_size(self, remote_path: str) -> int | None:
        """Return the object's size in bytes, None when the key does not exist."""
        key = check_key(remote_path)
        return self._attempt("get_size", key, head.size(self.replica_set, key), None)

    async def _upload(self, local_path: str | os.PathLike[str] | Command, key: str) -> bool:
        source = await asyncio.to_thread(open_source, local_path)
        try:
            report = await upload.upload(self.replica_set, key, source, overwrite=True, read_stored=True)
        finally:
            source.close()
        if not report:
            raise report.failure()
        return True

    async def _download(self, key: str, target: Path, undo: Undo | None) -> bool:
        await restore.download(self.replica_set, key, target, undo=undo)
        return True

    async def _delete(self, key: str) -> bool:
        report = await delete.delete(self.replica_set, key)
        if report.status != "complete":
            raise report.failure()
        return True

    def _attempt(self, operation: str, key: str, work: Coroutine[Any, Any, T], on_failure: T) -> T:
        """Run `work`; when the service fails, raise or return `on_failure`, depending on `errors`."""
        try:
            result = run(work)
        except ConfigError:
            raise
        except (FsbackupError, OSError) as error:
            if not _already_logged(operation, error):
                events.log_outcome(operation, self.name, key, error=error)
            if self.errors == "raise":
                raise
            return on_failure
        if operation in ("exists", "get_size"):
            events.log_outcome(operation, self.name, key)
        return result

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__} holds credentials and connections and cannot be pickled;"
            " create it again where it is needed, from the environment or a configuration file"
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r})"


def _already_logged(operation: str, error: Exception) -> bool:
    """Tell whether the engine has logged each store's failure."""
    return operation in ("upload", "delete") and isinstance(
        error, (BackendError, IntegrityError, ReplicationError)
    )


def _refuse_directory(path: str | os.PathLike[str] | Command) -> None:
    if isinstance(path, str | os.PathLike) and os.path.isdir(os.path.expanduser(path)):
        raise ValueError(f"{os.fspath(path)} is a directory, not a file; use a job to back up a directory")


class SingleBackend(StorageBackend):
    """One storage place: the five methods over one `ObjectStore`.

    Parameters
    ----------
    store
        The store; its name is the backend's name.
    errors
        See `StorageBackend`.
    """

    def __init__(self, store: ObjectStore, *, errors: ErrorMode = "return") -> None:
        super().__init__(store.name, errors=errors)
        self.store = store
        marker.join([store])
        self._set = ReplicaSet((store,), min_copies=1)

    @property
    def replica_set(self) -> ReplicaSet:
        return self._set

    @property
    def fs(self) -> Any:
        """The fsspec filesystem of this backend."""
        return self.store.filesystem

    @property
    def location(self) -> str:
        """Where the objects are, for people: a path or URL without secrets."""
        return redact(self.store.location)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r}, location={self.location!r})"


DEFAULT_BASE_PATH = "/var/backups/jewelry-shop"
BASE_PATH_VARIABLE = "BACKUP_LOCAL_PATH"


class LocalStorage(SingleBackend):
    """Backups as plain files in a directory, under their own names.

    Every write creates a temp file beside the target, fsyncs it, renames it and fsyncs the directory, so that a
    crash leaves the old file or the new one. Copies keep the source's mtime and permission bits; without a source
    only the owner may read. Directories are created when a write needs them and removed when empty.

    Parameters
    ----------
    base_path
        The directory. Default: ``$BACKUP_LOCAL_PATH``, and without it ``/var/backups/jewelry-shop``.
    name
        The backend's name in results, logs and errors.
    errors
        ``"return"`` or ``"raise"``, see `StorageBackend`.
    create
        With True (default) a missing base directory is an empty backend, which the first write creates; with False
        it raises `BackendUnavailableError`. Use False for a disk that may not be mounted and is used alone, with a
        directory on that disk as the base, not the mount point: an unmounted disk then never looks like an empty
        one. In a replication set, the backend's marker tells the two apart.
    timeout
        Seconds without a byte moved after which the disk counts as unavailable; default 60.
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


class GenericStorage(SingleBackend):
    """Backups as plain files below any fsspec URL, under their own names.

    Every write creates a temp file beside the target, reads it back, compares it and renames it over the target.
    What the rename guarantees depends on the protocol:

    - ``sftp``: atomic where the server has ``posix-rename@openssh.com`` (OpenSSH and most others do); other
      servers refuse to replace an object, and the old one stays.
    - ``ftp``: depends on RNFR/RNTO. Most servers on Unix replace atomically; a server that refuses keeps the
      old object.
    - ``memory``: a copy that appears in one step, then the temp file is removed. Objects are lost with the
      process.
    - Object stores (``gcs``, ``abfs``, ...): a copy on the server, which appears in one step.

    Over ``sftp`` files get the source's permission bits, 0600 without a source. fsspec trusts any host key unless
    `options` contain ``host_key_policy: reject``.

    ``create_only`` checks before the rename and is not atomic against other writers: of two hosts that create one
    key in the same moment the last one's object stays, and both may be told success. One connection serves all
    operations of a backend, one after the other. A missing base directory is an empty backend, since an unmounted
    disk of the server cannot be distinguished from a new one.

    Parameters
    ----------
    url
        The base directory, ``protocol://host/path``. URLs of local files and S3 have their own
        classes; chains (``::``) are refused.
    options
        Arguments of the fsspec filesystem. Never shown in a log, repr, error or pickle.
    name
        The backend's name in results, logs and errors; default: the protocol.
    errors
        ``"return"`` or ``"raise"``, see `StorageBackend`.
    confirm
        ``"checksum"`` (default) reads each object back before it gets its name, which doubles the traffic;
        ``"size"`` only compares its size.
    timeout
        Seconds without a byte moved after which the backend counts as unavailable; default 60.

    Raises
    ------
    ConfigError
        When the URL cannot be used; names a missing package.
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
        store = GenericStore(url, options=options, name=name, confirm=confirm, timeout=timeout)
        super().__init__(store, errors=errors)
