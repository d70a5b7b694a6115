"""The file that an object is restored to: found without following links, and never more open than its source.

All functions block. The temp file lies beside the file, in a directory that stays open meanwhile, so that another
program that moves or links directories leads nothing out of the tree.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from fsbackup.errors import FsbackupError
from fsbackup.record import Manifest, Origin
from fsbackup.stages.plaintext import Recorded
from fsbackup.stores.local.atomic_file import publish, set_attributes
from fsbackup.stores.local.directory import SafeDirectory, fsync_directory, is_of_another_case, lstat_object
from fsbackup.stores.names import split_name, temp_name

_READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Target:
    """One file to restore to.

    Parameters
    ----------
    key
        The object, for messages.
    path
        The file. Links above it are followed: its user chose that path.
    below
        The directory that `path` is relative to, with the last segments of the key: there no link is followed.
    owner
        Give the file the owner and group that the manifest names; else it belongs to the user who restores it.
    """

    def __init__(self, key: str, path: Path, below: SafeDirectory | None = None, *, owner: bool = False) -> None:
        self._key = key
        self._owner = owner
        self._base = below or SafeDirectory(str(path.absolute().parent), create=True)
        self._segments = [os.fsencode(path.name)] if below is None else split_name(str(path))
        self._path = Path(self._base.path, path)
        self._directory = -1
        self._temp = b""
        self._file: BinaryIO | None = None

    def has_content(self, manifest: Manifest, recorded: Recorded | None = None) -> bool:
        """Tell whether there is a regular file with the bytes of the manifest; nothing else is opened.

        Such a file gets its owner. With `recorded` the bytes before the stages are meant, where it proves them.
        """
        size, sha256 = (recorded.size, recorded.sha256) if recorded else (manifest.size, manifest.sha256)
        if sha256 is None:
            return False
        try:
            with self._base.opened(self._segments[:-1]) as directory:
                if lstat_object(directory, self._segments) is None:
                    return False
                descriptor = os.open(self._segments[-1], _READ_FLAGS, dir_fd=directory)
            with open(descriptor, "rb") as file:
                if os.fstat(descriptor).st_size != size:
                    return False
                same = hashlib.file_digest(file, "sha256").hexdigest() == sha256
                if same:
                    self._set_owner(descriptor, manifest.source)
                return same
        except (OSError, FsbackupError):  # then it is restored, which says what is wrong
            return False

    def open(self, manifest: Manifest | None) -> BinaryIO:
        """Create missing directories and a private temp file, and return that."""
        temp = temp_name().encode()
        with self._naming():
            self._directory, descriptor, _ = self._base.create_file(
                self._segments[:-1], temp, self._modes(manifest)
            )
            self._temp, self._file = temp, open(descriptor, "r+b")  # noqa: SIM115 - closed by `close`
            try:
                self._check_free()
            except BaseException:
                self.close()
                raise
            return self._file

    def _modes(self, manifest: Manifest | None) -> list[int | None]:
        """Return the recorded mode of each directory: the record has those of the last directories of the key."""
        recorded = list(manifest.source.directories or ()) if manifest else []
        count = len(self._segments) - 1
        unknown: list[int | None] = [None] * count
        return [*unknown, *recorded][len(recorded) :]

    def _check_free(self) -> None:
        """Raise unless there is nothing, a regular file, or a link to be replaced, under exactly this name."""
        name = self._segments[-1]
        with suppress(FileNotFoundError):
            mode = os.stat(name, dir_fd=self._directory, follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode) and not is_of_another_case(self._directory, name):
                raise IsADirectoryError(errno.EISDIR, "a directory is in the way", str(self._path))
            if stat.S_ISLNK(mode):  # /dev/stdout is one
                mode = os.stat(name, dir_fd=self._directory).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                reason = "a FIFO, socket or device is in the way (the target - is standard output)"
                raise FileExistsError(errno.EEXIST, reason, str(self._path))

    def commit(self, manifest: Manifest | None) -> None:
        """Flush the file to the disk, with mode and time of the file that was backed up, and give it its name."""
        assert self._file is not None
        source = manifest.source if manifest else None
        with self._naming():
            self._file.flush()
            descriptor = self._file.fileno()
            mode, mtime_ns = (source.mode, source.mtime_ns) if source else (None, None)
            if source:
                self._set_owner(descriptor, source)
            set_attributes(self._base, descriptor, mode, mtime_ns)
            os.fsync(descriptor)
            self._check_free()
            publish(self._directory, self._temp, self._segments, create_only=False)
            self._temp = b""
            fsync_directory(self._directory)

    def _set_owner(self, descriptor: int, source: Origin) -> None:
        if self._owner and source.uid is not None and source.gid is not None:
            os.fchown(descriptor, source.uid, source.gid)

    def close(self) -> None:
        """Close what is open, and remove the temp file unless it was renamed."""
        if self._temp:
            with suppress(FileNotFoundError):
                os.unlink(self._temp, dir_fd=self._directory)
        os.close(self._directory)
        # A close that fails on a full disk loses nothing: the content was flushed and synced before the rename.
        with suppress(OSError):
            assert self._file is not None
            self._file.close()

    @contextmanager
    def _naming(self) -> Iterator[None]:
        """Have errors name the file and the key, not the temp file."""
        try:
            yield
        except FsbackupError as error:
            error.operation, error.key = "restore", self._key
            raise
        except OSError as error:
            error.filename = str(self._path)
            raise
