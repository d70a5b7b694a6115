"""The process in another time zone."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

#: West and east of Greenwich, with summer time.
ZONES = ("America/New_York", "Europe/Berlin")


@contextmanager
def local_zone(name: str) -> Iterator[None]:
    """Have local time be that of a zone."""
    before = os.environ.get("TZ")
    try:
        _set(name)
        yield
    finally:
        _set(before)


def _set(name: str | None) -> None:
    if name is None:
        os.environ.pop("TZ", None)
    else:
        os.environ["TZ"] = name
    time.tzset()
