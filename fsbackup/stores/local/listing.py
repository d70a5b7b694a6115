"""The objects on a disk in the order of their names, one directory in memory at a time."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, suppress

from fsbackup.stores.base import ObjectStat
from fsbackup.stores.local.directory import SafeDirectory, link_error
from fsbackup.stores.local.writer import object_stat
from fsbackup.stores.names import NameFilter, to_name


class DirectoryListing:
    """A listing of a base directory; `run` is blocking."""

    def __init__(self, base: SafeDirectory, window: NameFilter) -> None:
        self._base = base
        self._window = window

    def run(self) -> Iterator[ObjectStat]:
        """Yield the objects in ascending order of their names' bytes.

        A directory that is removed while the listing runs is an empty one, as its objects were removed too.
        """
        top = self._window.deepest_directory
        segments = top.split(b"/")[:-1]
        if any(segment in (b"", b".", b"..") for segment in segments):
            return  # no object has such a name
        with ExitStack() as stack:
            try:
                directory = stack.enter_context(self._base.opened(segments))
            except (FileNotFoundError, NotADirectoryError):
                return
            yield from self._walk(directory, top)

    def _walk(self, directory: int, path: bytes) -> Iterator[ObjectStat]:
        for name in sorted(self._names(directory, path)):
            if name.endswith(b"/"):
                yield from self._descend(directory, path, name)
            elif (found := self._file(directory, path, name)) is not None:
                yield found

    def _descend(self, directory: int, path: bytes, name: bytes) -> Iterator[ObjectStat]:
        try:
            child = os.open(name[:-1], os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
        except (FileNotFoundError, NotADirectoryError):
            return
        try:
            yield from self._walk(child, path + name)
        finally:
            os.close(child)

    def _names(self, directory: int, path: bytes) -> Iterator[bytes]:
        """Yield the names in one directory that may matter; a directory's ends with a slash, as it sorts."""
        # Reading a directory that was removed after it was opened fails with ENOENT; it had to be empty for that.
        with suppress(FileNotFoundError), os.scandir(directory) as entries:
            for entry in entries:
                name = os.fsencode(entry.name)
                if entry.is_dir(follow_symlinks=False):
                    name += b"/"
                    if self._window.may_contain(path + name):
                        yield name
                elif self._wants(path + name, entry.is_symlink()):
                    yield name

    def _wants(self, name: bytes, is_link: bool) -> bool:
        if not is_link:
            return self._window.matches(name)
        if (self._window.matches(name) or self._window.may_contain(name + b"/")) and self._leads_out(name):
            raise link_error(name.split(b"/"))
        return False  # what it points to has a name of its own in the listing

    def _leads_out(self, link: bytes) -> bool:
        base = os.path.realpath(os.fsencode(self._base.path))
        target = os.path.realpath(base + b"/" + link)
        return os.path.commonpath([base, target]) != base

    @staticmethod
    def _file(directory: int, path: bytes, name: bytes) -> ObjectStat | None:
        try:
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return None  # removed meanwhile
        return object_stat(to_name(path + name), found) if stat.S_ISREG(found.st_mode) else None
