"""What one process notes for the next of the places that are away: one small file in the state directory.

It has a hash of what each place is, and no credential. It is replaced atomically, is only a hint, and is read by
processes that begin later; a note that is damaged, old, or not fsbackup's is ignored.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from fsbackup.state import read_json, write_json

#: The file, and its format.
NAME, _FORMAT = "away.json", 1
#: How long what is noted counts without another try: this multiple of the seconds that the failed call took, and
#: at least this many seconds.
LIFETIME_FACTOR, LIFETIME = 4.0, 30.0
#: Most places of a note, seconds of a failed call that are believed, and letters of a text.
_MAX_PLACES, _MAX_SECONDS, _MAX_TEXT = 100, 900.0, 2000


@dataclass(frozen=True, slots=True)
class NotedOutage:
    """What is noted of one place.

    Parameters
    ----------
    since, tried
        When it was found away, and when it was tried last, in epoch seconds.
    seconds
        How long the last call took that failed.
    message, hint
        Of its error; an empty hint is none.
    """

    since: float
    tried: float
    seconds: float
    message: str
    hint: str

    @property
    def lifetime(self) -> float:
        """Seconds after the last try for which it counts."""
        return lifetime(self.seconds)

    @property
    def counts(self) -> bool:
        """Whether it counts now."""
        return 0 <= time.time() - self.tried <= self.lifetime and 0 <= self.since <= self.tried


def lifetime(seconds: float) -> float:
    """Return how long a failure counts that took so many seconds."""
    return max(LIFETIME, LIFETIME_FACTOR * min(max(seconds, 0.0), _MAX_SECONDS))


@lru_cache(maxsize=256)
def place_of(identity: str) -> str:
    """Return the hash under which a place is noted."""
    return hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def read(path: Path) -> dict[str, NotedOutage]:
    """Return what is noted and counts, by place."""
    found = {place: _parse(entry) for place, entry in _entries(path).items()}
    return {place: each for place, each in found.items() if each is not None and each.counts}


def write(path: Path, known: Mapping[str, NotedOutage | None]) -> None:
    """Note what is known of places; None of one that is not away. What is noted of others stays as it is."""
    before = _entries(path)
    others = {place: entry for place, entry in before.items() if place not in known}
    own = {place: _dump(each) for place, each in known.items() if each is not None}
    noted = dict(list({**others, **own}.items())[-_MAX_PLACES:])
    if noted != before:
        write_json(path, {"format": _FORMAT, "away": noted})


def _entries(path: Path) -> dict[str, Any]:
    noted = read_json(path)
    entries = noted.get("away") if isinstance(noted, dict) and noted.get("format") == _FORMAT else None
    return entries if isinstance(entries, dict) else {}


def _dump(outage: NotedOutage) -> dict[str, Any]:
    return {**asdict(outage), "message": outage.message[:_MAX_TEXT], "hint": outage.hint[:_MAX_TEXT]}


def _parse(entry: object) -> NotedOutage | None:
    match entry:
        case {
            "since": int() | float() as since,
            "tried": int() | float() as tried,
            "seconds": int() | float() as seconds,
            "message": str() as message,
            "hint": str() as hint,
        }:
            return NotedOutage(since, tried, seconds, message[:_MAX_TEXT], hint[:_MAX_TEXT])
    return None
