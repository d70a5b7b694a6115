"""The operating system's errors as backend errors: one table."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from fsbackup.aio import IdleTimeoutError
from fsbackup.errors import (
    BackendError,
    BackendUnavailableError,
    FsbackupError,
    TransientError,
    from_os_error,
)
from fsbackup.threads import CallCancelledError

#: The disk, or the server behind the mount, does not work.
_UNAVAILABLE = frozenset(
    {
        errno.EIO,
        errno.ENODEV,
        errno.ENXIO,
        errno.ENOTCONN,
        errno.ESTALE,
        errno.ETIMEDOUT,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ESHUTDOWN,
    }
)
#: A resource is exhausted for the moment.
_BUSY = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EBUSY})


@contextmanager
def translate_errors(backend: str, operation: str, name: str) -> Iterator[None]:
    """Raise what the block raises as backend errors that carry backend, operation and name."""
    try:
        yield
    except FsbackupError as error:
        error.backend, error.operation, error.key = backend, operation, name
        raise
    except CallCancelledError as error:
        raise BackendError(
            "cancelled before it started", backend=backend, operation=operation, key=name
        ) from error
    except IdleTimeoutError as error:
        raise BackendUnavailableError(
            "the disk did not answer in time",
            backend=backend,
            operation=operation,
            key=name,
            hint="look for a hanging mount or a failing disk, or raise `timeout`",
        ) from error
    except OSError as error:
        raise _translate(error, backend, operation, name) from error


def _translate(error: OSError, backend: str, operation: str, name: str) -> BackendError:
    reason = error.strerror or str(error)
    if error.errno in _UNAVAILABLE:
        return BackendUnavailableError(
            reason, backend=backend, operation=operation, key=name, hint="check the disk and its mount"
        )
    if error.errno in _BUSY:
        return TransientError(reason, backend=backend, operation=operation, key=name)
    if isinstance(error, FileNotFoundError) and operation != "read":
        # Only a read's missing file is a missing object; elsewhere another program removed a file in use.
        return BackendError(reason, backend=backend, operation=operation, key=name)
    return from_os_error(error, backend=backend, operation=operation, key=name)
