"""What all backends have: the five methods, written once over a `ReplicaSet` through `fsbackup.engine`."""

from __future__ import annotations

import asyncio
import os
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar

from fsbackup import events
from fsbackup.engine import marker
from fsbackup.engine.replicas import ReplicaSet
from fsbackup.errors import BackendError, ConfigError, FsbackupError, IntegrityError, ReplicationError
from fsbackup.keys import check_key
from fsbackup.loop import run
from fsbackup.redact import redact
from fsbackup.stages import Undo
from fsbackup.stages.undo import IdentityFiles
from fsbackup.stores.base import ObjectStore

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
        from fsbackup.engine import head

        key = check_key(remote_path)
        return self._attempt("exists", key, head.exists(self.replica_set, key), False)

    def delete(self, remote_path: str) -> bool:
        """Delete exactly this key; return True when every store confirmed it; a missing key is success."""
        key = check_key(remote_path)
        return self._attempt("delete", key, self._delete(key), False)

    def get_size(self, remote_path: str) -> int | None:
        """Return the object's size in bytes, None when the key does not exist."""
        from fsbackup.engine import head

        key = check_key(remote_path)
        return self._attempt("get_size", key, head.size(self.replica_set, key), None)

    async def _upload(self, local_path: str | os.PathLike[str] | Command, key: str) -> bool:
        from fsbackup.engine import upload
        from fsbackup.engine.open_source import open_source

        source = await asyncio.to_thread(open_source, local_path)
        try:
            report = await upload.upload(self.replica_set, key, source, overwrite=True, read_stored=True)
        finally:
            source.close()
        if not report:
            raise report.failure()
        return True

    async def _download(self, key: str, target: Path, undo: Undo | None) -> bool:
        from fsbackup.engine import restore

        await restore.download(self.replica_set, key, target, undo=undo)
        return True

    async def _delete(self, key: str) -> bool:
        from fsbackup.engine import delete

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
