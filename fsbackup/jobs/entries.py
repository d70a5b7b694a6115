"""What a look at the disk finds: a file to back up, something missed, or something that is no file to back up."""

from __future__ import annotations

import logging
import stat
from array import array
from dataclasses import dataclass

from fsbackup.errors import SourceError, SourceNotFoundError


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


SourceEntry = SourceFile | Unreadable | Skipped


class FoundKeys:
    """The keys that a run found at its source: nine bytes for each, since there may be millions.

    Hashes stand for them. Two keys with one hash cost nothing but room: what is in here is kept.
    """

    #: An array is searched from its beginning to its end, so there are many short ones.
    _BUCKETS = 4096

    def __init__(self) -> None:
        self._hashes = [array("q") for _ in range(self._BUCKETS)]

    def add(self, key: str) -> None:
        """Take note of a key."""
        self._hashes[hash(key) % self._BUCKETS].append(hash(key))

    def __contains__(self, key: object) -> bool:
        return hash(key) in self._hashes[hash(key) % self._BUCKETS]


_KINDS = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFBLK: "a device", stat.S_IFCHR: "a device"}


def no_file(path: str, mode: int) -> Skipped:
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
