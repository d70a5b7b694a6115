"""The files of a job: a file, all files below a directory, or what a glob matches. Sorted and streaming.

Nothing is left out in silence: what should be backed up and cannot be is `Unreadable`, what is no file to back up
(a link to a directory, a FIFO, the place where a backend keeps its own copies) is `Skipped`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from glob import has_magic
from typing import TYPE_CHECKING

from fsbackup.errors import SourceError, SourceNotFoundError
from fsbackup.jobs.entries import Skipped, SourceEntry, SourceFile, Unreadable, unreadable
from fsbackup.jobs.patterns import EVERYTHING, Excludes, PathPattern, split_glob
from fsbackup.jobs.walk import SourceWalk

if TYPE_CHECKING:
    from fsbackup.config import SourceConfig


def find_files(
    source: SourceConfig, *, keep_out: frozenset[str] = frozenset(), allow_empty: bool = False
) -> Iterator[SourceEntry]:
    """Yield what a source consists of, in the order of the paths' bytes.

    A directory's files keep their tree as `relpath`; a glob's are relative to the directory before its first
    wildcard; a single file's is its name. A link to a file is that file. Links to directories are not followed,
    except where the source itself is one. A source without any file at all is `Unreadable`.

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
        nothing = nothing and isinstance(found, Skipped)
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
        yield from SourceWalk(root, pattern, excludes, keep_out).run()
    elif pattern is EVERYTHING and not excludes(os.path.basename(path), is_directory=False):
        yield SourceFile(path, os.path.basename(path))


def _nothing_found(source: SourceConfig) -> SourceError:
    what = "matches no file" if has_magic(source.path) else "has no file to back up"
    besides = ", or everything in it is excluded" if source.exclude else ""
    return SourceNotFoundError(
        f"{source.path}: {what}{besides}",
        hint="a job that backs up nothing counts as failed, unless it has allow_empty",
    )
