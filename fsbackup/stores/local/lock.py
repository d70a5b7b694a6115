"""A lock on one name among all processes that use a directory.

All names share one file: a name stands for one byte of it, which `fcntl` locks. So there is nothing to clean up,
and the kernel releases the lock of a process that is killed. The locks belong to the open file, not to the process
(``F_OFD_SETLK`` in fcntl(2)), so that two stores of one process exclude each other too.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import struct

from fsbackup.keys import RESERVED
from fsbackup.stores.local.directory import SafeDirectory
from fsbackup.stores.names import DEFAULT_MODE

#: The name of the file, below the directory of fsbackup's own records.
_FILE = "lock"
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
#: Filesystems without such locks: some network and FUSE ones.
_UNSUPPORTED = frozenset({errno.EINVAL, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS})


def try_lock(base: SafeDirectory, name: str) -> int | None:
    """Lock `name`; return a descriptor whose closing unlocks it, or None while another process holds the lock."""
    directory, _ = base.make([RESERVED.encode()])
    try:
        file = os.open(_FILE, _FLAGS, DEFAULT_MODE, dir_fd=directory)
    finally:
        os.close(directory)
    try:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, _lock_of_byte(name))
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return file
        os.close(file)
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return None
        raise
    except BaseException:
        os.close(file)
        raise
    return file


def _lock_of_byte(name: str) -> bytes:
    """Return the ``struct flock`` of an exclusive lock on the byte that stands for `name`."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    offset = int.from_bytes(digest[:8]) >> 2  # an offset is a signed number of 64 bits, and so is its end
    return struct.pack("hhqqi0q", fcntl.F_WRLCK, os.SEEK_SET, offset, 1, 0)
