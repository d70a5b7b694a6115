"""`StorageBackend`: the five methods, written once over the object I/O of `fsbackup.objects`."""

from __future__ import annotations

import asyncio
import os
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

from fsbackup import events
from fsbackup.errors import BackendError, ConfigError, FsbackupError, IntegrityError, ReplicationError
from fsbackup.keys import check_key
from fsbackup.loop import run
from fsbackup.objects import ObjectStore
from fsbackup.transfer import presence, remove, restore, upload
from fsbackup.transfer.replicas import ReplicaSet
from fsbackup.transfer.source import open_source

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

        Parent directories are made. The file gets the permission bits (never setuid, setgid or sticky) and the
        modification time of the one backed up.

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
        return self._attempt("exists", key, presence.exists(self.replica_set, key), False)

    def delete(self, remote_path: str) -> bool:
        """Delete exactly this key; True when every store confirmed, also when it was not there."""
        key = check_key(remote_path)
        return self._attempt("delete", key, self._delete(key), False)

    def get_size(self, remote_path: str) -> int | None:
        """Return the object's size in bytes, None when the key is not there."""
        key = check_key(remote_path)
        return self._attempt("get_size", key, presence.size(self.replica_set, key), None)

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
        report = await remove.delete(self.replica_set, key)
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
                events.outcome(operation, self.name, key, error=error)
            if self.errors == "raise":
                raise
            return otherwise
        if operation in ("exists", "get_size"):
            events.outcome(operation, self.name, key)
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

    def __init__(
        self, objects: ObjectStore, *, errors: ErrorMode = "return", part_size: int | None = None
    ) -> None:
        super().__init__(objects.name, errors=errors)
        self.objects = objects
        self._set = ReplicaSet((objects,), min_copies=1, part_size=part_size)

    @property
    def replica_set(self) -> ReplicaSet:
        return self._set

    @property
    def fs(self) -> Any:
        """The fsspec filesystem that this backend wraps."""
        return self.objects.filesystem

    @property
    def location(self) -> str:
        """Where the objects are, for people: a path or URL without secrets."""
        return self.objects.location

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r}, location={self.location!r})"
