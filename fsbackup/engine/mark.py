"""What the marker of a backend says, and how it is written; `fsbackup.engine.marker` says what for."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from fsbackup import __version__
from fsbackup.keys import in_prefix

#: The highest format of a marker that this version writes again.
_FORMAT = 1
#: Filled prefixes that a marker names; the oldest ones are forgotten first, which costs another repair.
_MOST_FILLED = 100


@dataclass(frozen=True, slots=True)
class Mark:
    """A marker that is there; without fields it cannot be read, which still shows that a backend is there."""

    fields: Mapping[str, Any]

    @classmethod
    def new(cls, *, filling: bool) -> Mark:
        """Return a marker with an id of its own."""
        fields = {
            "format": _FORMAT,
            "kind": "backend",
            "id": secrets.token_hex(16),
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "fsbackup_version": __version__,
        }
        return cls({**fields, "filling": True} if filling else fields)

    @classmethod
    def load(cls, data: bytes) -> Mark:
        """Return the marker in `data`, without fields where it cannot be read."""
        try:
            fields = json.loads(data)
        except (ValueError, RecursionError):
            fields = None
        return cls(fields if isinstance(fields, dict) else {})

    def dump(self) -> bytes:
        """Return the marker as the JSON that a backend stores."""
        return json.dumps(dict(self.fields), separators=(",", ":")).encode("ascii")

    @property
    def id(self) -> str | None:
        """The random id of the backend, None when the marker cannot be read."""
        found = self.fields.get("id")
        return found if isinstance(found, str) else None

    @property
    def is_filling(self) -> bool:
        """Whether the backend was accepted empty and has not been filled completely yet."""
        return self.fields.get("filling") is True and self.fields.get("format") == _FORMAT

    @property
    def filled(self) -> tuple[str, ...]:
        """The prefixes at or below which a backend that is filling has been filled."""
        found = self.fields.get("filled")
        return tuple(each for each in found if isinstance(each, str)) if isinstance(found, list) else ()

    def is_filled(self, prefix: str) -> bool:
        """Tell whether what it lacks of the key or prefix `prefix` is not there because it was not filled."""
        return not self.is_filling or any(in_prefix(prefix, each) for each in self.filled)

    def fill(self, prefix: str) -> Mark:
        """Return the marker after all at or below `prefix` has been filled; with an empty one that is all."""
        kept = [each for each in self.filled if prefix and not in_prefix(each, prefix)]
        filled = [*kept, prefix][-_MOST_FILLED:]
        rest = {name: value for name, value in self.fields.items() if name not in ("filling", "filled")}
        return Mark({**rest, "filling": True, "filled": filled} if prefix else rest)
