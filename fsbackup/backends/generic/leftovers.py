"""Temp files of writes that never ended, on a server."""

from __future__ import annotations

import time

from fsbackup.backends.local.leftovers import WHAT
from fsbackup.objects import Leftover, ObjectStat


def old_temp(item: ObjectStat, older_than: float) -> Leftover | None:
    """Return what a temp file is when it has not changed for `older_than` seconds; None too when nobody knows."""
    if item.modified is None or item.modified > time.time() - older_than:
        return None
    return Leftover(item.name, item.modified, item.size, WHAT)
