"""A tree as one object: GNU tar writes it, we say what is in it, in the same order each time.

GNU tar keeps what files are: links and hard links, owners, modes, empty directories, holes, FIFOs and devices,
extended attributes and ACLs. It gets its names from here, sorted by their bytes, so that patterns mean what they
mean to other sources and an unchanged tree gives the same bytes. Access times, change times and process numbers
are not in it.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING

from fsbackup.engine.command import Command
from fsbackup.jobs.patterns import Excludes
from fsbackup.jobs.sources import Note, unreadable, unused_excludes

if TYPE_CHECKING:
    from fsbackup.config import SourceConfig

log = logging.getLogger("fsbackup.jobs")

#: GNU tar takes options from the environment: an --exclude in TAR_OPTIONS, meant for other archives, would leave
#: out files. In a Latin-1 locale names would be other letters.
_ENVIRONMENT = ("env", "-u", "TAR_OPTIONS", "-u", "POSIXLY_CORRECT", "-u", "TAPE", "LC_ALL=C")
#: Of the versions of the sparse format only the first has no process number in the names of its headers.
_TAR = (
    *("tar", "--create", "--file=-", "--format=posix", "--xattrs", "--xattrs-include=*", "--acls"),
    *("--sparse", "--sparse-version=0.0"),
    "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime",
    *("--no-recursion", "--null", "--verbatim-files-from"),
)


def archive(source: SourceConfig, keep_out: frozenset[str] = frozenset()) -> Command:
    """Return the command that writes the archive of a source; names in it begin with the source's own.

    Parameters
    ----------
    source
        A directory or a file; a link is what it points to.
    keep_out
        Real paths of directories below it that are left out: where its own copies are kept.
    """
    parent = os.path.dirname(os.path.realpath(source.path))
    return Command(
        [*_ENVIRONMENT, *_TAR, f"--directory={parent}", "--files-from=-"],
        name=f"tar of {source.path}",
        input=lambda: _names(source, keep_out),
    )


def look_through(source: SourceConfig, keep_out: frozenset[str] = frozenset()) -> list[Note]:
    """Return what to say of a source that would be archived, from a walk through all of it.

    Raises
    ------
    SourceError
        When a directory cannot be listed.
    """
    excludes = Excludes(source.exclude)
    for _ in _walk(source, excludes, keep_out):
        pass
    return list(unused_excludes(source, excludes))


def _names(source: SourceConfig, keep_out: frozenset[str]) -> Iterator[bytes]:
    """Yield the names for tar; what there is to say of the source is known, and logged, at their end."""
    excludes = Excludes(source.exclude)
    yield from _walk(source, excludes, keep_out)
    for note in unused_excludes(source, excludes):
        log.info("%s: %s", note.path, note.text)


def _walk(source: SourceConfig, excludes: Excludes, keep_out: frozenset[str]) -> Iterator[bytes]:
    """Yield the names of all entries, each with a NUL, a directory before what is in it.

    Raises
    ------
    SourceError
        When a directory cannot be listed.
    """
    root = os.path.realpath(source.path)
    name = os.fsencode(os.path.basename(root) or ".")
    try:
        is_directory = stat.S_ISDIR(os.stat(root).st_mode)
    except OSError as error:
        raise unreadable(root, error) from None
    yield name + b"\0"
    levels = [iter(_listed(root, "", excludes, keep_out))] if is_directory else []
    while levels:
        found = next(levels[-1], None)
        if found is None:
            levels.pop()
            continue
        yield name + b"/" + os.fsencode(found.rstrip("/")) + b"\0"
        if found.endswith("/"):
            levels.append(iter(_listed(root, found, excludes, keep_out)))


def _listed(root: str, relpath: str, excludes: Excludes, keep_out: frozenset[str]) -> list[str]:
    """Return the paths below `root` of what is in one of its directories, with a slash where it is a directory."""
    path, found = os.path.join(root, relpath), []
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                is_directory = entry.is_dir(follow_symlinks=False)
                below = f"{relpath}{entry.name}"
                if excludes(below, is_directory=is_directory) or _is_socket(entry):
                    continue
                if not (is_directory and os.path.join(root, below) in keep_out):
                    found.append(f"{below}/" if is_directory else below)
    except OSError as error:
        raise unreadable(path, error) from None
    return sorted(found, key=os.fsencode)


def _is_socket(entry: os.DirEntry[str]) -> bool:
    """Return whether it is a socket, which tar leaves out with a warning."""
    if entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False) or entry.is_symlink():
        return False
    return stat.S_ISSOCK(entry.stat(follow_symlinks=False).st_mode)
