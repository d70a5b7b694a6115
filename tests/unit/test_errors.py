"""The exception tree: what each error is, says, and keeps."""

from __future__ import annotations

import copyreg
import errno
import inspect
import os
import pickle

import pytest

from fsbackup import errors
from fsbackup.errors import BackendError, FsbackupError, combined_hint, from_os_error, reasons, summary

ALL = [each for _, each in inspect.getmembers(errors, inspect.isclass) if issubclass(each, FsbackupError)]

PARENTS = {
    "FsbackupError": (Exception,),
    "ConfigError": (FsbackupError, ValueError),
    "AlreadyRunningError": (FsbackupError,),
    "SourceError": (FsbackupError, OSError),
    "SourceNotFoundError": (errors.SourceError, FileNotFoundError),
    "SourceChangedError": (errors.SourceError,),
    "BackendError": (FsbackupError, OSError),
    "ObjectNotFoundError": (BackendError, FileNotFoundError),
    "ObjectLostError": (errors.ObjectNotFoundError,),
    "AccessDeniedError": (BackendError, PermissionError),
    "LockedError": (errors.AccessDeniedError,),
    "OutOfSpaceError": (BackendError,),
    "ConflictError": (BackendError, FileExistsError),
    "UnknownIdentityError": (errors.ConflictError,),
    "WalGapError": (errors.ReplicationError,),
    "NewerFormatError": (BackendError,),
    "TransientError": (BackendError,),
    "BackendUnavailableError": (errors.TransientError,),
    "WrongBackendError": (errors.BackendUnavailableError,),
    "IntegrityError": (FsbackupError, OSError),
    "DiscardedError": (FsbackupError, OSError),
    "ReplicationError": (FsbackupError, OSError),
    "NoHealthyReplicaError": (errors.ReplicationError,),
    "ClockError": (errors.ReplicationError,),
    "TooFewCopiesError": (errors.ReplicationError,),
}


def test_errors_are_built_in_exceptions_too() -> None:
    """Each error has the parents that the tree shows, among them the built-in one."""
    assert {kind.__name__: kind.__bases__ for kind in ALL} == PARENTS


def test_only_a_missing_object_or_source_is_file_not_found() -> None:
    """An outage is never reported as absence."""
    absent = {kind.__name__ for kind in ALL if issubclass(kind, FileNotFoundError)}
    assert absent == {"ObjectNotFoundError", "ObjectLostError", "SourceNotFoundError"}


def test_text_has_place_message_and_hint() -> None:
    """The text has backend, operation, key, message and hint."""
    for kind in ALL:
        error = kind("it broke", backend="r2", operation="read", key="a/b", hint="repair it")
        assert str(error) == "r2: read 'a/b': it broke - repair it", kind


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "it broke"),
        ({"backend": "r2"}, "r2: it broke"),
        ({"operation": "list"}, "list: it broke"),
        ({"key": "a"}, "'a': it broke"),
        ({"hint": "repair it"}, "it broke - repair it"),
    ],
)
def test_text_leaves_out_what_is_unknown(fields: dict[str, str], text: str) -> None:
    """Attributes that are None do not appear in the text."""
    assert str(FsbackupError("it broke", **fields)) == text


def test_errors_survive_pickling() -> None:
    """An error from a worker process keeps all its attributes."""
    fields = ("message", "backend", "operation", "key", "hint", "args")
    for kind in ALL:
        error = kind("it broke", backend="r2", operation="read", key="a/b", hint="mend it")
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is kind
        assert [getattr(again, name) for name in fields] == [getattr(error, name) for name in fields], kind
        assert str(again) == str(error), kind


def test_cause() -> None:
    """`cause` is the exception of the library or operating system."""
    underneath = OSError(errno.EIO, "bad sector")
    with pytest.raises(BackendError) as caught:
        raise BackendError("it broke") from underneath
    assert caught.value.cause is underneath
    assert BackendError("it broke").cause is None


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOENT, errors.ObjectNotFoundError),
        (errno.EACCES, errors.AccessDeniedError),
        (errno.EPERM, errors.AccessDeniedError),
        (errno.EROFS, errors.AccessDeniedError),
        (errno.ENOSPC, errors.OutOfSpaceError),
        (errno.EDQUOT, errors.OutOfSpaceError),
        (errno.EFBIG, errors.OutOfSpaceError),
        (errno.EIO, BackendError),
        (errno.ENOTDIR, BackendError),
    ],
)
def test_operating_system_errors(number: int, kind: type[BackendError]) -> None:
    """An operating-system error becomes the backend error of the same meaning."""
    error = from_os_error(OSError(number, os.strerror(number)), backend="local", operation="write", key="a/b")
    assert type(error) is kind
    assert (error.backend, error.operation, error.key) == ("local", "write", "a/b")


def test_summary_and_combined_hint_have_each_text_once() -> None:
    """Backends with one message share it; equal hints appear once."""
    failures = {
        "r2": FsbackupError("timeout", hint="check the line"),
        "b2": FsbackupError("AccessDenied", hint="check the key"),
        "s3": FsbackupError("timeout", hint="check the line"),
    }
    assert summary(failures) == "r2, s3: timeout; b2: AccessDenied"
    assert combined_hint(failures, "then try again") == "check the line; check the key; then try again"
    assert reasons(failures) == ["r2, s3: timeout - check the line", "b2: AccessDenied - check the key"]
    assert (
        summary({"r2": BackendError("newer", backend="b2"), "b2": BackendError("newer", backend="b2")})
        == "b2: newer"
    )
    assert summary({}) == ""
    assert combined_hint({}) is None


def test_an_error_of_another_operation_is_the_same_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Class, text and cause stay; the first one is unchanged, whatever another library does with exceptions."""
    monkeypatch.setitem(copyreg.dispatch_table, errors.TooFewCopiesError, lambda error: (lambda: error, ()))
    error = errors.TooFewCopiesError("1 of 2", operation="upload", key="a", hint="wait")
    error.__cause__ = ValueError("why")
    other = error.of("write", None)
    assert (type(other), str(other), other.cause) == (type(error), "write: 1 of 2 - wait", error.cause)
    assert str(error) == "upload 'a': 1 of 2 - wait"
