"""Everything fsbackup raises.

The parents are chosen by what a caller can do about it, and each class is also the built-in exception
a Python programmer would catch::

    FsbackupError
    ├── ConfigError (ValueError)                         fix the configuration or the call
    ├── SourceError (OSError)                            the file or stream to back up
    │   ├── SourceNotFoundError (FileNotFoundError)
    │   └── SourceChangedError                           it changed while it was read; run again
    ├── BackendError (OSError)                           one backend, one operation
    │   ├── ObjectNotFoundError (FileNotFoundError)      the backend's own clear "no such key"
    │   ├── AccessDeniedError (PermissionError)
    │   │   └── LockedError                              the backend keeps the object until its lock ends
    │   ├── OutOfSpaceError
    │   ├── ConflictError (FileExistsError)              other content under this key
    │   └── TransientError                               trying again may help
    │       └── BackendUnavailableError                  it did not answer, or stopped answering
    ├── IntegrityError (OSError)                         bytes that are not the ones that were stored
    ├── DiscardedError (OSError)                         a file opened to write was discarded; write it again
    └── ReplicationError (OSError)                       the set as a whole
        ├── NoHealthyReplicaError                        no replica could give a proven answer
        └── TooFewCopiesError                            fewer confirmed copies than `min_copies`

Warnings, for what nobody is there to catch::

    UserWarning
    └── NotStoredWarning                                 a file opened to write was never closed
"""

from __future__ import annotations

import errno


class FsbackupError(Exception):
    """Base of all errors of this package.

    Parameters
    ----------
    message
        What failed and why, one sentence, without secrets.
    backend, operation, key
        Where it happened; each is `None` when it does not apply.
    hint
        What a person can do about it.
    """

    def __init__(
        self,
        message: str,
        *,
        backend: str | None = None,
        operation: str | None = None,
        key: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.backend = backend
        self.operation = operation
        self.key = key
        self.hint = hint

    @property
    def cause(self) -> BaseException | None:
        """The error underneath, as the library or the operating system raised it."""
        return self.__cause__

    def __str__(self) -> str:
        where = " ".join(p for p in (self.operation, repr(self.key) if self.key else None) if p)
        head = ": ".join(p for p in (self.backend, where, self.message) if p)
        return f"{head} - {self.hint}" if self.hint else head


class ConfigError(FsbackupError, ValueError):
    """The configuration or a call's arguments are wrong; nothing was done."""


class SourceError(FsbackupError, OSError):
    """The file or stream to back up cannot be read."""


class SourceNotFoundError(SourceError, FileNotFoundError):
    """The file to back up is not there."""


class SourceChangedError(SourceError):
    """The file to back up changed while it was read; nothing of it was committed."""


class BackendError(FsbackupError, OSError):
    """One backend failed one operation."""


class ObjectNotFoundError(BackendError, FileNotFoundError):
    """The backend itself said that there is no such key; an outage is never this."""


class AccessDeniedError(BackendError, PermissionError):
    """The credentials or file permissions do not allow the operation."""


class LockedError(AccessDeniedError):
    """A lock of the backend's keeps the object until its time is over; nothing is wrong with the credentials."""


class OutOfSpaceError(BackendError):
    """The backend has no room left (disk full, quota or storage cap reached)."""


class ConflictError(BackendError, FileExistsError):
    """The key already holds other content, and replacing it was not asked for."""


class TransientError(BackendError):
    """The backend failed in a way that a later try may not."""


class BackendUnavailableError(TransientError):
    """The backend did not answer, or stopped moving bytes, for longer than its timeout."""


class IntegrityError(FsbackupError, OSError):
    """Bytes are not the ones that were stored; they are never handed to the caller."""


class DiscardedError(FsbackupError, OSError):
    """A file opened to write was discarded before it was closed; nothing of it is stored."""


class NotStoredWarning(UserWarning):
    """A file opened to write was never closed, and nothing of it is stored; the message names its path."""


class ReplicationError(FsbackupError, OSError):
    """A replication set as a whole could not do what was asked."""


class NoHealthyReplicaError(ReplicationError):
    """No replica could give a proven answer; the message says what each one said."""


class TooFewCopiesError(ReplicationError):
    """Fewer replicas than `min_copies` hold confirmed bytes; the message says which failed and why."""


_FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def from_os_error(error: OSError, *, backend: str, operation: str, key: str) -> BackendError:
    """Turn an operating-system error into the backend error of the same meaning."""
    reason = error.strerror or str(error)
    if isinstance(error, FileNotFoundError):
        return ObjectNotFoundError("no such key", backend=backend, operation=operation, key=key)
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return AccessDeniedError(
            reason,
            backend=backend,
            operation=operation,
            key=key,
            hint="check the owner and mode of the backend's directory",
        )
    if error.errno in _FULL_DISK:
        return OutOfSpaceError(
            reason,
            backend=backend,
            operation=operation,
            key=key,
            hint="free space on it, or shorten its retention",
        )
    return BackendError(reason, backend=backend, operation=operation, key=key)


def as_backend_error(error: Exception, backend: str, key: str, operation: str = "upload") -> FsbackupError:
    """Return `error` as one of ours: what a store raises beyond its contract still only fails that store."""
    if isinstance(error, FsbackupError):
        return error
    wrapped = BackendError(f"{type(error).__name__}: {error}", backend=backend, operation=operation, key=key)
    wrapped.__cause__ = error
    return wrapped
