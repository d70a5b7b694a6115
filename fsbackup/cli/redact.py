"""Masks configured secrets in everything that is logged or printed as an error.

No other module puts a secret there. This is the last safeguard, against libraries that do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from fsbackup.config import Config

MASK = "**********"

#: Shorter strings are not masked: they occur inside ordinary words, and are no useful secret.
_MIN_LENGTH = 4
#: Filesystem options that are not secret, and whose values are often parts of paths.
_PUBLIC_OPTIONS = frozenset({"host", "hostname", "port", "user", "username"})

_secrets: set[str] = set()


def register_secrets(config: Config) -> None:
    """Mask every secret of `config` from now on."""
    for backend in config.backends.values():
        for name in type(backend).model_fields:
            _register_setting(getattr(backend, name))


def _register_setting(value: Any) -> None:
    """Register the secrets in the value of a setting: pydantic's secret types, and options with such values."""
    if hasattr(value, "get_secret_value"):
        _register_strings(value.get_secret_value())
    elif isinstance(value, Mapping):
        for name, each in value.items():
            if name not in _PUBLIC_OPTIONS:
                _register_setting(each)


def _register_strings(value: Any) -> None:
    """Register every string in `value`, as it is and as it appears in URLs, reprs and JSON."""
    if isinstance(value, Mapping):
        for each in value.values():
            _register_strings(each)
    elif isinstance(value, list | tuple):
        for each in value:
            _register_strings(each)
    elif isinstance(value, str) and len(value) >= _MIN_LENGTH:
        _secrets.update((value, quote(value, safe=""), repr(value)[1:-1], json.dumps(value)[1:-1]))


def redact(text: str) -> str:
    """Return `text` with every registered secret masked."""
    for secret in sorted(_secrets, key=len, reverse=True):  # a secret may contain a shorter one
        if secret in text:
            text = text.replace(secret, MASK)
    return text
