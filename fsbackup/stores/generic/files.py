"""Operations on exact paths of any fsspec filesystem. Blocking.

fsspec's `exists` and `isfile` are not used because they return False on any error; `rm`, `mv`, `cp`, `get` and
`put` of its base class are not used because they expand patterns.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from fsbackup.errors import BackendError, TransientError
from fsbackup.threads import heartbeat

#: Attribute of a filesystem whose server was seen to tell upper from lower case apart.
_TELLS_CASE = "_fsbackup_tells_case"
_TIME_FIELDS = ("mtime", "modified", "last_modified", "LastModified", "updated", "created")


def info(filesystem: Any, path: str) -> Mapping[str, Any] | None:
    """Return the filesystem's entry for a path, None only when it reports that the path does not exist."""
    filesystem.invalidate_cache()
    try:
        found: Mapping[str, Any] = filesystem.info(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found


def file_info(filesystem: Any, path: str) -> Mapping[str, Any] | None:
    """Return `info` of a file; None also for a directory, which is not an object."""
    found = info(filesystem, path)
    return found if found is not None and found["type"] == "file" else None


def modified(found: Mapping[str, Any]) -> float | None:
    """Return the modification time of an entry in epoch seconds, None when it has none."""
    for name in _TIME_FIELDS:
        value = found.get(name)
        if isinstance(value, datetime):
            return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
        if isinstance(value, (int, float)):
            return float(value)
    return None


def entries(filesystem: Any, path: str) -> list[Mapping[str, Any]]:
    """Return the entries of a directory, none when it does not exist."""
    filesystem.invalidate_cache()
    try:
        found: list[Mapping[str, Any]] = filesystem.ls(path, detail=True)
    except (FileNotFoundError, NotADirectoryError):
        return []
    # For a file, some filesystems return the file itself; object stores add a marker for the directory.
    return [
        each for each in found if str(each["name"]).rstrip("/").rpartition("/")[0].strip("/") == path.strip("/")
    ]


def is_of_another_case(filesystem: Any, path: str, name: str) -> bool:
    """Tell whether what is found under a path has a name that differs by case: then it is another object.

    `name` is the end of `path` below the base directory. A server that tells case apart is asked once.
    """
    if getattr(filesystem, _TELLS_CASE, False):
        return False
    directory, _, last = path.rpartition("/")
    if last.swapcase() == last:
        return False
    if info(filesystem, f"{directory}/{last.swapcase()}") is None:
        setattr(filesystem, _TELLS_CASE, True)
        return False
    parent = path[: -len(name) - 1]
    for segment in name.split("/"):
        if segment not in {
            str(each["name"]).rstrip("/").rpartition("/")[2] for each in entries(filesystem, parent)
        }:
            return True
        parent = f"{parent}/{segment}"
    return False


def remove(filesystem: Any, path: str, name: str) -> None:
    """Remove one file; a missing one or a directory is left alone, and so is one whose name differs by case."""
    if file_info(filesystem, path) is not None and not is_of_another_case(filesystem, path, name):
        with suppress(FileNotFoundError):
            filesystem.rm_file(path)


def make_directory(filesystem: Any, path: str) -> None:
    """Create a directory and its parents where they do not exist."""
    try:
        filesystem.makedirs(path, exist_ok=True)
    except OSError:
        # Most filesystems check first and create then; another writer may create it in between.
        found = info(filesystem, path)
        if found is None or found["type"] != "directory":
            raise


def move(filesystem: Any, source: str, target: str) -> None:
    """Rename a file over an existing one, or copy and remove where the protocol has no rename.

    Raises
    ------
    BackendError
        When the filesystem reports success but renamed nothing.
    """
    from fsspec import AbstractFileSystem

    if type(filesystem).mv is AbstractFileSystem.mv:
        filesystem.cp_file(source, target)
        filesystem.rm_file(source)
    else:
        filesystem.mv(source, target)
    if info(filesystem, source) is not None:
        raise BackendError("the server did not rename over the existing file", hint="use another protocol")


def read(filesystem: Any, path: str, start: int, end: int | None) -> bytes:
    """Return a range of a file; raises `FileNotFoundError` when it does not exist."""
    if end is not None and end <= start:
        _size_of(filesystem, path)
        return b""
    try:
        data = _fetch(filesystem, path, start, end)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, IndexError):
        # Some filesystems raise for a directory or for a range after the end, each another error.
        if start >= _size_of(filesystem, path) and start:
            return b""
        raise
    return data if end is None else _check_length(filesystem, path, data, start, end)


def _fetch(filesystem: Any, path: str, start: int, end: int | None) -> bytes:
    if not hasattr(getattr(filesystem, "ftp", None), "posix_rename"):
        return bytes(filesystem.cat_file(path, start=start, end=end))
    with filesystem.open(path, "rb") as handle:
        return read_sftp(handle, start, end)


def read_sftp(handle: Any, start: int, end: int | None) -> bytes:
    """Return a range of an open SFTP file, with all requests in flight at once."""
    size = handle.stat().st_size
    end = size if end is None else min(end, size)
    return b"".join(handle.readv([(start, end - start)])) if start < end else b""


def _check_length(filesystem: Any, path: str, data: bytes, start: int, end: int) -> bytes:
    """Return `data`; raises `TransientError` when it is shorter than the range and the file does not end there."""
    heartbeat()
    if len(data) == end - start or (len(data) < end - start and start + len(data) >= _size_of(filesystem, path)):
        return data
    raise TransientError(f"{len(data)} bytes arrived instead of {end - start}")


def _size_of(filesystem: Any, path: str) -> int:
    found = file_info(filesystem, path)
    if found is None:
        raise FileNotFoundError(path)
    return int(found["size"])
