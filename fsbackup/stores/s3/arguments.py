"""Arguments that may come from environment variables; one error names all missing ones."""

from __future__ import annotations

import os
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from fsbackup.errors import ConfigError


class Argument(NamedTuple):
    """The value passed by the caller, and the environment variable used without one."""

    value: str | None
    variable: str | None = None


def resolve(backend: str, **arguments: Argument) -> dict[str, Any]:
    """Return the value of each argument, from its environment variable where the caller passed none.

    Raises
    ------
    ConfigError
        When arguments have no value; names all of them and their variables.
    """
    values = {name: _value(argument) for name, argument in arguments.items()}
    missing = [_label(name, arguments[name]) for name, value in values.items() if not value]
    if missing:
        raise ConfigError(
            f"missing: {', '.join(missing)}", backend=backend, hint="pass the arguments or set the variables"
        )
    return {name: value for name, value in values.items() if value}


def _value(argument: Argument) -> str | None:
    if argument.value is not None or argument.variable is None:
        return argument.value
    return os.environ.get(argument.variable)


def _label(name: str, argument: Argument) -> str:
    return f"{name} ({argument.variable})" if argument.variable else name


def check_endpoint(backend: str, url: str | None) -> str | None:
    """Return `url` if it is a plain web address; it is shown to people, so it must not contain a password."""
    parts = urlsplit(url or "https://any")
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise ConfigError(
            "endpoint_url must be http(s)://host[:port], without a user or password", backend=backend
        )
    return url


def check_positive(backend: str, **numbers: float) -> None:
    """Raise `ConfigError` for a number that is not above zero."""
    for name, value in numbers.items():
        if value <= 0:
            raise ConfigError(f"{name} must be above zero, not {value:g}", backend=backend)
