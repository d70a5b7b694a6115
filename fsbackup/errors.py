"""All exceptions that fsbackup raises, and their texts.

The classes are grouped by what a caller can do about an error, and each is also the built-in exception that a
Python programmer would catch::

    FsbackupError
    ├── ConfigError (ValueError)                         correct the configuration or the call
    ├── AlreadyRunningError                              another run of the same job holds its lock
    ├── SourceError (OSError)                            the file or stream to back up
    │   ├── SourceNotFoundError (FileNotFoundError)
    │   └── SourceChangedError                           it changed while it was read; run again
    ├── BackendError (OSError)                           one backend, one operation
    │   ├── ObjectNotFoundError (FileNotFoundError)      the backend answered "no such key"
    │   │   └── ObjectLostError                          it was stored, and no replica has its data any more
    │   ├── AccessDeniedError (PermissionError)
    │   │   └── LockedError                              the backend keeps the object until its lock ends
    │   ├── OutOfSpaceError
    │   ├── ConflictError (FileExistsError)              the key holds other content
    │   │   └── UnknownIdentityError                     whether it is other content cannot be told
    │   ├── NewerFormatError                             a newer fsbackup wrote it; upgrade this one
    │   └── TransientError                               a later try may succeed
    │       └── BackendUnavailableError                  it did not answer, or stopped answering
    │           └── WrongBackendError                    it is empty and others of its set are not: is it mounted?
    ├── IntegrityError (OSError)                         bytes that differ from those that were stored
    ├── DiscardedError (OSError)                         a file opened to write was discarded; write it again
    └── ReplicationError (OSError)                       the replication set as a whole
        ├── NoHealthyReplicaError                        no replica could give a proven answer
        ├── WalGapError                                  a WAL segment is missing, and later ones are there
        └── TooFewCopiesError                            fewer confirmed copies than `min_copies`

Warnings, for what nobody is there to catch::

    UserWarning
    └── NotStoredWarning                                 a file opened to write was never closed
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Self

from fsbackup.redact import redact


class FsbackupError(Exception):
    """Base of all errors of this package.

    Parameters
    ----------
    message
        What failed and why, one sentence; secrets in it are masked.
    backend, operation, key
        Where it failed; each is None when it does not apply.
    hint
        What to do about it, an imperative.

    Attributes
    ----------
    set_name
        The replication set that `key` is in, where it is part of the path: an error of the filesystem.
    """

    set_name: str | None = None

    def __init__(
        self,
        message: str,
        *,
        backend: str | None = None,
        operation: str | None = None,
        key: str | None = None,
        hint: str | None = None,
    ) -> None:
        message = redact(message)
        super().__init__(message)
        self.message = message
        self.backend = backend
        self.operation = operation
        self.key = key
        self.hint = redact(hint) if hint else hint

    @property
    def cause(self) -> BaseException | None:
        """The exception of the library or operating system that led to this one, if any."""
        return self.__cause__

    @property
    def reason(self) -> str:
        """Message and hint, for a text that names backend, operation and key itself."""
        return f"{self.message} - {self.hint}" if self.hint else self.message

    def of(self, operation: str | None, key: str | None, *, set_name: str | None = None) -> Self:
        """Return the same error of another operation or key; None for an error that concerns every key."""
        # Not by `copy`, which libraries that pickle exceptions (tblib, of Dask's) make return the same object.
        error = type(self).__new__(type(self), *self.args)
        error.args = self.args
        error.__dict__.update(self.__dict__)
        error.operation, error.key, error.__cause__ = operation, key, self.__cause__
        error.set_name = set_name or self.set_name
        return error

    def __str__(self) -> str:
        path = f"{self.set_name}/{self.key}" if self.set_name and self.key else self.key
        where = " ".join(p for p in (self.operation, repr(path) if path else None) if p)
        return ": ".join(p for p in (self.backend, where, self.reason) if p)


class ConfigError(FsbackupError, ValueError):
    """The configuration or a call's arguments are wrong; nothing was done."""


class AlreadyRunningError(FsbackupError):
    """Another run of the same job is under way, on this machine; nothing was done."""


class SourceError(FsbackupError, OSError):
    """The file or stream to back up cannot be read."""


class SourceNotFoundError(SourceError, FileNotFoundError):
    """The file to back up does not exist."""


class SourceChangedError(SourceError):
    """The file to back up changed while it was read; nothing of it was committed."""


class BackendError(FsbackupError, OSError):
    """One backend failed one operation."""


class ObjectNotFoundError(BackendError, FileNotFoundError):
    """The backend answered that there is no such key; an outage never raises this."""


class ObjectLostError(ObjectNotFoundError):
    """The object was stored and not deleted, and all replicas answered that they do not have its data."""


class AccessDeniedError(BackendError, PermissionError):
    """The credentials or file permissions do not allow the operation."""


class LockedError(AccessDeniedError):
    """An object lock of the backend keeps the object until its retention ends; the credentials are right."""


class OutOfSpaceError(BackendError):
    """The backend has no space left (disk full, quota or storage cap reached)."""


