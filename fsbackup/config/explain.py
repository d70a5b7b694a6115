"""pydantic's errors in plain words: what must be so, and what to write instead."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from fsbackup.config.backends import BACKEND_TYPES, RetentionConfig
from fsbackup.config.models import Config, JobConfig, ReplicationConfig, SpoolConfig
from fsbackup.config.postgres import ArchiveRetentionConfig, PostgresConfig
from fsbackup.config.problems import OWN_RULE, Loc, RuleViolation, suggest
from fsbackup.config.sources import CommandConfig, ForEachConfig, ShrinkConfig, SourceConfig
from fsbackup.config.stages import CompressConfig, EncryptConfig
from fsbackup.config.variables import environment_of

_INNER: Mapping[str, type[BaseModel]] = {
    "retention": RetentionConfig,
    "spool": SpoolConfig,
    "source": SourceConfig,
    "shrink": ShrinkConfig,
    "compress": CompressConfig,
    "encrypt": EncryptConfig,
}
_ENTRIES: Mapping[str, type[BaseModel]] = {
    "replication": ReplicationConfig,
    "jobs": JobConfig,
    "postgres": PostgresConfig,
}

_WORDS = {
    "string_type": "must be text, in quotes where it looks like something else",
    "dict_type": "must be a mapping",
    "mapping_type": "must be a mapping",
    "model_type": "must be a mapping of settings",
    "model_attributes_type": "must be a mapping of settings",
    "tuple_type": "must be a list",
    "literal_error": "must be {expected}",
    "too_short": "must have at least one entry",
}
#: Where a mapping or list is meant, the text found instead may be anything, also a secret: it is not quoted.
_STRUCTURE = frozenset({"dict_type", "mapping_type", "model_type", "model_attributes_type", "tuple_type"})


def explain(error: ValidationError, data: Any) -> list[RuleViolation]:
    """Return the mistakes in `data` (a file's values) that pydantic found."""
    details = error.errors(include_url=False, include_input=False)
    return [_violation(one, data) for one in details if not _follows(one, details)]


def find_empty(data: Any) -> list[RuleViolation]:
    """Return the settings that are there and have no value: whatever was meant, it is not the default."""
    return [RuleViolation(loc, "is empty", _example(loc, data)) for loc in _empty(data, ())]


def _empty(data: Any, loc: Loc) -> Iterator[Loc]:
    entries = data.items() if isinstance(data, Mapping) else enumerate(data) if isinstance(data, list) else ()
    for name, value in entries:
        if value is None:
            yield (*loc, name)
        elif name != "options":  # of another library
            yield from _empty(value, (*loc, name))


def _follows(error: ErrorDetails, others: Sequence[ErrorDetails]) -> bool:
    """Tell whether an error only follows from another one, of a field or an entry."""
    if error["type"] == "default_factory_not_called":
        return True
    within = len(error["loc"])
    return error["type"] == "too_short" and any(
        len(each["loc"]) > within and each["loc"][:within] == error["loc"] for each in others
    )


def _violation(error: ErrorDetails, data: Any) -> RuleViolation:
    kind, context = error["type"], error.get("ctx", {})
    loc = _file_loc(error["loc"])
    if kind == "missing":
        return RuleViolation(loc, "is missing", _example(loc, data))
    if kind == "extra_forbidden":
        return RuleViolation(loc, "is not a setting here", suggest(str(loc[-1]), _settings(loc[:-1], data)))
    if kind.startswith("union_tag"):
        return _unknown_type(loc, data)
    problem = context["problem"] if kind == OWN_RULE else _WORDS.get(kind, "is not valid").format_map(context)
    if value_at(data, loc) is None and problem.startswith("must"):
        return RuleViolation(loc, "is empty", _example(loc, data))
    if kind in _STRUCTURE:
        return RuleViolation(loc, problem, _example(loc, data))
    return RuleViolation(loc, problem, context.get("fix", ""), shows_value=True)


def _file_loc(loc: Loc) -> Loc:
    """Return pydantic's location as the file has it: without the backend's type, tags of unions and the like."""
    if loc[:1] == ("backends",) and len(loc) > 2:
        loc = loc[:2] + loc[3:] if loc[2] in BACKEND_TYPES else loc
    loc = tuple(part for part in loc if not str(part).startswith("<"))
    return loc[:-1] if loc[-1:] == ("[key]",) else loc


def value_at(data: Any, loc: Loc) -> Any:
    """Return the value at `loc`, None where there is none."""
    for part in loc:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return None
    return data


def _unknown_type(loc: Loc, data: Any) -> RuleViolation:
    kind = value_at(data, (*loc, "type"))
    fix = ", ".join(BACKEND_TYPES)
    if kind is None:
        return RuleViolation((*loc, "type"), "is missing", f"one of {fix}")
    return RuleViolation((*loc, "type"), "must be the type of a backend", f"one of {fix}", shows_value=True)


def _example(loc: Loc, data: Any) -> str:
    name = str(loc[-1])
    variable = environment_of(value_at(data, loc[:-1])).get(name)
    if variable:
        return f"set {variable}, or write it here"
    model = _model(loc[:-1], data)
    field = model.model_fields.get(name) if model is not None else None
    return f"for example {name}: {_as_yaml(field.examples[0])}" if field is not None and field.examples else ""


def _as_yaml(example: Any) -> str:
    if isinstance(example, Mapping):
        return "{" + ", ".join(f"{key}: {_as_yaml(value)}" for key, value in example.items()) + "}"
    return f"[{', '.join(map(_as_yaml, example))}]" if isinstance(example, list) else str(example)


def _settings(loc: Loc, data: Any) -> list[str]:
    model = _model(loc, data)
    return list(model.model_fields) if model is not None else []


def _model(loc: Loc, data: Any) -> type[BaseModel] | None:
    """Return the model of the settings at `loc`."""
    if not loc:
        return Config
    if len(loc) != 2:
        return _inner(loc, data)
    if loc[0] == "backends":
        return BACKEND_TYPES.get(str(value_at(data, (*loc, "type"))).lower())
    return _ENTRIES.get(str(loc[0]))


def _inner(loc: Loc, data: Any) -> type[BaseModel] | None:
    """Return the model of settings inside an entry."""
    if loc[2:] == ("source", "for_each"):
        return ForEachConfig
    if loc[2:] == ("source",) and "command" in (value_at(data, loc) or ()):
        return CommandConfig
    if loc[0] == "postgres" and loc[2:] == ("retention",):
        return ArchiveRetentionConfig
    return _INNER.get(str(loc[2])) if len(loc) == 3 else None
