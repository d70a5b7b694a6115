"""The files of a job: a file, all files below a directory, or what a glob matches. Sorted and streaming.

Nothing is left out in silence: what should be backed up and cannot be is `Unreadable`, what is no file to back up
(a link, a FIFO, the place where a backend keeps its own copies) is `Skipped`, and an exclude that matched nothing
is a `Note`.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from glob import has_magic
from typing import TYPE_CHECKING

from fsbackup.errors import SourceError, SourceNotFoundError
from fsbackup.jobs.patterns import EVERYTHING, Excludes, PathPattern, State, split_glob

if TYPE_CHECKING:
    from fsbackup.config import SourceConfig
    from fsbackup.config.sources import Links


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file to back up: its path, and the path that tells it from the others of its source (``/``-separated)."""

    path: str
    relpath: str


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A file or directory that should be backed up and cannot be, and why."""

    path: str
    error: SourceError


@dataclass(frozen=True, slots=True)
class Skipped:
    """What is no file to back up, and why; `level` is the logging level at which that is news."""

    path: str
    reason: str
    level: int = logging.INFO


@dataclass(frozen=True, slots=True)
class Note:
    """What whoever wrote the configuration may want to know of a source."""

    path: str
    text: str


SourceEntry = SourceFile | Unreadable | Skipped | Note


_KINDS = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFBLK: "a device", stat.S_IFCHR: "a device"}


def not_a_file(path: str, mode: int) -> Skipped:
    """Return why a path of this mode is skipped."""
    if stat.S_ISDIR(mode):
        return Skipped(path, "a link to a directory is not followed")
    return Skipped(path, _KINDS.get(stat.S_IFMT(mode), "neither file nor directory"), logging.WARNING)


def missing_file(path: str, what: str, error: OSError) -> SourceError:
    """Return the error for a name that is listed, with nothing behind it."""
    result = SourceNotFoundError(f"{path}: {what}", hint="remove it, or add it to the job's exclude")
    result.__cause__ = error
    return result


def unreadable(path: str, error: OSError) -> SourceError:
    """Return the operating system's error as ours."""
    kind = SourceNotFoundError if isinstance(error, FileNotFoundError) else SourceError
    result = kind(f"{path}: cannot be read: {error.strerror or error}")
    result.__cause__ = error
    return result


def find_files(
    source: SourceConfig, *, keep_out: frozenset[str] = frozenset(), allow_empty: bool = False
) -> Iterator[SourceEntry]:
    """Yield what a source consists of, in the order of the paths' bytes.

    A directory's files keep their tree as `relpath`; a glob's are relative to the directory before its first
    wildcard; a single file's is its name. A source that is a link itself is what it points to; for links below it
    there is `links`. Links to directories are not followed in any case. A source without any file at all is
    `Unreadable`.

    Parameters
    ----------
    source
        What to look for.
    keep_out
        Real paths of directories below the source that are not entered: where its own copies are kept.
    allow_empty
        Nothing at all is no mistake. A directory that is not there or cannot be read still is.
    """
    nothing = True
    for found in _search(source, keep_out):
        nothing = nothing and isinstance(found, Skipped | Note)
        if not (nothing and isinstance(found, Note)):
            yield found
    if nothing and not allow_empty:
        yield Unreadable(source.path, _nothing_found(source))


def _search(source: SourceConfig, keep_out: frozenset[str]) -> Iterator[SourceEntry]:
    path, excludes = source.path, Excludes(source.exclude)
    root, pattern = path.rstrip("/") or "/", EVERYTHING
    if has_magic(path) and not os.path.lexists(path):
        root, segments = split_glob(path)
        pattern, path = PathPattern(segments, only_directories=path.endswith("/")), root
    try:
        is_directory = stat.S_ISDIR(os.stat(path).st_mode)
    except OSError as error:
        yield Unreadable(path, unreadable(path, error))
        return
    if is_directory:
        yield from SourceWalk(root, pattern, excludes, keep_out, source.links).run()
    elif pattern is EVERYTHING and not excludes(os.path.basename(path), is_directory=False):
        yield SourceFile(path, os.path.basename(path))
    yield from unused_excludes(source, excludes)


def unused_excludes(source: SourceConfig, excludes: Excludes) -> Iterator[Note]:
    """Yield what to say of patterns that have matched nothing, once all of a source has been looked at."""
    for unused in excludes.unused:
        yield Note(source.path, f"exclude {unused!r} matches nothing")


