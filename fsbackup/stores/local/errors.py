"""What the operating system's errors mean for a backup: one table, one place."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from fsbackup.errors import (
    BackendError,
    BackendUnavailableError,
    FsbackupError,
    TransientError,
    from_os_error,
)
from fsbackup.threads import CallCancelledError, IdleTimeoutError

#: The disk or the server behind the mount does not do its work.
_BROKEN = frozenset(
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
#: Short of something that may be there again in a moment.
_BUSY = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EBUSY})


@contextmanager
def translate_errors(backend: str, operation: str, name: str) -> Iterator[None]:
    """Turn what the block raises into backend errors that say where it happened."""
    try:
        yield
    except FsbackupError as error:
        error.backend, error.operation, error.key = backend, operation, name
        raise
    except CallCancelledError as error:
        raise BackendError("given up before it started", backend=backend, operation=operation, key=name) from error
    except IdleTimeoutError as error:
        raise BackendUnavailableError(
            "the disk did not answer in time",
            backend=backend,
            operation=operation,
            key=name,
            hint="look for a hanging mount or a failing disk; `timeout` is the longest silence allowed",
        ) from error
    except OSError as error:
        raise _translate(error, backend, operation, name) from error


def _translate(error: OSError, backend: str, operation: str, name: str) -> BackendError:
    reason = error.strerror or str(error)
    if error.errno in _BROKEN:
        return BackendUnavailableError(
            reason, backend=backend, operation=operation, key=name, hint="look at the disk and its mount"
        )
    if error.errno in _BUSY:
        return TransientError(reason, backend=backend, operation=operation, key=name)
    if isinstance(error, FileNotFoundError) and operation != "read":
        # Only a read's missing file is a missing object; elsewhere something was taken away under us.
        return BackendError(reason, backend=backend, operation=operation, key=name)
    return from_os_error(error, backend=backend, operation=operation, key=name)
