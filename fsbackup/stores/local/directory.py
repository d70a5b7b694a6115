"""`SafeDirectory`: the base directory of a local backend, entered one level at a time without following links.

Each level is opened by `openat` with ``O_NOFOLLOW`` relative to the level above, so that nothing outside the base
can be reached, also when another program replaces a directory by a link meanwhile.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from fsbackup.errors import AccessDeniedError, BackendError, BackendUnavailableError, ConflictError
from fsbackup.stores.base import ObjectStat

#: Only the owner enters new directories; an administrator may widen the mode afterwards.
DIRECTORY_MODE = 0o700

#: How often to create a directory again that a concurrent remove prunes.
MAX_ATTEMPTS = 100

_OPEN = os.O_RDONLY | os.O_DIRECTORY
#: Entries in the cache of directories known to be durable.
_MAX_DURABLE = 4096
_NO_DIRECTORY_FSYNC = frozenset({errno.EINVAL, errno.ENOTSUP})


def display_name(segments: list[bytes]) -> str:
    """Return segments as a name for people."""
    return b"/".join(segments).decode("utf-8", "replace")


def fsync_directory(fd: int) -> None:
    """Make a directory's entries durable; some network filesystems do so without this call and refuse it."""
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in _NO_DIRECTORY_FSYNC:
            raise


def link_error(segments: list[bytes]) -> AccessDeniedError:
    """Return the error for a symbolic link below the base directory."""
    return AccessDeniedError(
        f"{display_name(segments)!r} is a symbolic link, and links below the base directory are not followed",
        hint="replace the link by the file or directory itself, or use a bind mount",
    )


class SafeDirectory:
    """A base directory, opened anew for every operation, so that a later mount on it is seen.

    Parameters
    ----------
    path
        Absolute path. It may itself be, or lead through, a symbolic link.
    create
        Whether a missing base directory counts as an empty backend, which the first write creates.
    """

    def __init__(self, path: str, *, create: bool) -> None:
        self.path = path
        self.create = create
        #: Directories whose own entry this process has fsynced.
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
        """Return a descriptor of a directory, created durably if missing, and how many of its levels existed."""
        for _ in range(MAX_ATTEMPTS):
            # A concurrent remove may prune a directory after it is created and before it is opened.
            with suppress(FileNotFoundError):
                return self._make(segments)
        raise BackendError(
            f"another program removed the directory {display_name(segments)!r} {MAX_ATTEMPTS} times"
        )

    def _make(self, segments: list[bytes]) -> tuple[int, int]:
        fd, existing = self._open_or_create_base(), 0
        try:
            for depth in range(1, len(segments) + 1):
                child, created = self._enter_or_create(fd, segments[:depth])
                existing = existing if created else depth
                os.close(fd)
                fd = child
        except NotADirectoryError as error:
            os.close(fd)
            raise ConflictError(
                f"{display_name(segments[:depth])!r} is a file, and a disk cannot store objects below a file",
                hint="remove or rename one of the two objects",
            ) from error
        except BaseException:
            os.close(fd)
            self.prune(segments[:depth], keep=existing)
            raise
        return fd, existing

    def _enter_or_create(self, fd: int, segments: list[bytes]) -> tuple[int, bool]:
        created, name = False, b"/".join(segments)
        try:
            child = _enter(fd, segments)
        except FileNotFoundError:
            created = _mkdir(fd, segments[-1])
            child = _enter(fd, segments)
        try:
            if created or name not in self._durable:
                # Another writer may have created it and not fsynced it yet; an object is as durable as its
                # directory.
                fsync_directory(fd)
                self._remember(name)
        except BaseException:
            os.close(child)
            raise
        return child, created

    def _remember(self, name: bytes) -> None:
        if len(self._durable) >= _MAX_DURABLE:
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
                return  # not empty, or not permitted
            self._durable.discard(b"/".join(segments[:depth]))

    def _open_base(self) -> int:
        try:
            return os.open(self.path, _OPEN)
        except FileNotFoundError as error:
            if self.create and not os.path.islink(self.path):
                raise
            raise BackendUnavailableError(
                f"the base directory {self.path} does not exist", hint="check that the disk is mounted"
            ) from error
        except NotADirectoryError as error:
            raise BackendError(f"the base directory {self.path} is not a directory") from error

    def _open_or_create_base(self) -> int:
        try:
            return self._open_base()
        except FileNotFoundError:
            _create_path(self.path)
            return self._open_base()


def _create_path(path: str) -> None:
    parent = os.path.dirname(path)
    if not os.path.isdir(parent):
        _create_path(parent)
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
        # Linux returns ENOTDIR, not ELOOP, for a link with both flags.
        if error.errno in (errno.ENOTDIR, errno.ELOOP) and _is_link(fd, segments[-1]):
            raise link_error(segments) from error
        raise


def _is_link(fd: int, segment: bytes) -> bool:
    return stat.S_ISLNK(os.lstat(segment, dir_fd=fd).st_mode)


def lstat_entry(fd: int, segments: list[bytes]) -> os.stat_result | None:
    """Return the `lstat` of an entry of the directory `fd`, None when there is none; a link is an error."""
    try:
        found = os.stat(segments[-1], dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(found.st_mode):
        raise link_error(segments)
    return found


def lstat_object(fd: int, segments: list[bytes]) -> os.stat_result | None:
    """Return `lstat_entry` of an object; None also for a directory, FIFO or device."""
    found = lstat_entry(fd, segments)
    return found if found is not None and stat.S_ISREG(found.st_mode) else None


def object_stat(name: str, found: os.stat_result) -> ObjectStat:
    """Return the properties of an object from its `stat`.

    The ETag is made of size and mtime. It tells versions of one size apart when a crash came between a file and
    its record. Copies that keep the mtime keep the ETag.
    """
    return ObjectStat(name, found.st_size, found.st_mtime, etag=f"{found.st_size:x}-{found.st_mtime_ns:x}")
