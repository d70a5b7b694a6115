"""The objects on a disk in the order of their names, and the temp files of interrupted writes. Blocking.

One directory at a time is in memory. What operating systems leave in any directory is no object: it is left out,
unless it has a manifest, because it was backed up under that name.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress

from fsbackup.events import log
from fsbackup.keys import MANIFESTS, META_PREFIX
from fsbackup.stores.base import ObjectStat, Orphan, PassedOver
from fsbackup.stores.local.directory import SafeDirectory, link_error, lstat_object, object_stat
from fsbackup.stores.names import ALL_TEMP_FILES, TEMP_FILE, NameFilter, may_be_stranger, split_name, to_name

#: At the root of a disk, readable for root alone.
_LOST_AND_FOUND = b"lost+found/"


class DirectoryListing:
    """A listing of a base directory; what it passes over is counted in `passed_over`."""

    def __init__(self, base: SafeDirectory, names: NameFilter, passed_over: PassedOver | None = None) -> None:
        self._base = base
        self._names = names
        self._passed_over = PassedOver() if passed_over is None else passed_over

    def run(self) -> Iterator[ObjectStat]:
        """Yield the selected objects in ascending order of their names' bytes.

        A directory that is removed during the listing counts as empty, since its objects were removed too.
        """
        start = self._names.deepest_directory
        if self._names.is_empty:
            return
        with ExitStack() as stack:
            try:
                directory = stack.enter_context(self._base.opened(start.split(b"/")[:-1]))
            except (FileNotFoundError, NotADirectoryError):
                return
            yield from self._walk(directory, start)

    def _walk(self, directory: int, path: bytes) -> Iterator[ObjectStat]:
        for name in sorted(self._selected(directory, path)):
            if name.endswith(b"/"):
                yield from self._descend(directory, path, name)
            elif (found := self._stat(directory, path, name)) is not None:
                yield found

    def _descend(self, directory: int, path: bytes, name: bytes) -> Iterator[ObjectStat]:
        try:
            child = os.open(name[:-1], os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
        except (FileNotFoundError, NotADirectoryError):
            return
        except PermissionError:
            if path + name == _LOST_AND_FOUND:
                self._passed_over.add(to_name(name))
                return  # not ours: what is stored there could be read
            raise
        try:
            yield from self._walk(child, path + name)
        finally:
            os.close(child)

    def _selected(self, directory: int, path: bytes) -> Iterator[bytes]:
        """Yield the selected names in one directory; a directory's name ends with a slash, as it sorts."""
        # Reading a directory that was removed after it was opened raises ENOENT; only empty ones can be removed.
        with suppress(FileNotFoundError), os.scandir(directory) as entries:
            for entry in entries:
                name = os.fsencode(entry.name)
                if entry.is_dir(follow_symlinks=False):
                    name += b"/"
                    if self._names.may_contain(path + name) and not self._is_stranger(path, name):
                        yield name
                elif self._is_selected(path + name, entry.is_symlink()) and not self._is_stranger(path, name):
                    yield name

    def _is_selected(self, name: bytes, is_link: bool) -> bool:
        if not is_link:
            return self._names.matches(name)
        if (self._names.matches(name) or self._names.may_contain(name + b"/")) and self._points_outside(name):
            if not name.startswith(META_PREFIX.encode()):
                raise link_error(name.split(b"/"))
            # It hides a record and no data: its object is found, and has no manifest then.
            log.warning("%s: %s", self._base.path, link_error(name.split(b"/")).message)
        return False  # its target is listed under its own name

    def _is_stranger(self, path: bytes, name: bytes) -> bool:
        """Tell whether a file or directory is another program's, and nothing of that name was backed up."""
        if not may_be_stranger(path, name):
            return False
        if path.startswith(META_PREFIX.encode()):
            return True
        segments = (MANIFESTS.encode() + path + name.rstrip(b"/")).split(b"/")
        with suppress(FileNotFoundError, NotADirectoryError), self._base.opened(segments[:-1]) as directory:
            os.stat(segments[-1], dir_fd=directory, follow_symlinks=False)
            return False
        self._passed_over.add(to_name(path + name))
        return True

    def _points_outside(self, link: bytes) -> bool:
        base = os.path.realpath(os.fsencode(self._base.path))
        target = os.path.realpath(base + b"/" + link)
        return os.path.commonpath([base, target]) != base

    @staticmethod
    def _stat(directory: int, path: bytes, name: bytes) -> ObjectStat | None:
        try:
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return None  # removed since the directory was read
        return object_stat(to_name(path + name), found) if stat.S_ISREG(found.st_mode) else None


def find_temp_files(base: SafeDirectory, older_than: float) -> Iterator[Orphan]:
    """Yield the temp files in which nothing has changed for `older_than` seconds."""
    before = time.time() - older_than
    for item in DirectoryListing(base, ALL_TEMP_FILES).run():
        orphan = _orphan_of(base, item.name)
        if orphan is not None and orphan.started <= before:
            yield orphan


def _orphan_of(base: SafeDirectory, name: str) -> Orphan | None:
    segments = split_name(name)
    try:
        with base.opened(segments[:-1]) as directory:
            found = lstat_object(directory, segments)
    except FileNotFoundError:
        return None
    # The change time, because a file gets its source's mtime just before it is renamed.
    return None if found is None else Orphan(name, found.st_ctime, found.st_size, TEMP_FILE)
