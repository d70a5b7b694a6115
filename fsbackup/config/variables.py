"""``${NAME}`` in values, and the settings that may come from the environment without being written at all."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fsbackup.config.problems import Loc, RuleViolation
from fsbackup.redact import hide

#: By backend type: the settings that may be left out, and the variable each is then taken from.
ENVIRONMENT: Mapping[str, Mapping[str, str]] = {
    "local": {"path": "BACKUP_LOCAL_PATH"},
    "r2": {
        "account_id": "R2_ACCOUNT_ID",
        "bucket": "R2_BUCKET_NAME",
        "access_key_id": "R2_ACCESS_KEY_ID",
        "secret_access_key": "R2_SECRET_ACCESS_KEY",
        "session_token": "R2_SESSION_TOKEN",
    },
    "b2": {
        "bucket": "B2_BUCKET_NAME",
        "region": "B2_REGION",
        "access_key_id": "B2_ACCESS_KEY_ID",
        "secret_access_key": "B2_SECRET_ACCESS_KEY",
        "session_token": "B2_SESSION_TOKEN",
    },
}

#: A variable whose value is a secret, in whatever field it is used.
_NAMES_SECRET = re.compile(r"SECRET|PASSW|TOKEN|PRIVATE|ACCESS_KEY|APPLICATION_KEY")
_REFERENCE = re.compile(
    r"\$(?:(?P<dollar>\$)"
    r"|\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>(?:[^${}]|\$\$)*))?\}"
    r"|(?P<wrong>))"
)


def names_in(text: str) -> set[str]:
    """Return the names of all variables that `text`, a whole configuration, may take values from."""
    referenced = {found["name"] for found in _REFERENCE.finditer(text) if found["name"]}
    return referenced.union(*(variables.values() for variables in ENVIRONMENT.values()))


def is_reference(text: str) -> bool:
    """Tell whether `text` is made of variables alone, so that it says nothing of their values."""
    return not _REFERENCE.sub(lambda found: found[0] if found["name"] is None else found["default"] or "", text)


@dataclass
class Expanded:
    """Values with their variables replaced.

    `from_environment` are the settings whose value came from there and must not be shown; `unresolved` those whose
    value could not be found out, so that nothing more need be said of them.
    """

    data: Any = None
    from_environment: set[Loc] = field(default_factory=set)
    unresolved: set[Loc] = field(default_factory=set)
    violations: list[RuleViolation] = field(default_factory=list)


def expand(data: Any, environ: Mapping[str, str]) -> Expanded:
    """Replace the variables in every text value of `data` (not in keys), then add what may be left out."""
    result = Expanded()
    result.data = _Expansion(environ, result).value(data, ())
    _fill_in(result, environ)
    return result


@dataclass
class _Expansion:
    environ: Mapping[str, str]
    result: Expanded

    def value(self, value: Any, loc: Loc) -> Any:
        if isinstance(value, dict):
            return {key: self.value(item, (*loc, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [self.value(item, (*loc, index)) for index, item in enumerate(value)]
        return self._text(value, loc) if isinstance(value, str) and "$" in value else value

    def _text(self, text: str, loc: Loc) -> str:
        return _REFERENCE.sub(lambda found: self._reference(found, loc), text)

    def _reference(self, found: re.Match[str], loc: Loc) -> str:
        if found["dollar"]:
            return "$"
        if found["name"] is None:
            return self._broken(loc, "has a '$' that starts no variable", "write ${NAME}, ${NAME:-default} or $$")
        return self._variable(found["name"], found["default"], loc)

    def _variable(self, name: str, default: str | None, loc: Loc) -> str:
        value = self.environ.get(name)
        if not value and default is not None:  # as in a shell, ":-" also replaces an empty value
            return default.replace("$$", "$")
        if value is None:
            fix = f"set {name}, or write ${{{name}:-default}}"
            return self._broken(loc, f"needs the environment variable {name}, which is not set", fix)
        if _NAMES_SECRET.search(name):
            hide(value)
        self.result.from_environment.add(loc)
        return value

    def _broken(self, loc: Loc, problem: str, fix: str) -> str:
        self.result.unresolved.add(loc)
        self.result.violations.append(RuleViolation(loc, problem, fix))
        return ""


def _fill_in(result: Expanded, environ: Mapping[str, str]) -> None:
    backends = result.data.get("backends") if isinstance(result.data, dict) else None
    for name, backend in backends.items() if isinstance(backends, dict) else ():
        for field_name, variable in environment_of(backend).items():
            value = environ.get(variable)
            if field_name not in backend and f"{field_name}_file" not in backend and value:
                backend[field_name] = value
                result.from_environment.add(("backends", name, field_name))


def environment_of(backend: Any) -> Mapping[str, str]:
    """Return the settings of one backend (as in the file) that may be left out, with their variables."""
    kind = backend.get("type") if isinstance(backend, dict) else None
    return ENVIRONMENT.get(kind.lower(), {}) if isinstance(kind, str) else {}
