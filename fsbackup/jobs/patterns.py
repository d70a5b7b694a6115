"""Globs of a source, and the ones it leaves out. Pure: they look at names, never at the disk."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from glob import has_magic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathspec import Pattern

#: Where a match stands: which segments of the pattern may come next. Empty: nothing below can match.
State = frozenset[int]


class PathPattern:
    """A glob over path segments.

    ``*``, ``?`` and ``[...]`` match within one name, also one that starts with a dot: what a backup leaves out
    is said by `exclude`, not by its spelling. ``**`` matches any number of directories. A directory that matches
    is matched with everything below it.

    Parameters
    ----------
    segments
        The pattern's segments; none at all matches everything.
    only_directories
        Match no file itself, only directories (the pattern ends with a slash).
    """

    def __init__(self, segments: Iterable[str], *, only_directories: bool = False) -> None:
        self._segments = [None if each == "**" else _compile(each) for each in segments]
        self._end = len(self._segments)
        self._only_directories = only_directories
        self.start: State = self._closed({0})

    def step(self, state: State, name: str, *, is_directory: bool) -> State:
        """Return the state after the entry `name`; for a file it is of use only when `matches`."""
        if self.matches(state):
            return state
        after = set()
        for at in state:
            segment = self._segments[at]
            if segment is None and is_directory:
                after.add(at)
            elif segment is not None and segment.match(name):
                after.add(at + 1)
        if self._only_directories and not is_directory:
            after.discard(self._end)
        return self._closed(after)

    def matches(self, state: State) -> bool:
        """Tell whether the whole pattern was matched on the way to `state`."""
        return self._end in state

    def _closed(self, state: set[int]) -> State:
        """Add what ``**`` reaches by matching no directory at all."""
        for at in sorted(state):
            while at < self._end and self._segments[at] is None:
                at += 1
                state.add(at)
        return frozenset(state)


EVERYTHING = PathPattern(())


class Excludes:
    """Patterns of what to leave out, with the semantics of gitignore; matched with the path below the source.

    Ask about a directory before what is below it: what is below an excluded one cannot be taken back by a ``!``.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        self._given = tuple(patterns)
        self._used: set[int] = set()
        self._patterns = _compile_patterns(self._given) if self._given else ()

    def __call__(self, relpath: str, *, is_directory: bool) -> bool:
        path, excluded = f"{relpath}/" if is_directory else relpath, False
        for at, pattern in enumerate(self._patterns):
            if pattern.match_file(path) is not None:
                self._used.add(at)
                excluded = bool(pattern.include)
        return excluded

    @property
    def unused(self) -> list[str]:
        """The patterns that have matched nothing so far."""
        return [pattern for at, pattern in enumerate(self._given) if at not in self._used]


def _compile_patterns(patterns: Iterable[str]) -> tuple[Pattern, ...]:
    from pathspec import GitIgnoreSpec  # takes longer to load than most sources to be listed

    # In a file of git a line that starts with # is a comment; here it is somebody's pattern.
    lines = (re.sub("^#", r"\\#", pattern.removeprefix("./")) for pattern in patterns)
    return tuple(GitIgnoreSpec.from_lines(lines).patterns)


def split_glob(path: str) -> tuple[str, list[str]]:
    """Return the fixed directory that a glob starts from, and the segments of the glob below it."""
    segments = [segment for segment in path.split("/") if segment]
    first = next(index for index, segment in enumerate(segments) if has_magic(segment))
    return "/" + "/".join(segments[:first]), segments[first:]


def _compile(glob: str) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(glob))