def _nothing_found(source: SourceConfig) -> SourceError:
    what = "matches no file" if has_magic(source.path) else "has no file to back up"
    besides = ", or everything in it is excluded" if source.exclude else ""
    return SourceNotFoundError(
        f"{source.path}: {what}{besides}",
        hint="a job that backs up nothing counts as failed, unless it has allow_empty",
    )


@dataclass
class _Level:
    """A directory being walked: its path, the same below the source, and the names in it still to come."""

    path: str
    relpath: str
    state: State
    names: Iterator[str]


class SourceWalk:
    """A depth-first walk with a stack of its own, so that no tree is too deep for it.

    Parameters
    ----------
    root
        The directory; followed when it is a link.
    pattern, excludes
        What of it is wanted.
    keep_out
        Real paths of directories that are not entered.
    links
        What to do about a link: ``"skip"``, ``"follow"`` or ``"fail"``.
    """

    def __init__(
        self, root: str, pattern: PathPattern, excludes: Excludes, keep_out: frozenset[str], links: Links = "skip"
    ) -> None:
        self._links = links
        self._root = root
        self._real_root = os.path.realpath(root)
        self._pattern = pattern
        self._excludes = excludes
        self._keep_out = keep_out
        self._levels: list[_Level] = []
        self._pending: list[SourceEntry] = []

    def run(self) -> Iterator[SourceEntry]:
        """Yield what is found."""
        self._enter(self._root, "", self._pattern.start)
        while self._levels:
            yield from self._take_pending()
            level = self._levels[-1]
            name = next(level.names, None)
            if name is None:
                self._levels.pop()
            elif name.endswith("/"):
                state = self._pattern.step(level.state, name[:-1], is_directory=True)
                self._enter(_join(level.path, name[:-1]), level.relpath + name, state)
            else:
                yield SourceFile(_join(level.path, name), level.relpath + name)

    def _take_pending(self) -> list[SourceEntry]:
        notes, self._pending = self._pending, []
        return notes

    def _enter(self, path: str, relpath: str, state: State) -> None:
        """List a directory. Only the names are kept (a slash marks directories): it may hold a million."""
        names: list[str] = []
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    names += self._wanted_names(entry, relpath + entry.name, state)
        except OSError as error:
            self._pending.append(Unreadable(path, unreadable(path, error)))
        names.sort(key=os.fsencode)
        self._levels.append(_Level(path, relpath, state, iter(names)))

    def _wanted_names(self, entry: os.DirEntry[str], relpath: str, state: State) -> list[str]:
        is_directory = entry.is_dir(follow_symlinks=False)
        if self._excludes(relpath, is_directory=is_directory):
            return []
        state = self._pattern.step(state, entry.name, is_directory=is_directory)
        if is_directory:
            return [f"{entry.name}/"] if state and not self._is_kept_out(entry.path, relpath) else []
        if self._pattern.matches(state) and self._is_file(entry):
            return [entry.name]
        return []

    def _is_kept_out(self, path: str, relpath: str) -> bool:
        if _join(self._real_root, relpath) not in self._keep_out:
            return False
        self._pending.append(Skipped(path, "a backend of this job keeps its copies here"))
        return True

    def _is_file(self, entry: os.DirEntry[str]) -> bool:
        """Return whether to back this up; if not, why not is pending."""
        found: Unreadable | Skipped | None = None
        try:
            if entry.is_symlink():
                found = self._link(entry)
            elif not entry.is_file():
                found = not_a_file(entry.path, entry.stat().st_mode)
        except FileNotFoundError as error:
            found = Unreadable(entry.path, missing_file(entry.path, "vanished while it was looked at", error))
        except OSError as error:
            found = Unreadable(entry.path, unreadable(entry.path, error))
        if found is not None:
            self._pending.append(found)
        return found is None

    def _link(self, entry: os.DirEntry[str]) -> Unreadable | Skipped | None:
        """Return why a link is not backed up, None where the file that it points to is."""
        if self._links == "skip":
            return Skipped(entry.path, "a link (links: follow stores what it points to)")
        if self._links == "fail":
            hint = "remove it, add it to the job's exclude, or say links: skip or follow"
            return Unreadable(entry.path, SourceError(f"{entry.path}: is a link", hint=hint))
        try:
            mode = entry.stat().st_mode
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR):
                raise
            return Skipped(entry.path, f"a link to nothing ({os.readlink(entry.path)})")
        return None if stat.S_ISREG(mode) else not_a_file(entry.path, mode)


def _join(directory: str, name: str) -> str:
    return f"{directory}{name}" if directory.endswith("/") else f"{directory}/{name}"
