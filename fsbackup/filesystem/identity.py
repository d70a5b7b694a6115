"""The option `identity`: the paths of key files, as they can be handed to another process."""

from __future__ import annotations

import os
import re
from typing import Any

from fsbackup.errors import ConfigError

#: The private keys that age writes, its plugins' too, and those in armour. Part of one suffices.
_PRIVATE_KEY = re.compile(
    r"AGE-(?:SECRET-KEY|PLUGIN)-(?:[A-Z0-9+._-]+-)?1[02-9AC-HJ-NP-Z]{16}|-----BEGIN ", re.IGNORECASE
)


def portable(given: Any) -> str | list[str] | None:
    """Return the option as text with absolute paths: it is pickled, and read after the directory has changed.

    Raises
    ------
    ConfigError
        When it is a private key itself, which would be in pickles, JSON and task graphs. It is not repeated.
    """
    if given is None:
        return None
    if isinstance(given, str | bytes | os.PathLike):
        return _absolute(given)
    return [_absolute(each) for each in given]


def _absolute(given: str | bytes | os.PathLike[Any]) -> str:
    path = os.fsdecode(given)
    if _PRIVATE_KEY.search(path):
        raise ConfigError(
            "identity: is a private key itself, and must be the path of a file with it: options are in pickles, "
            "JSON and task graphs",
            hint="write it to a file that only you can read (chmod 600), and name that file: identity=PATH",
        )
    return os.path.abspath(os.path.expanduser(path)) if path else path
