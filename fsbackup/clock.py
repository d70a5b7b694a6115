"""The clock of the process, and the zone in which it counts days: the local one, for ``{now}`` and for `keep_*`.

Whoever looks for last night's backup goes by the clock on the wall. So the ``{now}`` of a key and the days, weeks,
months and years of a retention are in local time: that of ``TZ`` in the environment, else of the machine.
``TZ=UTC`` makes it UTC for both. Ages are differences of epoch seconds and have no zone.

What decides about objects by the time asks `now`, by its module (``clock.now()``): a test that needs another day
replaces it in one place.
"""

from __future__ import annotations

import time
from datetime import date, datetime


def now() -> float:
    """Return the current time in epoch seconds."""
    return time.time()


def day(when: float) -> date:
    """Return the local day of a time in epoch seconds."""
    return date.fromtimestamp(when)


def local(when: float) -> datetime:
    """Return a time in epoch seconds as local time, with its zone."""
    return datetime.fromtimestamp(when).astimezone()
