"""Exact-path operations on any fsspec filesystem. Blocking.

Never used: `exists` and `isfile`, which answer False to any error, and `rm`, `mv`, `cp`, `get` and `put` of the
base class, which expand patterns.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from fsspec import AbstractFileSystem

from fsbackup.errors import BackendError, TransientError
from fsbackup.threads import heartbeat

_TIMES = ("mtime", "modified", "last_modified", "LastModified", "updated", "created")


def info(filesystem: Any, path: str) -> Mapping[str, Any] | None:
    """Return what the filesystem says of a path, None only when it says that it is not there."""
    filesystem.invalidate_cache()
    try:
        found: Mapping[str, Any] = filesystem.info(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found


def file_info(filesystem: Any, path: str) -> Mapping[str, Any] | None:
    """Return `info` of a path that is a file; a directory of that name is no object."""
    found = info(filesystem, path)
    return found if found is not None and found["type"] == "file" else None


def modified(found: Mapping[str, Any]) -> float | None:
    """Return the modification time in epoch seconds, None when it is not said."""
    for name in _TIMES:
        value = found.get(name)
        if isinstance(value, datetime):
            return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
        if isinstance(value, (int, float)):
            return float(value)
    return None


def entries(filesystem: Any, path: str) -> list[Mapping[str, Any]]:
    """Return what is in a directory, nothing when it is not there."""
    filesystem.invalidate_cache()
    try:
        found: list[Mapping[str, Any]] = filesystem.ls(path, detail=True)
    except (FileNotFoundError, NotADirectoryError):
        return []
    # Of a file, some return the file itself; object stores add a marker for the directory.
    return [
        each for each in found if str(each["name"]).rstrip("/").rpartition("/")[0].strip("/") == path.strip("/")
    ]


def remove(filesystem: Any, path: str) -> None:
    """Remove one file; a missing one, or a directory, is nothing to remove."""
    if file_info(filesystem, path) is not None:
        with suppress(FileNotFoundError):
            filesystem.rm_file(path)


def make_directory(filesystem: Any, path: str) -> None:
    """Make a directory and its parents, as far as they are not there."""
    try:
        filesystem.makedirs(path, exist_ok=True)
    except OSError:
        # Most look first and make then, and somebody else made it in between.
        found = info(filesystem, path)
        if found is None or found["type"] != "directory":
            raise


def move(filesystem: Any, source: str, target: str) -> None:
    """Rename a file over what is there, or copy and remove where the protocol has no renaming.

    Raises
    ------
    BackendError
        When the filesystem reported success and did nothing.
    """
    if type(filesystem).mv is AbstractFileSystem.mv:
        filesystem.cp_file(source, target)
        filesystem.rm_file(source)
    else:
        filesystem.mv(source, target)
    if info(filesystem, source) is not None:
        raise BackendError("the server did not rename over the existing file", hint="use another protocol")


def read(filesystem: Any, path: str, start: int, end: int | None) -> bytes:
    """Return a range of a file; `FileNotFoundError` when the file is not there."""
    if end is not None and end <= start:
        _require(filesystem, path)
        return b""
    try:
        data = _fetch(filesystem, path, start, end)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, IndexError):
        # A directory, or a range after the end: some refuse them, and each in its own words.
        if start >= _require(filesystem, path) and start:
            return b""
        raise
    return data if end is None else _whole(filesystem, path, data, start, end)


def _fetch(filesystem: Any, path: str, start: int, end: int | None) -> bytes:
    if not hasattr(getattr(filesystem, "ftp", None), "posix_rename"):
        return bytes(filesystem.cat_file(path, start=start, end=end))
    with filesystem.open(path, "rb") as handle:
        return read_sftp(handle, start, end)


def read_sftp(handle: Any, start: int, end: int | None) -> bytes:
    """Return a range of an open SFTP file, all requests in flight at once instead of one per round trip."""
    size = handle.stat().st_size
    end = size if end is None else min(end, size)
    return b"".join(handle.readv([(start, end - start)])) if start < end else b""


def _whole(filesystem: Any, path: str, data: bytes, start: int, end: int) -> bytes:
    """Return `data` when it is the range, which may be short only where the file ends."""
    heartbeat()
    if len(data) == end - start or (len(data) < end - start and start + len(data) >= _require(filesystem, path)):
        return data
    raise TransientError(f"{len(data)} bytes came where {end - start} were asked for")


def _require(filesystem: Any, path: str) -> int:
    found = file_info(filesystem, path)
    if found is None:
        raise FileNotFoundError(path)
    return int(found["size"])
