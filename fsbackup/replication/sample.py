"""Which objects to verify today, so that `of` daily runs verify each object exactly once. Pure."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime

from fsbackup import clock

_FRACTION = re.compile(r"1/([1-9][0-9]{0,5})")


@dataclass(frozen=True, slots=True)
class Sample:
    """One `of`-th of all keys: those whose SHA-256, modulo `of`, is the day's number modulo `of`.

    Days are days of UTC, numbered from the first of January of year 1. Any `of` consecutive days include each key
    exactly once, whichever other keys come and go. The share of a day without a run comes again `of` days later.
    """

    of: int
    day: int

    def includes(self, key: str) -> bool:
        """Tell whether `key` belongs to this day's share."""
        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
        return int.from_bytes(digest[:8]) % self.of == self.day % self.of

    def __str__(self) -> str:
        return f"1/{self.of}"


def parse_sample(text: str) -> Sample:
    """Return today's share for a text like ``1/30``.

    Raises
    ------
    ValueError
        When `text` is not of this form.
    """
    found = _FRACTION.fullmatch(text)
    if found is None:
        raise ValueError(f"a sample is written as 1/N, for example 1/30, not {text!r}")
    return Sample(int(found[1]), today().toordinal())


def today() -> date:
    """Return the day in UTC."""
    return datetime.fromtimestamp(clock.now(), UTC).date()
