"""Paths: `fsbackup://SET/KEY` as text, its parts, and whether they are legal."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import Any

from fsbackup.errors import ObjectNotFoundError
from fsbackup.keys import check_key

PROTOCOL = "fsbackup"
_SCHEME = f"{PROTOCOL}://"


def strip(path: str | os.PathLike[str]) -> str:
    """Return `path` as SET/KEY, without protocol and without slashes at its ends."""
    return os.fspath(path).removeprefix(_SCHEME).strip("/")


def strip_all(path: Any) -> Any:
    """Return `strip` of a path, or of each path of a list."""
    return (
        [strip(each) for each in path] if isinstance(path, Sequence) and not isinstance(path, str) else strip(path)
    )


def split(path: str) -> tuple[str, str]:
    """Return a path's set and key; each may be empty."""
    name, _, key = strip(path).partition("/")
    return name, key


def parents(path: str) -> list[str]:
    """Return the directories above a path, the nearest first, down to its set."""
    parts = strip(path).split("/")
    return ["/".join(parts[:count]) for count in range(len(parts) - 1, 0, -1)]


def split_for_write(path: str) -> tuple[str, str]:
    """Return the set and key of a path to write to.

    Raises
    ------
    ValueError
        When the key is illegal.
    """
    name, key = split(path)
    return name, check_key(key)


def check_read_key(key: str) -> str:
    """Return `key`, a key to read from.

    Raises
    ------
    ObjectNotFoundError
        When it is illegal: nothing can be stored under it.
    """
    try:
        return check_key(key)
    except ValueError as error:
        raise ObjectNotFoundError(str(error), key=key) from None


def exists_error(path: str) -> FileExistsError:
    """Return the error of a create-only write to an object that exists."""
    what = "object already exists (mode 'wb', or 'overwrite', replaces it)"
    return FileExistsError(errno.EEXIST, what, f"{_SCHEME}{strip(path)}")
