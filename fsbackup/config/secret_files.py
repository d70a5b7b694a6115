"""Secrets in files of their own: ``secret_access_key_file: ~/.r2-secret`` instead of the secret itself."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fsbackup.config.problems import Loc, RuleViolation
from fsbackup.config.variables import Expanded

#: The settings that may be given as a file, whose setting has the same name and ``_file``.
FROM_FILE = ("access_key_id", "secret_access_key", "session_token")
#: Bytes that are read: a token may take two thousand.
_LONGEST = 1 << 16


def read_secret_files(result: Expanded, directory: Path, environ: Mapping[str, str]) -> None:
    """Set each secret of a backend that is given as a file to that file's first line."""
    for name, setting, value in _given(result.data):
        if _is_path(value):
            _read_one(result, ("backends", name), setting, _expanded(value, directory, environ))
        else:  # its own rule says what is wrong
            result.unresolved.add(("backends", name, setting))


def secret_files(data: Any, directory: Path, environ: Mapping[str, str]) -> Iterator[tuple[str, str, Path]]:
    """Yield backend, setting and path of each secret that is given as a file in `data`, a whole configuration."""
    for name, setting, value in _given(data):
        if _is_path(value):
            yield name, setting, _expanded(value, directory, environ)


def _given(data: Any) -> Iterator[tuple[str, str, Any]]:
    """Yield backend, setting and the value of each `setting` with ``_file``."""
    backends = data.get("backends") if isinstance(data, dict) else None
    for name, backend in backends.items() if isinstance(backends, dict) else ():
        for setting in FROM_FILE if isinstance(backend, dict) else ():
            if f"{setting}_file" in backend:
                yield name, setting, backend[f"{setting}_file"]


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and value != "" and value.isprintable()


def _read_one(result: Expanded, backend: Loc, setting: str, path: Path) -> None:
    settings, loc = result.data["backends"][backend[1]], (*backend, f"{setting}_file")
    if setting in settings:
        result.violations.append(RuleViolation(loc, f"is given, and {setting} too", "give one of the two"))
        return
    settings[setting] = ""
    result.from_environment.add((*backend, setting))
    try:
        with open(path, encoding="utf-8") as file:
            settings[setting] = file.readline(_LONGEST).strip()
        problem = "" if settings[setting] else "has an empty first line"
    except (OSError, ValueError) as error:
        problem = f"cannot be read: {getattr(error, 'strerror', None) or 'it is not UTF-8 text'}"
    if problem:
        result.unresolved.add((*backend, setting))
        result.violations.append(
            RuleViolation(loc, f"{path} {problem}", f"put the {setting} on the first line of a file")
        )


def _expanded(path: str, directory: Path, environ: Mapping[str, str]) -> Path:
    if path == "~" or path.startswith("~/"):
        return Path((environ.get("HOME") or str(Path.home())) + path[1:])
    return Path(os.path.join(directory, path))
