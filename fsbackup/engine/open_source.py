"""`open_source`: opens whatever can be uploaded as a `Source`."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeAlias, cast

from fsbackup.engine.file_source import FileSource
from fsbackup.engine.source import CheckSize, Source
from fsbackup.engine.staged import StagedSource
from fsbackup.engine.stream_source import PathStream, StreamSource
from fsbackup.errors import SourceError, SourceNotFoundError

if TYPE_CHECKING:
    from fsbackup.engine.command import Command
    from fsbackup.seen import Seen
    from fsbackup.stages import Stages


#: What can be uploaded: the path of a file, FIFO or device, a binary stream, or a command whose output is meant.
SourceLike: TypeAlias = "str | os.PathLike[str] | BinaryIO | Command"


class TreePath(str):
    """The path of a file in a tree; the record keeps the permission bits of the `depth` directories above it."""

    depth = 0

    @classmethod
    def at(cls, path: str, depth: int) -> TreePath:
        """Return the path of a file that is `depth` directories below the root of its tree."""
        result = cls(path)
        result.depth = depth
        return result

    def directory_modes(self) -> list[int]:
        """Return the permission bits of those directories, outermost first."""
        parents = Path(self).parents[: self.depth]
        return [stat.S_IMODE(os.stat(parent).st_mode) for parent in reversed(parents)]


def open_source(
    source: SourceLike,
    *,
    allow_empty: bool = False,
    may_grow: bool = False,
    series: str | None = None,
    check_size: CheckSize | None = None,
    seen: Seen | None = None,
    stages: Stages | None = None,
) -> Source:
    """Open a path, a binary stream or a command.

    Parameters
    ----------
    allow_empty
        Whether a stream may be empty (see `StreamSource`); a regular file may always be.
    may_grow
        Whether a file may grow while it is read (see `FileSource`).
    series
        What the object is a version of, for its manifest.
    check_size
        Refuses a size: that of a file here, that of a stream before its last part is handed on.
    seen
        Knows what was read before of files (see `FileSource`); None: a file is read whatever is known of it.
    stages
        What is done to the bytes; `check_size` and `allow_empty` concern those before.

    Raises
    ------
    ConfigError
        When a package or a key that the stages need is missing.
    ValueError
        For a directory (jobs back up directories) or a text stream.
    SourceNotFoundError, SourceError
        When the file does not exist or cannot be read, or has a size that is refused.
    """
    opened = _open(source, allow_empty, may_grow, seen)
    opened.check_size = check_size
    try:
        if check_size is not None and opened.size is not None:
            check_size(opened.size)
        if stages is not None:
            assert isinstance(opened, FileSource | StreamSource)
            opened = StagedSource(opened, stages)
    except BaseException:
        opened.close()
        raise
    opened.series = series
    return opened


def _open(source: SourceLike, allow_empty: bool, may_grow: bool, seen: Seen | None) -> Source:
    if hasattr(source, "open_source"):
        return cast("Command", source).open_source(allow_empty=allow_empty)
    if hasattr(source, "read"):
        if hasattr(source, "encoding"):
            raise ValueError("the stream is opened in text mode: pass a binary stream, such as its .buffer")
        label = str(getattr(source, "name", "<stream>"))
        return StreamSource(cast(BinaryIO, source), label, allow_empty=allow_empty)
    path = _plain_path(os.path.expanduser(cast(os.PathLike[str], source)))
    try:
        directories = source.directory_modes() if isinstance(source, TreePath) else []
        opened = _open_file(path, allow_empty, may_grow, seen)
        opened.directories = directories or None
        return opened
    except SourceError:  # is an `OSError`, too, and says already what failed
        raise
    except FileNotFoundError as error:
        raise SourceNotFoundError(f"{path}: no such file") from error
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}") from error


def _plain_path(path: str) -> str:
    """Return the path as `Path` has it, which takes longer than to read a small file."""
    return path if os.path.normpath(path) == path else str(Path(path))


def _open_file(path: str, allow_empty: bool, may_grow: bool, seen: Seen | None) -> Source:
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise ValueError(f"{path} is a directory: pass a file, or back up the directory with a job")
    if not stat.S_ISREG(mode):
        return PathStream(path, allow_empty)
    return FileSource(path, _open_at_once(path), may_grow=may_grow, seen=seen)


def _open_at_once(path: str) -> int:
    """Open a file; a FIFO that has taken its place since it was looked at would be waited for, maybe for ever."""
    flags = os.O_RDONLY | os.O_CLOEXEC
    try:
        return os.open(path, flags | os.O_NONBLOCK)
    except BlockingIOError:
        # Only a regular file has a lease, which its holder (a file server, for a client that writes) gives up when
        # asked, or loses soon.
        return os.open(path, flags)
