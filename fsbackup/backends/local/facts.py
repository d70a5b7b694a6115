"""What a disk says of itself."""

from __future__ import annotations

import os

from fsbackup.backends.local.base import Base
from fsbackup.objects import Facts

_ACCESS = "check that the directory and all above it may be read, written and entered by the user that runs this"


def disk_facts(base: Base) -> Facts:
    """Return the room on the disk below `base`. Blocking.

    Raises
    ------
    OSError, BackendError
        When the base directory cannot be opened.
    """
    with base.opened([]) as directory:
        found = os.statvfs(directory)
    # Not all that is free: some of it only root may use.
    free, total = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
    return Facts(keeps_versions=False, free=free, total=total, access=_ACCESS)


def unknown_facts(why: str) -> Facts:
    """Return what is known of a disk that cannot be asked."""
    return Facts(keeps_versions=False, access=_ACCESS, unknown={"free": why})
