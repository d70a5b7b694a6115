"""From a file to a `Config`, or to one error that lists everything wrong with it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fsbackup.config.advice import warn
from fsbackup.config.document import MAX_CHARACTERS, Document, read_document
from fsbackup.config.explain import explain, find_empty, value_at
from fsbackup.config.models import Config
from fsbackup.config.problems import InvalidConfigError, Loc, Mistake, RuleViolation, dotted
from fsbackup.config.references import check_references
from fsbackup.config.secret_files import read_secret_files
from fsbackup.config.variables import Expanded, expand
from fsbackup.errors import ConfigError
from fsbackup.redact import hide, hide_misplaced, looks_secret, redact

#: The settings whose value is never quoted, wherever it came from.
_NEVER_SHOWN = frozenset(
    {"access_key_id", "secret_access_key", "session_token", "options", "url", "endpoint_url", "conninfo"}
)
_SECRET = frozenset({"access_key_id", "secret_access_key", "session_token", "options"})
#: Where a secret is put by mistake, and would be part of every address.
PLACE = frozenset({"bucket", "region", "account_id", "url", "endpoint_url"})
_LONGEST_QUOTE = 60


def load_config(path: str | os.PathLike[str], *, environ: Mapping[str, str] | None = None) -> Config:
    """Read a configuration file.

    Parameters
    ----------
    path
        The YAML file. Relative paths in it start at its own directory.
    environ
        Where ``${NAME}`` and settings that were left out are looked up; the process's environment by default.

    Raises
    ------
    InvalidConfigError
        A `ConfigError` that lists every mistake as ``file:line: field: what is wrong (what is right)``.

    Notes
    -----
    A file that other users can read and that has secrets in it, and an address without TLS outside of private
    networks, are logged as warnings.
    """
    source = os.fspath(path)
    return load_text(read_config(source), source, os.environ if environ is None else environ)


def load_text(text: str, source: str, environ: Mapping[str, str]) -> Config:
    """Return the configuration that the file `source` holds, whose `text` was read before; see `load_config`."""
    directory = Path(source).expanduser().parent.resolve()
    config, data = _parse(read_document(text), source, environ, directory)
    warn(source, data, config)
    return config


def load_values(values: Any, source: str, environ: Mapping[str, str], directory: Path) -> Config:
    """Return the configuration that plain `values` are, as a YAML file with them would be read.

    `source` is what errors call them, and relative paths in them start at `directory`.
    """
    return _parse(Document(values), source, environ, directory)[0]


def parse_config(
    text: str,
    *,
    source: str = "<string>",
    environ: Mapping[str, str] | None = None,
    directory: str | os.PathLike[str] | None = None,
) -> Config:
    """Read a configuration from text.

    Parameters
    ----------
    text
        YAML.
    source
        What errors call the text.
    environ
        Where ``${NAME}`` and settings that were left out are looked up; the process's environment by default.
    directory
        Where relative paths start; the current directory by default.

    Raises
    ------
    InvalidConfigError
        As `load_config` does.
    """
    where = Path.cwd() if directory is None else Path(directory)
    return _parse(read_document(text), source, os.environ if environ is None else environ, where)[0]


def _parse(document: Document, source: str, environ: Mapping[str, str], where: Path) -> tuple[Config, Any]:
    """Return the configuration, and the values as they are written in the text."""
    expanded = expand(document.data, environ)
    read_secret_files(expanded, where, environ)
    _hide_secrets(expanded.data)
    violations = [*document.violations, *expanded.violations]
    config = None
    if document.usable:
        config, problem = _validate(expanded.data, environ, where)
        violations += _independent(problem, expanded.unresolved | document.unreadable)
    if config is None or violations:
        # Raised here, outside every `except`: pydantic's error underneath would hold the values.
        raise InvalidConfigError(_mistakes(violations, source, document, expanded))
    return config, document.data


def _hide_secrets(data: Any) -> None:
    """Have the secrets of all backends masked wherever they are shown, before anything can go wrong with them."""
    backends = data.get("backends") if isinstance(data, dict) else None
    for backend in backends.values() if isinstance(backends, dict) else ():
        for name, value in backend.items() if isinstance(backend, dict) else ():
            if name in _SECRET:
                hide(value)
            elif name in PLACE:
                hide_misplaced(value)


def read_config(source: str) -> str:
    """Return the text of a configuration file; `InvalidConfigError` where it cannot be read."""
    reason = ""
    try:
        with open(Path(source).expanduser(), encoding="utf-8-sig") as file:
            return file.read(MAX_CHARACTERS + 1)
    except UnicodeDecodeError:
        reason = "is not UTF-8 text"
    except (OSError, ValueError) as error:
        reason = f"cannot be read: {getattr(error, 'strerror', None) or error}"
    raise InvalidConfigError([Mistake(source, None, "", reason)])


def _validate(data: Any, environ: Mapping[str, str], directory: Path) -> tuple[Config | None, list[RuleViolation]]:
    violations = check_references(data)
    context = {"directory": directory.absolute(), "home": environ.get("HOME")}
    config = None
    try:
        config = Config.model_validate(data, context=context)
    except ValidationError as error:
        # An error of the whole is about references, which were found above with their places.
        violations += [found for found in explain(error, data) if found.loc or not violations]
    known = {found.loc for found in violations}
    return config, violations + [found for found in find_empty(data) if found.loc not in known]


def _independent(violations: Iterable[RuleViolation], broken: set[Loc]) -> list[RuleViolation]:
    """Return the findings that do not merely follow from a value that could not be found out."""
    return [
        found
        for found in violations
        if not any(found.loc[:length] in broken for length in range(len(found.loc) + 1))
    ]


@dataclass
class _Quotes:
    """What may be quoted in a message: short plain values that stand in the file itself and cannot be secret."""

    expanded: Expanded

    def of(self, loc: Loc) -> str:
        value = value_at(self.expanded.data, loc)
        if loc in self.expanded.from_environment or not _NEVER_SHOWN.isdisjoint(loc):
            return ""
        if value in (None, "") or isinstance(value, dict | list):
            return ""
        if isinstance(value, str) and looks_secret(value):
            return ""
        text = str(value).lower() if isinstance(value, bool) else repr(value)
        return f", not {text}" if len(text) <= _LONGEST_QUOTE else ""


def _mistakes(
    violations: Iterable[RuleViolation], source: str, document: Document, expanded: Expanded
) -> list[Mistake]:
    quotes = _Quotes(expanded)
    problems = []
    for found in violations:
        quote = quotes.of(found.loc) if found.shows_value and found.problem.startswith("must") else ""
        message = f"{found.problem}{quote}" + (f" ({found.fix})" if found.fix else "")
        problems.append(
            Mistake(source, found.line or document.line(found.loc), dotted(found.loc), redact(message))
        )
    return sorted(problems, key=lambda problem: problem.line or 0)


def find_config(explicit: str | None = None, environ: Mapping[str, str] | None = None) -> Path:
    """Return the configuration file to use.

    `explicit` (what ``-c`` gave), else ``$FSBACKUP_CONFIG``, else the first that exists of ``./fsbackup.yaml``,
    ``$XDG_CONFIG_HOME/fsbackup/config.yaml`` (``~/.config`` by default) and ``/etc/fsbackup/config.yaml``.

    Raises
    ------
    ConfigError
        When there is none, with the places that were looked at; or when the one that was named is missing.
    """
    environ = os.environ if environ is None else environ
    named = explicit or environ.get("FSBACKUP_CONFIG")
    candidates = [Path(named).expanduser()] if named else _default_paths(environ)
    for candidate in candidates:
        if candidate.exists():
            return candidate
    if named:
        who = "" if explicit else " ($FSBACKUP_CONFIG)"
        raise ConfigError(f"there is no configuration file {named}{who}")
    looked = ", ".join(map(str, candidates))
    raise ConfigError(f"no configuration file; looked for {looked}", hint="name one with -c or $FSBACKUP_CONFIG")


def _default_paths(environ: Mapping[str, str]) -> list[Path]:
    home = Path(environ.get("HOME") or Path.home())
    personal = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
    return [Path("fsbackup.yaml"), personal / "fsbackup/config.yaml", Path("/etc/fsbackup/config.yaml")]
