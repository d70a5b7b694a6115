"""`LocalStorage`: a directory."""

from __future__ import annotations

import os

from fsbackup.backends.base import ErrorMode, SingleBackend
from fsbackup.stores.base import DEFAULT_TIMEOUT
from fsbackup.stores.local.store import LocalStore

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
