"""The last line of defence: no configured secret gets into anything that is logged or printed as an error.

Nothing below is meant to put one there. This holds when a library that we do not write does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from fsbackup.config import Config

MASK = "**********"

#: A shorter text is part of half the words there are, and no secret that this could save.
_SHORTEST = 4
#: Options of a filesystem that are not secret, and often words that paths are made of.
_PLAIN_OPTIONS = frozenset({"host", "hostname", "port", "user", "username"})

_secrets: set[str] = set()


def learn(config: Config) -> None:
    """Mask every secret of `config` from now on."""
    for backend in config.backends.values():
        for name in type(backend).model_fields:
            _learn(getattr(backend, name))


def _learn(value: Any) -> None:
    """Learn the secrets among the settings; what is not marked as one is none."""
    if hasattr(value, "get_secret_value"):
        _hide(value.get_secret_value())
    elif isinstance(value, Mapping):
        for name, each in value.items():
            if name not in _PLAIN_OPTIONS:
                _learn(each)


def _hide(value: Any) -> None:
    if isinstance(value, Mapping):
        for each in value.values():
            _hide(each)
    elif isinstance(value, list | tuple):
        for each in value:
            _hide(each)
    elif isinstance(value, str) and len(value) >= _SHORTEST:
        _secrets.update((value, quote(value, safe=""), repr(value)[1:-1], json.dumps(value)[1:-1]))


def redact(text: str) -> str:
    """Return `text` with every known secret masked."""
    for secret in sorted(_secrets, key=len, reverse=True):  # one may be part of another
        if secret in text:
            text = text.replace(secret, MASK)
    return text
