"""What a configuration says at one moment, so that whoever keeps something open by it knows when it says another.

`take` resolves what was given (a path, nothing, values, a `Config`), reads the file and the variables that it may
use, and makes a fingerprint of it all. Two snapshots with one fingerprint open the same backends in the same way.

A snapshot has secrets in memory and nowhere else: its repr has the fingerprint, which is keyed with random bytes
of this process, and its pickle the path of the file, or values whose secrets are ``${NAME}``.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from fsbackup.config.advice import literal_secrets
from fsbackup.config.document import read_document
from fsbackup.config.loading import PLACE, find_config, load_text, load_values, read_config
from fsbackup.config.models import Config
from fsbackup.config.secret_files import FROM_FILE, secret_files
from fsbackup.config.variables import expand, names_in
from fsbackup.errors import ConfigError
from fsbackup.lazy import cached_property
from fsbackup.redact import misplaced_secrets
from fsbackup.stages.age import IDENTITY_VARIABLE

#: What a configuration can be given as; None: the file that `find_config` finds.
ConfigLike = str | os.PathLike[str] | Mapping[str, Any] | Config

#: Without it, who has a fingerprint could try out which secret gives it.
_KEY = os.urandom(32)
#: What errors call values that come from no file.
_VALUES = "storage_options['config']"
#: The settings of backends that are paths.
_PATHS = ("path", "ca_bundle", *(f"{name}_file" for name in FROM_FILE))


@dataclass(frozen=True, eq=False, repr=False)
class Snapshot:
    """A configuration at one moment; see the module. Made by `take`.

    Parameters
    ----------
    origin
        The absolute path of its file, or its values.
    content
        The text of the file, or the values as JSON.
    environ
        The variables that it may use.
    directory
        Where relative paths in values start.
    """

    origin: str | dict[str, Any] | Config
    content: str
    environ: Mapping[str, str]
    directory: Path

    @property
    def name(self) -> str:
        """What people call it: the path of its file, or where its values were given."""
        return self.origin if isinstance(self.origin, str) else _VALUES

    @cached_property
    def fingerprint(self) -> str:
        """A text that differs when the file, its content, a variable or a secret in a file of its own does."""
        name = self.origin if isinstance(self.origin, str) else str(self.directory)
        parts = [name, self.content, json.dumps(sorted(self.environ.items())), *self._secret_files()]
        data = json.dumps(parts).encode()
        return hashlib.blake2b(data, key=_KEY, digest_size=16).hexdigest()

    @cached_property
    def config(self) -> Config:
        """The configuration.

        Raises
        ------
        ConfigError
            With every mistake in it.
        """
        if isinstance(self.origin, Config):
            return self.origin
        if isinstance(self.origin, str):
            return load_text(self.content, self.origin, self.environ)
        return load_values(self.origin, _VALUES, self.environ, self.directory)

    @cached_property
    def identity(self) -> str:
        """A text without secrets that is the same in every process where the configuration says the same."""
        return f"{self.name} {self.config.show()}"

    @property
    def option(self) -> str | dict[str, Any] | Snapshot:
        """What `take` takes in another process: the path or the values, and this object where they hold secrets.

        That object is pickled by nobody; see `__reduce__`.
        """
        if isinstance(self.origin, Config) or (isinstance(self.origin, dict) and self._literal_secrets()):
            return self
        return self.origin

    def again(self) -> Snapshot:
        """Return what the same file or values say now."""
        return take(self.origin)

    def _secret_files(self) -> list[str]:
        """Return the content of each file with a secret; most configurations have none."""
        if "_file" not in self.content or isinstance(self.origin, Config):
            return []
        from_file = isinstance(self.origin, str)
        data = expand(_values(self.content) if from_file else self.origin, self.environ).data
        where = Path(self.name).parent if from_file else self.directory
        return [_first_bytes(path) for _, _, path in secret_files(data, where, self.environ)]

    def _literal_secrets(self) -> list[str]:
        """Return the settings whose secret stands in the values themselves."""
        assert isinstance(self.origin, dict)
        _ = self.config  # only values that are valid have the places to look at
        backends = self.origin["backends"].items()
        misplaced = [
            f"backends.{name}.{place}" for name, each in backends for place in PLACE
            if misplaced_secrets(each.get(place))
        ]  # fmt: skip
        return [*literal_secrets(self.origin), *misplaced]

    def __reduce__(self) -> Any:
        if self.option is not self:
            return take, (self.origin,)
        if isinstance(self.origin, Config):
            reason = "a Config has its variables and secrets resolved"
        else:
            reason = f"these hold a secret: {', '.join(self._literal_secrets())}"
        raise ConfigError(
            f"this configuration does not leave the process, because {reason}",
            hint="give the path of a configuration file, or a mapping with ${NAME} in place of each secret",
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {self.fingerprint})"


def take(given: ConfigLike | Snapshot | None = None) -> Snapshot:
    """Return a snapshot of a configuration.

    Parameters
    ----------
    given
        The path of a file, or None for the one that `find_config` finds; its values, as in a file (paths in them
        start at the current directory); a `Config`.

    Raises
    ------
    ConfigError
        When there is no such file, or it cannot be read. What it says is checked by `Snapshot.config`.
    """
    if isinstance(given, Snapshot):
        return given
    if isinstance(given, Config):
        return Snapshot(given, _as_json(given.model_dump()), {}, Path.cwd())
    if isinstance(given, Mapping):
        values = _absolute(_plain(given), str(Path.cwd()))
        content = _as_json(values)
        return Snapshot(values, content, _used(content), Path.cwd())
    path = os.path.abspath(find_config(os.fspath(given) if given is not None else None))
    text = read_config(path)
    return Snapshot(path, text, _used(text), Path(path).parent)


def _used(content: str) -> dict[str, str]:
    names = {*names_in(content), "HOME", IDENTITY_VARIABLE}
    return {name: value for name in names if (value := os.environ.get(name)) is not None}


@lru_cache(maxsize=16)
def _values(text: str) -> Any:
    return read_document(text).data


def _first_bytes(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return file.read(1 << 16).decode("latin-1")
    except (OSError, ValueError) as error:
        return f"{type(error).__name__}"


def _plain(value: Any) -> Any:
    """Return a copy of values as a file has them: with plain texts for paths."""
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _absolute(values: dict[str, Any], directory: str) -> dict[str, Any]:
    """Make the relative paths in `values` absolute: another process has another current directory."""
    settings: list[tuple[dict[str, Any], tuple[str, ...]]] = [(values, ("state_dir",))]
    settings += [(backend, _PATHS) for backend in _mappings(values.get("backends"))]
    spools = [each.get("spool") for each in _mappings(values.get("replication"))]
    settings += [(spool, ("dir",)) for spool in spools if isinstance(spool, dict)]
    for mapping, names in settings:
        for name in names:
            path = mapping.get(name)
            if isinstance(path, str) and path and path[0] not in "/~$":
                mapping[name] = os.path.join(directory.replace("$", "$$"), path)
    return values


def _mappings(values: Any) -> list[dict[str, Any]]:
    return [each for each in values.values() if isinstance(each, dict)] if isinstance(values, dict) else []


def _as_json(values: Any) -> str:
    return json.dumps(values, sort_keys=True, default=_revealed)


def _revealed(value: Any) -> Any:
    return value.get_secret_value() if hasattr(value, "get_secret_value") else str(value)