class ConflictError(BackendError, FileExistsError):
    """The key already holds other content, and `overwrite` was not set."""


class UnknownIdentityError(ConflictError):
    """The key holds an encrypted object, and whether it is the same plaintext cannot be told without its key."""


class NewerFormatError(BackendError):
    """A newer version of fsbackup wrote the record; this one does not read it, and changes nothing of its key."""


class TransientError(BackendError):
    """The backend failed in a way that may pass; a later try may succeed.

    Attributes
    ----------
    away_since
        Where the backend was not asked, because it is known to be away: since when. Else None.
    """

    away_since: datetime | None = None


class BackendUnavailableError(TransientError):
    """The backend did not answer, or transferred no byte, for longer than its timeout."""


class WrongBackendError(BackendUnavailableError):
    """The backend is empty while others of its set are not, so that it may be another place than it was.

    An unmounted disk, an emptied or a mistyped bucket. Its answers do not count, and nothing is stored there.
    """


class IntegrityError(FsbackupError, OSError):
    """Bytes differ from those that were stored; they are never returned to the caller."""


class DiscardedError(FsbackupError, OSError):
    """A file opened to write was discarded before it was closed; nothing of it is stored."""


class NotStoredWarning(UserWarning):
    """A file opened to write was never closed, and nothing of it is stored; the message names its path."""


class DegradedWriteWarning(UserWarning):
    """An object is stored on enough replicas, but not on all; the message names the others, and why."""


class StaleReadWarning(UserWarning):
    """Too few replicas answered to prove that what is read is the newest version; the message names those."""


class ReplicationError(FsbackupError, OSError):
    """The operation failed on the replication set as a whole."""


class NoHealthyReplicaError(ReplicationError):
    """No replica gave a proven answer; the message has the error of each one."""


class WalGapError(ReplicationError):
    """A WAL segment is not in the archive, and later ones are: recovery would end before the end of the WAL."""


class ClockError(ReplicationError):
    """This machine's clock is more than five minutes off what the services say; nothing was written."""


class TooFewCopiesError(ReplicationError):
    """Fewer than `min_copies` replicas hold confirmed bytes; the message says which failed and why."""


_FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def missing_package(what: str, extra: str, error: ImportError) -> ConfigError:
    """Return the error for a feature whose packages, those of an extra of ours, are not installed."""
    return ConfigError(f"{what} needs another package: {error}", hint=f"pip install 'fsbackup[{extra}]'")


def from_os_error(error: OSError, *, backend: str, operation: str, key: str) -> BackendError:
    """Return the backend error of the same meaning as an operating-system error."""
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
            hint="free space on it or shorten its retention",
        )
    return BackendError(reason, backend=backend, operation=operation, key=key)


def as_backend_error(error: Exception, backend: str, key: str, operation: str = "upload") -> FsbackupError:
    """Return `error` as a `FsbackupError`, so that an unexpected exception of one store fails only that store."""
    if isinstance(error, FsbackupError):
        return error
    wrapped = BackendError(f"{type(error).__name__}: {error}", backend=backend, operation=operation, key=key)
    wrapped.__cause__ = error
    return wrapped


def summary(errors: Mapping[str, FsbackupError]) -> str:
    """Return the messages of errors by backend; backends with the same message share it: ``"r2, b2: timeout"``."""
    names: dict[str, dict[str, None]] = {}
    for name, error in errors.items():
        names.setdefault(error.message, {})[error.backend or name] = None
    return "; ".join(f"{', '.join(backends)}: {message}" for message, backends in names.items())


def reasons(errors: Mapping[str, FsbackupError]) -> list[str]:
    """Return a line for each reason, with the names of the backends that failed for it."""
    names: dict[str, list[str]] = {}
    for name, error in errors.items():
        names.setdefault(error.reason, []).append(name)
    return [f"{', '.join(backends)}: {reason}" for reason, backends in names.items()]


def unproven_absence(
    errors: Mapping[str, FsbackupError],
    answered: Collection[str],
    *,
    operation: str,
    key: str,
    answer: str = "not found",
) -> NoHealthyReplicaError:
    """Return the error for what no backend in `answered` has, while those in `errors` did not answer."""
    known = f"{answer} on {', '.join(answered)}, but too few answered" if answered else "no replica answered"
    return NoHealthyReplicaError(
        f"{known}: {summary(errors)}",
        operation=operation,
        key=key,
        hint=combined_hint(errors, "try again when more replicas answer"),
    )


def unproven_newest(errors: Mapping[str, FsbackupError], operation: str, key: str) -> NoHealthyReplicaError:
    """Return the error for a change of the newest version, which those in `errors` may have."""
    return NoHealthyReplicaError(
        f"a newer version may exist, because too few replicas answered: {summary(errors)}",
        operation=operation,
        key=key,
        hint=combined_hint(errors, "try again when more replicas answer"),
    )


def combined_hint(errors: Mapping[str, FsbackupError], *more: str) -> str | None:
    """Return the hints of all errors and `more` as one, each of them once; None when there is none."""
    hints = [error.hint for error in errors.values() if error.hint]
    return "; ".join(dict.fromkeys([*hints, *more])) or None
