"""The errors of fsspec's filesystems, and of the libraries below them, as backend errors."""

from __future__ import annotations

import errno
from collections.abc import Callable

from fsbackup.aio import IdleTimeoutError
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
from fsbackup.threads import CallCancelledError

#: Class names of the libraries' errors, by name because the libraries may not be installed.
_ACCESS_DENIED = frozenset(
    {"AuthenticationException", "BadHostKeyException", "PasswordRequiredException", "AuthError"}
)
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
#: Definite answers of the server, which a retry or a new connection would not change.
_DEFINITE = (
    FsbackupError,
    FileNotFoundError,
    FileExistsError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
    NotImplementedError,
)
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def is_definite(error: BaseException) -> bool:
    """Tell whether an error is a definite answer of the server; any other may mean a dead connection."""
    denied = type(error).__name__ in _ACCESS_DENIED
    return denied or isinstance(error, _DEFINITE) or _errno(error) in _FULL


def _errno(error: BaseException) -> int | None:
    return error.errno if isinstance(error, OSError) else None


def translate(
    error: Exception, scrub: Callable[[str], str], *, backend: str, operation: str, name: str
) -> FsbackupError:
    """Return the backend error for what a filesystem raised, without secrets.

    The original error becomes its cause, unless its text contains a secret.
    """
    translated = error if isinstance(error, FsbackupError) else _mapped(error, scrub, operation)
    translated.backend, translated.operation, translated.key = backend, operation, name
    if translated is not error:
        has_no_secret = all(scrub(text) == text for text in (str(error), repr(error)))
        translated.__cause__ = error if has_no_secret else None
        translated.__suppress_context__ = True
    return translated


def _mapped(error: Exception, scrub: Callable[[str], str], operation: str) -> BackendError:
    text = scrub(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
    names = {each.__name__ for each in type(error).__mro__}
    if isinstance(error, FileNotFoundError):
        # Only a read's missing file is a missing object; elsewhere another program removed a file in use.
        return ObjectNotFoundError("no such key") if operation == "read" else BackendError(text)
    if isinstance(error, PermissionError) or names & _ACCESS_DENIED:
        return AccessDeniedError(text, hint="check the credentials and the permissions on the server")
    if isinstance(error, (FileExistsError, IsADirectoryError, NotADirectoryError)):
        return ConflictError(text, hint="remove or rename one of the two: a file and a directory share the name")
    if _errno(error) in _FULL:
        return OutOfSpaceError(text, hint="free space on it, or shorten its retention")
    if isinstance(error, IdleTimeoutError):
        return BackendUnavailableError(
            "the server did not answer in time", hint="check the network and the server, or raise `timeout`"
        )
    if isinstance(error, CallCancelledError):
        return BackendError("cancelled before it started")
    if isinstance(error, NotImplementedError):
        return BackendError(f"the filesystem does not support the operation: {text}", hint="use another protocol")
    if isinstance(error, (ConnectionError, EOFError, TimeoutError)) or names & _UNAVAILABLE:
        return BackendUnavailableError(text, hint="check the network and that the server runs")
    if type(error) is OSError and error.errno is None:
        return TransientError(text)  # SFTP's SSH_FX_FAILURE has no cause
    return BackendError(text)
