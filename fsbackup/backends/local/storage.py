"""`LocalStorage`: backups in a directory."""

from __future__ import annotations

import os

from fsbackup.backends.base import ErrorMode, SingleBackend
from fsbackup.backends.local.store import LocalObjects
from fsbackup.objects import DEFAULT_TIMEOUT

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
        super().__init__(LocalObjects(path, name=name, create=create, timeout=timeout), errors=errors)

    @property
    def base_path(self) -> str:
        """The directory, as an absolute path."""
        return self.location
