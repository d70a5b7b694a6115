"""Walking a directory tree: sorted, streaming, and every error and odd entry told."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from fsbackup.jobs.entries import Skipped, SourceEntry, SourceFile, Unreadable, missing_file, no_file, unreadable
from fsbackup.jobs.patterns import Excludes, PathPattern, State


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
    """

    def __init__(self, root: str, pattern: PathPattern, excludes: Excludes, keep_out: frozenset[str]) -> None:
        self._root = root
        self._real_root = os.path.realpath(root)
        self._pattern = pattern
        self._excludes = excludes
        self._keep_out = keep_out
        self._levels: list[_Level] = []
        self._notes: list[SourceEntry] = []

    def run(self) -> Iterator[SourceEntry]:
        """Yield what is found."""
        self._enter(self._root, "", self._pattern.start)
        while self._levels:
            yield from self._take_notes()
            level = self._levels[-1]
            name = next(level.names, None)
            if name is None:
                self._levels.pop()
            elif name.endswith("/"):
                state = self._pattern.step(level.state, name[:-1], is_directory=True)
                self._enter(_join(level.path, name[:-1]), level.relpath + name, state)
            else:
                yield SourceFile(_join(level.path, name), level.relpath + name)

    def _take_notes(self) -> list[SourceEntry]:
        notes, self._notes = self._notes, []
        return notes

    def _enter(self, path: str, relpath: str, state: State) -> None:
        """List a directory. Only the names are kept (a slash marks directories): it may hold a million."""
        names: list[str] = []
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    names += self._sort_out(entry, relpath + entry.name, state)
        except OSError as error:
            self._notes.append(Unreadable(path, unreadable(path, error)))
        names.sort(key=os.fsencode)
        self._levels.append(_Level(path, relpath, state, iter(names)))

    def _sort_out(self, entry: os.DirEntry[str], relpath: str, state: State) -> list[str]:
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
        self._notes.append(Skipped(path, "a backend of this job keeps its copies here"))
        return True

    def _is_file(self, entry: os.DirEntry[str]) -> bool:
        try:
            mode = entry.stat().st_mode if entry.is_symlink() else 0
            if entry.is_file():
                return True
            mode = mode or entry.stat().st_mode
        except FileNotFoundError as error:
            what = "a link to nothing" if entry.is_symlink() else "vanished while it was looked at"
            self._notes.append(Unreadable(entry.path, missing_file(entry.path, what, error)))
        except OSError as error:
            self._notes.append(Unreadable(entry.path, unreadable(entry.path, error)))
        else:
            self._notes.append(no_file(entry.path, mode))
        return False


def _join(directory: str, name: str) -> str:
    return f"{directory}{name}" if directory.endswith("/") else f"{directory}/{name}"
