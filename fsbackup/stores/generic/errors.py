"""What the errors of fsspec's filesystems, and of the libraries below them, mean for a backup."""

from __future__ import annotations

import errno
from collections.abc import Callable

from fsbackup.errors import (
    AccessDeniedError,
    BackendError,
    BackendUnavailableError,
    ConflictError,
    FsbackupError,
    ObjectNotFoundError,
    OutOfSpaceError,
    TransientError,
)
from fsbackup.threads import CallCancelledError, IdleTimeoutError

#: Class names of the libraries' errors; importing the libraries for their classes would need them installed.
_REFUSED = frozenset({"AuthenticationException", "BadHostKeyException", "PasswordRequiredException", "AuthError"})
_UNAVAILABLE = frozenset(
    {
        "ConnectError",
        "ConnectTimeout",
        "ConnectionClosedError",
        "NoValidConnectionsError",
        "ReadTimeout",
        "RemoteProtocolError",
        "SSHException",
        "ServerDisconnectedError",
        "error_temp",
    }
)
#: A clear answer of the server: asking again, or on a new connection, would not change it.
_ANSWERS = (
    FsbackupError,
    FileNotFoundError,
    FileExistsError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
    NotImplementedError,
)
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def is_answer(error: BaseException) -> bool:
    """Tell whether an error is the server's answer; anything else may be a connection that died."""
    refused = type(error).__name__ in _REFUSED
    return refused or isinstance(error, _ANSWERS) or _errno(error) in _FULL


def _errno(error: BaseException) -> int | None:
    return error.errno if isinstance(error, OSError) else None


def translate(
    error: Exception, scrub: Callable[[str], str], *, backend: str, operation: str, name: str
) -> FsbackupError:
    """Return the backend error for what a filesystem raised, located and without secrets.

    The error underneath becomes its cause, unless its own text has a secret in it.
    """
    ours = error if isinstance(error, FsbackupError) else _meaning(error, scrub, operation)
    ours.backend, ours.operation, ours.key = backend, operation, name
    if ours is not error:
        clean = all(scrub(text) == text for text in (str(error), repr(error)))
        ours.__cause__ = error if clean else None
        ours.__suppress_context__ = True
    return ours


def _meaning(error: Exception, scrub: Callable[[str], str], operation: str) -> BackendError:
    text = scrub(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
    names = {each.__name__ for each in type(error).__mro__}
    if isinstance(error, FileNotFoundError):
        # Only a read's missing file is a missing object; elsewhere something was taken away under us.
        return ObjectNotFoundError("no such key") if operation == "read" else BackendError(text)
    if isinstance(error, PermissionError) or names & _REFUSED:
        return AccessDeniedError(text, hint="check the credentials and the permissions on the server")
    if isinstance(error, (FileExistsError, IsADirectoryError, NotADirectoryError)):
        return ConflictError(text, hint="a file and a directory of one name cannot both exist there")
    if _errno(error) in _FULL:
        return OutOfSpaceError(text, hint="free space on it, or shorten its retention")
    if isinstance(error, IdleTimeoutError):
        return BackendUnavailableError(
            "it did not answer in time", hint="`timeout` is the longest silence allowed, in seconds"
        )
    if isinstance(error, CallCancelledError):
        return BackendError("given up before it started")
    if isinstance(error, NotImplementedError):
        return BackendError(f"this filesystem cannot do that: {text}", hint="use another protocol")
    if isinstance(error, (ConnectionError, EOFError, TimeoutError)) or names & _UNAVAILABLE:
        return BackendUnavailableError(text, hint="check the network and that the server runs")
    if type(error) is OSError and error.errno is None:
        return TransientError(text)  # the server said no more than "failure"
    return BackendError(text)
