"""The base directory of a local backend, and the only way into it: one directory at a time, no link followed."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from fsbackup.errors import (
    AccessDeniedError,
    BackendError,
    BackendUnavailableError,
    ConflictError,
)

#: Backups are nobody else's business; an administrator may widen it afterwards.
DIRECTORY_MODE = 0o700

#: How often to make a directory again that a racing remove takes away.
ATTEMPTS = 100

_OPEN = os.O_RDONLY | os.O_DIRECTORY
_KNOWN_LIMIT = 4096
_NO_DIRECTORY_FSYNC = frozenset({errno.EINVAL, errno.ENOTSUP})


def split_name(name: str) -> list[bytes]:
    """Return the segments of an object's name as the disk knows them.

    Raises
    ------
    ValueError
        For a name that would leave the base directory or that no file can have.
    """
    segments = name.encode("utf-8", "surrogateescape").split(b"/")
    if any(segment in (b"", b".", b"..") or b"\0" in segment for segment in segments):
        raise ValueError(f"{name!r} is not the name of an object")
    return segments


def display_name(segments: list[bytes]) -> str:
    """Return segments as a name for people."""
    return b"/".join(segments).decode("utf-8", "replace")


def fsync_directory(fd: int) -> None:
    """Make a directory's entries durable; some network filesystems cannot, and then do it by themselves."""
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in _NO_DIRECTORY_FSYNC:
            raise


def link_error(segments: list[bytes]) -> AccessDeniedError:
    """Return the error for a symbolic link below the base directory."""
    return AccessDeniedError(
        f"{display_name(segments)!r} is a symbolic link, and links below the base directory are not followed",
        hint="put the file or directory there instead of the link, or use a bind mount",
    )


class SafeDirectory:
    """A base directory, opened anew for every operation so that a mount under it is always seen.

    Parameters
    ----------
    path
        Absolute path. It may itself be, or lead through, a symbolic link.
    create
        Whether a base directory that is not there is an empty backend, made by the first write.
    """

    def __init__(self, path: str, *, create: bool) -> None:
        self.path = path
        self.create = create
        #: Directories whose own entry this process has made durable.
        self._durable: set[bytes] = set()

    @contextmanager
    def opened(self, segments: list[bytes]) -> Iterator[int]:
        """Yield a descriptor of an existing directory below the base.

        Raises
        ------
        FileNotFoundError, NotADirectoryError
            When there is no such directory.
        """
        fd = self._open_base()
        try:
            for depth in range(1, len(segments) + 1):
                child = _enter(fd, segments[:depth])
                os.close(fd)
                fd = child
            yield fd
        finally:
            os.close(fd)

    def make(self, segments: list[bytes]) -> tuple[int, int]:
        """Return a descriptor of a directory, made durably if need be, and how many levels of it were there."""
        for _ in range(ATTEMPTS):
            # A racing remove may prune a directory between its making and its opening.
            with suppress(FileNotFoundError):
                return self._make(segments)
        raise BackendError(f"the directory {display_name(segments)!r} keeps vanishing")

    def _make(self, segments: list[bytes]) -> tuple[int, int]:
        fd, existing = self._make_base(), 0
        try:
            for depth in range(1, len(segments) + 1):
                child, made = self._enter_or_make(fd, segments[:depth])
                existing = existing if made else depth
                os.close(fd)
                fd = child
        except NotADirectoryError as error:
            os.close(fd)
            raise ConflictError(
                f"{display_name(segments[:depth])!r} is a file here, and a disk cannot keep objects below a file",
                hint="remove or rename one of the two objects",
            ) from error
        except BaseException:
            os.close(fd)
            self.prune(segments[:depth], keep=existing)
            raise
        return fd, existing

    def _enter_or_make(self, fd: int, segments: list[bytes]) -> tuple[int, bool]:
        made, name = False, b"/".join(segments)
        try:
            child = _enter(fd, segments)
        except FileNotFoundError:
            made = _mkdir(fd, segments[-1])
            child = _enter(fd, segments)
        try:
            if made or name not in self._durable:
                # Another writer may have made it and not got to this; objects are as durable as their directory.
                fsync_directory(fd)
                self._remember(name)
        except BaseException:
            os.close(child)
            raise
        return child, made

    def _remember(self, name: bytes) -> None:
        if len(self._durable) >= _KNOWN_LIMIT:
            self._durable.clear()
        self._durable.add(name)

    def prune(self, segments: list[bytes], keep: int = 0) -> None:
        """Remove the directory and its parents while they are empty, down to `keep` levels below the base."""
        for depth in range(len(segments), keep, -1):
            try:
                with self.opened(segments[: depth - 1]) as parent:
                    os.rmdir(segments[depth - 1], dir_fd=parent)
            except FileNotFoundError:
                continue
            except OSError:
                return  # not empty, or not ours to remove
            self._durable.discard(b"/".join(segments[:depth]))

    def _open_base(self) -> int:
        try:
            return os.open(self.path, _OPEN)
        except FileNotFoundError as error:
            if self.create and not os.path.islink(self.path):
                raise
            raise BackendUnavailableError(
                f"the base directory {self.path} does not exist", hint="is the disk mounted?"
            ) from error
        except NotADirectoryError as error:
            raise BackendError(f"the base directory {self.path} is not a directory") from error

    def _make_base(self) -> int:
        try:
            return self._open_base()
        except FileNotFoundError:
            _make_path(self.path)
            return self._open_base()


def _make_path(path: str) -> None:
    parent = os.path.dirname(path)
    if not os.path.isdir(parent):
        _make_path(parent)
    with suppress(FileExistsError):
        os.mkdir(path, DIRECTORY_MODE)
    fd = os.open(parent, _OPEN)
    try:
        fsync_directory(fd)
    finally:
        os.close(fd)


def _mkdir(fd: int, segment: bytes) -> bool:
    try:
        os.mkdir(segment, DIRECTORY_MODE, dir_fd=fd)
    except FileExistsError:
        return False
    return True


def _enter(fd: int, segments: list[bytes]) -> int:
    try:
        return os.open(segments[-1], _OPEN | os.O_NOFOLLOW, dir_fd=fd)
    except OSError as error:
        # Linux answers ENOTDIR, not ELOOP, when both flags meet a link.
        if error.errno in (errno.ENOTDIR, errno.ELOOP) and _is_link(fd, segments[-1]):
            raise link_error(segments) from error
        raise


def _is_link(fd: int, segment: bytes) -> bool:
    return stat.S_ISLNK(os.lstat(segment, dir_fd=fd).st_mode)


def lstat_entry(fd: int, segments: list[bytes]) -> os.stat_result | None:
    """Return what the directory `fd` says of its entry, None when there is none; a link is an error."""
    try:
        found = os.stat(segments[-1], dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(found.st_mode):
        raise link_error(segments)
    return found


def lstat_object(fd: int, segments: list[bytes]) -> os.stat_result | None:
    """Return `lstat_entry` of an object; a directory, FIFO or device is none."""
    found = lstat_entry(fd, segments)
    return found if found is not None and stat.S_ISREG(found.st_mode) else None
