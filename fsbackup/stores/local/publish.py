"""Giving a finished temp file its name in one step: over the old file, or only where there is none."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from functools import lru_cache

_RENAME_NOREPLACE = 1
#: What filesystems answer that have no hard links (FAT, some network and FUSE ones) or no such rename.
_UNSUPPORTED = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EMLINK})

Rename = Callable[[int, bytes, bytes], None]


def replace(directory: int, temp: bytes, target: bytes) -> None:
    """Rename `temp` to `target` within one directory, over what is there."""
    os.replace(temp, target, src_dir_fd=directory, dst_dir_fd=directory)


def create(directory: int, temp: bytes, target: bytes) -> None:
    """Rename `temp` to `target` within one directory unless something has that name, atomically.

    Raises
    ------
    FileExistsError
        When something has the name. `temp` is still there then.
    """
    for way in (_by_rename, _by_link):
        try:
            return way(directory, temp, target)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
    return _by_asking(directory, temp, target)


def _by_rename(directory: int, temp: bytes, target: bytes) -> None:
    rename = _libc_rename()
    if rename is None:
        raise OSError(errno.ENOSYS, "renameat2 is not there")
    if rename(directory, temp, directory, target, _RENAME_NOREPLACE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@lru_cache(maxsize=1)
def _libc_rename() -> Callable[[int, bytes, int, bytes, int], int] | None:
    """Return the C library's renameat2, which Python does not offer; None where there is no such function."""
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is not None:
        function.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
        function.restype = ctypes.c_int
    return function


def _by_link(directory: int, temp: bytes, target: bytes) -> None:
    os.link(temp, target, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
    os.unlink(temp, dir_fd=directory)


def _by_asking(directory: int, temp: bytes, target: bytes) -> None:
    """Not atomic against other programs: the last resort on filesystems that have neither of the above."""
    try:
        os.stat(target, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return replace(directory, temp, target)
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
