"""`SafeDirectory`: a directory below which nothing follows a link: that of a local backend, or a restore's target.

Each level is opened by `openat` with ``O_NOFOLLOW`` relative to the level above, so that nothing outside the base
can be reached, also when another program replaces a directory by a link meanwhile. On a disk that does not tell
upper from lower case apart, an entry that is found under a name of another case is another object.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from fsbackup.errors import AccessDeniedError, BackendError, BackendUnavailableError, ConflictError
from fsbackup.events import log
from fsbackup.keys import MARKER
from fsbackup.stores.base import NO_PLACE, ObjectStat
from fsbackup.stores.names import DEFAULT_MODE, to_bytes, to_name

#: Only the owner enters new directories; an administrator may widen the mode afterwards.
DIRECTORY_MODE = 0o700

#: How often to create a directory again that a concurrent remove prunes.
MAX_ATTEMPTS = 100

_OPEN = os.O_RDONLY | os.O_DIRECTORY
_NEW_FILE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
#: Entries in the cache of directories known to be durable.
_MAX_DURABLE = 4096
_NO_DIRECTORY_FSYNC = frozenset({errno.EINVAL, errno.ENOTSUP})
#: Errors of filesystems that keep no modes or times: FAT, shares, directories of another user.
_NOT_KEPT = frozenset({errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP})


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
        f"{display_name(segments)!r} is a symbolic link, and links are not followed",
        hint="replace the link by the file or directory itself, or use a bind mount",
    )


def case_error(segments: list[bytes]) -> ConflictError:
    """Return the error for a name that is taken by one that differs from it only by case."""
    return ConflictError(
        f"{display_name(segments)!r} is there under a name that differs only by case, and this disk does not tell "
        "the two apart",
        hint="use a disk that does, or a directory of its own for one of the two",
    )


def tells_case_apart(fd: int, entry: bytes) -> bool:
    """Tell whether the directory `fd`, which has this entry, keeps names that differ only by case apart."""
    if (other := _in_other_case(entry)) is None:
        return True
    try:
        found = os.stat(other, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return True
    return not os.path.samestat(found, os.stat(entry, dir_fd=fd, follow_symlinks=False))


def _in_other_case(entry: bytes) -> bytes | None:
    """Return the name with upper and lower case exchanged, None where that is no other name."""
    other = entry.swapcase()
    if other == entry:  # no ASCII letter in it
        other = to_bytes(to_name(entry).swapcase())
    return None if other == entry or len(other) != len(entry) else other


def is_of_another_case(fd: int, entry: bytes) -> bool:
    """Tell whether an entry that is found by this name has another one, which differs only by case."""
    return not tells_case_apart(fd, entry) and not _has_entry(fd, entry)


def _has_entry(fd: int, entry: bytes) -> bool:
    return os.fsdecode(entry) in os.listdir(fd)


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
        #: Device and inode of the directory that was there when it was last opened, `NO_PLACE` when none was.
        self.place: tuple[int, int] | None = None
        #: The one that is meant: nothing is written to another, unless that has the marker of a backend.
        self.kept: tuple[int, int] | None = None
        #: Directories whose own entry this process has fsynced.
        self._durable: set[bytes] = set()
        #: Directories, on the filesystem with this number, that were seen to tell case apart.
        self._apart: tuple[int, set[bytes]] = (-1, set())
        #: What this filesystem does not keep, as far as that was said.
        self._not_kept: set[str] = set()

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
            apart = self._telling_case_apart(fd)
            for depth in range(1, len(segments) + 1):
                child = _enter(fd, segments[:depth], apart)
                if child is None:
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
                os.close(fd)
                fd = child
            yield fd
        finally:
            os.close(fd)

    def make(self, segments: list[bytes], modes: Sequence[int | None] = ()) -> tuple[int, int]:
        """Return a descriptor of a directory, created durably if missing, and how many of its levels existed.

        Parameters
        ----------
        segments
            Its name below the base.
        modes
            For each segment the permission bits of the directory it was backed up from, None where they are not
            known. A new directory gets them, an existing one loses what it has beyond them. Without modes only
            the owner enters new directories, and existing ones stay as they are.

        Raises
        ------
        ConflictError
            When a file is in the way, or a name that differs only by case where the disk cannot keep both.
        """
        for _ in range(MAX_ATTEMPTS):
            # A concurrent remove may prune a directory after it is created and before it is opened.
            with suppress(FileNotFoundError):
                return self._make(segments, modes or [None] * len(segments))
        raise BackendError(
            f"another program removed the directory {display_name(segments)!r} {MAX_ATTEMPTS} times"
        )

    def create_file(
        self, segments: list[bytes], name: bytes, modes: Sequence[int | None] = ()
    ) -> tuple[int, int, int]:
        """Create a private file in a directory, as `make` makes it.

        Returns
        -------
        tuple[int, int, int]
            Descriptors of the directory and of the file, and how many levels of the directory existed.
        """
        for _ in range(MAX_ATTEMPTS):
            directory, existing = self.make(segments, modes)
            try:
                return directory, os.open(name, _NEW_FILE, DEFAULT_MODE, dir_fd=directory), existing
            except FileNotFoundError:  # a concurrent remove pruned the directory: create it again
                os.close(directory)
            except BaseException:
                os.close(directory)
                self.prune(segments, keep=existing)
                raise
        raise BackendError(f"another program removed the directory {MAX_ATTEMPTS} times")

    def _make(self, segments: list[bytes], modes: Sequence[int | None]) -> tuple[int, int]:
        fd, existing = self._open_or_create_base(), 0
        try:
            for depth in range(1, len(segments) + 1):
                child, created = self._enter_or_create(fd, segments[:depth], modes[depth - 1])
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

    def _enter_or_create(self, fd: int, segments: list[bytes], mode: int | None) -> tuple[int, bool]:
        created, name = False, b"/".join(segments)
        try:
            child = _enter(fd, segments)
        except FileNotFoundError:
            created = _mkdir(fd, segments[-1])
            child = _enter(fd, segments)
        if child is None:
            raise case_error(segments)
        try:
            if mode is not None:
                self._limit_mode(child, mode, created=created)
            if created or name not in self._durable:
                # Another writer may have created it and not fsynced it yet; an object is as durable as its
                # directory.
                fsync_directory(fd)
                self._remember(name)
        except BaseException:
            os.close(child)
            raise
        return child, created

    def _limit_mode(self, fd: int, mode: int, *, created: bool) -> None:
        now = stat.S_IMODE(os.fstat(fd).st_mode)
        wanted = mode & 0o777 | DIRECTORY_MODE if created else now & (mode | ~0o777 | DIRECTORY_MODE)
        if wanted != now:
            self.try_to_set("mode of a directory", lambda: os.fchmod(fd, wanted))

    def try_to_set(self, what: str, change: Callable[[], None]) -> None:
        """Make a change that some filesystems refuse: that is no error, and a warning the first time."""
        try:
            change()
        except OSError as error:
            if error.errno not in _NOT_KEPT:
                raise
            if what not in self._not_kept:
                self._not_kept.add(what)
                log.warning("%s: the %s cannot be set: %s", self.path, what, error.strerror)

    @property
    def apart(self) -> set[bytes]:
        """The directories that are known to tell case apart, since the last call of `opened`."""
        return self._apart[1]

    def _telling_case_apart(self, base: int) -> set[bytes]:
        """Return the directories that are known to tell case apart; none after another filesystem was mounted."""
        device, known = os.fstat(base).st_dev, self._apart
        if known[0] != device or len(known[1]) >= _MAX_DURABLE:
            known = self._apart = (device, set())
        return known[1]

    def _remember(self, name: bytes) -> None:
        if len(self._durable) >= _MAX_DURABLE:
            self._durable.clear()
        self._durable.add(name)

    def prune(self, segments: list[bytes], keep: int = 0) -> None:
        """Remove the directory and its parents while they are empty, down to `keep` levels below the base."""
        for depth in range(len(segments), keep, -1):
            try:
                with self.opened(segments[: depth - 1]) as parent:
                    if is_of_another_case(parent, segments[depth - 1]):
                        return
                    os.rmdir(segments[depth - 1], dir_fd=parent)
            except FileNotFoundError:
                continue
            except OSError:
                return  # not empty, or not permitted
            self._durable.discard(b"/".join(segments[:depth]))

    def _open_base(self) -> int:
        try:
            fd = os.open(self.path, _OPEN)
        except FileNotFoundError as error:
            self.place = NO_PLACE
            if self.create and not os.path.islink(self.path):
                raise
            raise BackendUnavailableError(
                f"the base directory {self.path} does not exist", hint="check that the disk is mounted"
            ) from error
        except NotADirectoryError as error:
            raise BackendError(f"the base directory {self.path} is not a directory") from error
        self.place = _identity(fd)
        return fd

    def _open_or_create_base(self) -> int:
        try:
            fd = self._open_base()
        except FileNotFoundError:
            if self.kept not in (None, NO_PLACE):
                raise self._left() from None
            make_path(self.path)
            fd = self._open_base()
        try:
            self._require_kept(fd)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _require_kept(self, fd: int) -> None:
        """Raise when the base is no longer the kept one; with a marker it is, as some filesystems renumber."""
        if self.kept in (None, NO_PLACE) or _identity(fd) == self.kept:
            return
        try:
            os.stat(MARKER, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            raise self._left() from None

    def _left(self) -> BackendUnavailableError:
        return BackendUnavailableError(
            f"the base directory {self.path} is not the one that was there before: the disk may be unmounted",
            hint="check that the disk is mounted",
        )


def _identity(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


def make_path(path: str) -> None:
    """Create a directory and those above it that are missing, durably, for the owner alone."""
    parent = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(parent):
        make_path(parent)
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


def _enter(fd: int, segments: list[bytes], apart: set[bytes] | None = None) -> int | None:
    """Return a descriptor of a directory, None where the disk shows one whose name differs by case.

    A directory is asked once whether it tells case apart; those of which it is known are in `apart`.
    """
    try:
        child = os.open(segments[-1], _OPEN | os.O_NOFOLLOW, dir_fd=fd)
    except OSError as error:
        # Linux returns ENOTDIR, not ELOOP, for a link with both flags.
        if error.errno in (errno.ENOTDIR, errno.ELOOP) and _is_link(fd, segments[-1]):
            raise link_error(segments) from error
        raise
    try:
        is_meant = _is_meant(fd, segments, apart)
    except BaseException:
        os.close(child)
        raise
    if not is_meant:
        os.close(child)
        return None
    return child


def _is_meant(fd: int, segments: list[bytes], apart: set[bytes] | None) -> bool:
    """Tell whether an entry that is found has just this name; add its directory to `apart` where that tells."""
    directory, entry = b"/".join(segments[:-1]), segments[-1]
    if apart is not None and directory in apart:
        return True
    if not tells_case_apart(fd, entry):
        return _has_entry(fd, entry)
    if apart is not None and _in_other_case(entry) is not None:
        apart.add(directory)
    return True


def _is_link(fd: int, segment: bytes) -> bool:
    return stat.S_ISLNK(os.lstat(segment, dir_fd=fd).st_mode)


def lstat_entry(fd: int, segments: list[bytes], apart: set[bytes] | None = None) -> os.stat_result | None:
    """Return the `lstat` of an entry of the directory `fd`, None when there is none; a link is an error."""
    try:
        found = os.stat(segments[-1], dir_fd=fd, follow_symlinks=False)
        if not _is_meant(fd, segments, apart):
            return None
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(found.st_mode):
        raise link_error(segments)
    return found


def lstat_object(fd: int, segments: list[bytes], apart: set[bytes] | None = None) -> os.stat_result | None:
    """Return `lstat_entry` of an object; None also for a directory, FIFO or device."""
    found = lstat_entry(fd, segments, apart)
    return found if found is not None and stat.S_ISREG(found.st_mode) else None


def object_stat(name: str, found: os.stat_result) -> ObjectStat:
    """Return the properties of an object from its `stat`.

    The ETag is made of size and mtime. It tells versions of one size apart when a crash came between a file and
    its record. Copies that keep the mtime keep the ETag.
    """
    return ObjectStat(name, found.st_size, found.st_mtime, etag=f"{found.st_size:x}-{found.st_mtime_ns:x}")
