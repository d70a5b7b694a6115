"""The kinds of values a setting can have, each with its reading, its writing, and its rule in plain words."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PlainSerializer,
    SecretStr,
    ValidationInfo,
    WithJsonSchema,
)

from fsbackup.config.problems import rule_error
from fsbackup.config.units import MAX_SECONDS, format_duration, format_size, parse_duration, parse_size
from fsbackup.keys import check_prefix
from fsbackup.redact import redact
from fsbackup.sizing import GIB, MIN_PART_SIZE

_DURATION_HELP = "a whole number and a unit: 90s, 15m, 26h, 30d, 2w, 1y"
_SIZE_HELP = "bytes, or a whole number and a unit: 8MiB, 64MB, 1GiB"
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_VARIABLE = {"type": "string", "pattern": r"\$\{"}


class Model(BaseModel):
    """What all parts of a configuration share: no unknown settings, no changes, no secrets in what is printed."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, defer_build=True)

    def __repr__(self) -> str:
        return redact(super().__repr__())

    def __str__(self) -> str:
        return redact(super().__str__())

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(
            f"{type(self).__name__} may hold secrets and is not pickled: "
            "send the path of the file instead, and load_config it there"
        )


def schema(*kinds: dict[str, Any]) -> WithJsonSchema:
    """Return the JSON Schema of a value that is of one of these kinds, or a variable."""
    return WithJsonSchema({"anyOf": [*kinds, _VARIABLE]})


def _text(value: str) -> str:
    if not value:
        raise rule_error("must not be empty")
    if _CONTROL.search(value):
        raise rule_error("must be one line without control characters")
    return value


def matching(pattern: str, problem: str, fix: str = "") -> AfterValidator:
    """Return a rule for text that must match the whole of `pattern`; `problem` and `fix` say so in words."""
    compiled = re.compile(pattern)

    def check(value: str) -> str:
        if not compiled.fullmatch(value):
            raise rule_error(problem, fix)
        return value

    return AfterValidator(check)


def _credential(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if text != text.strip():
        raise rule_error("must not have spaces or line breaks around it")
    _text(text)
    return value


def _whole(value: Any) -> int:
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}", value):
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise rule_error("must be a whole number")


def _flag(value: Any) -> bool:
    words = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
    found = words.get(str(value).lower())
    if found is None:
        raise rule_error("must be true or false")
    return found


def _duration(value: Any) -> timedelta:
    try:
        duration = value if isinstance(value, timedelta) else parse_duration(value)
    except (TypeError, ValueError):
        raise rule_error("must be a duration", _DURATION_HELP) from None
    if duration <= timedelta():
        raise rule_error("must be longer than nothing")
    return duration


def _seconds(value: Any) -> float:
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,9})?", value):
        value = float(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not 0 < value <= MAX_SECONDS:
            raise rule_error("must be longer than nothing", f"seconds, or {_DURATION_HELP}")
        return float(value)
    return _duration(value).total_seconds()


def _size(value: Any) -> int:
    try:
        if isinstance(value, bool):
            raise ValueError("a boolean is an int to Python")
        return parse_size(str(value) if isinstance(value, int) else value)
    except (TypeError, ValueError):
        raise rule_error("must be a size", _SIZE_HELP) from None


def between(least: int, most: int | None = None) -> AfterValidator:
    """Return a rule for sizes: at least `least` and, when given, at most `most` bytes."""

    def check(value: int) -> int:
        if value < least:
            raise rule_error(f"must be at least {format_size(least)}")
        if most is not None and value > most:
            raise rule_error(f"must be at most {format_size(most)}")
        return value

    return AfterValidator(check)


def at_least(least: int, most: int | None = None) -> AfterValidator:
    """Return a rule for whole numbers: at least `least` and, when given, at most `most`."""

    def check(value: int) -> int:
        if value < least:
            raise rule_error(f"must be at least {least}")
        if most is not None and value > most:
            raise rule_error(f"must be at most {most}")
        return value

    return AfterValidator(check)


def _path(value: str, info: ValidationInfo) -> str:
    _text(value)
    context = info.context or {}
    home = context.get("home")
    if home and (value == "~" or value.startswith("~/")):
        value = home + value[1:]
    directory = context.get("directory") or Path.cwd()
    return os.path.normpath(os.path.join(directory, os.path.expanduser(value)))


def _source_path(value: str, info: ValidationInfo) -> str:
    path = _path(value, info)
    # The slash says that many files are meant, which a job's destination is checked against.
    is_directory = value == "~" or value.rpartition("/")[2] in ("", ".", "..")
    return f"{path}/" if is_directory and path != "/" else path


def _prefix(value: str) -> str:
    try:
        return check_prefix(value).removesuffix("/")
    except ValueError as error:
        key = value.removesuffix("/")
        reason = str(error).removeprefix(f"key {key!r} cannot be used: ")
        raise rule_error("must be like a key", reason) from None


def _without_password(value: str) -> str:
    if "?" in value or "#" in value:
        raise rule_error("must not have a part after '?' or '#'")
    if ":" in value.partition("://")[2].rpartition("@")[0]:
        raise rule_error("must not hold a password", "give it apart from the URL, as ${NAME}")
    return value


def _whole_schema(least: int, most: int | None = None) -> WithJsonSchema:
    return schema({"type": "integer", "minimum": least, **({} if most is None else {"maximum": most})})


_SIZE_SCHEMA = schema({"type": "integer", "minimum": 0}, {"type": "string", "pattern": "^[0-9]+ *[A-Za-z]*$"})
_duration_pattern = {"type": "string", "pattern": "^[0-9]+ *[smhdwy]$"}


def _json(write: Callable[[Any], str]) -> PlainSerializer:
    return PlainSerializer(write, return_type=str, when_used="json")


def _write_seconds(seconds: float) -> str:
    return format_duration(timedelta(seconds=seconds))


#: One line of text, not empty.
Text = Annotated[str, AfterValidator(_text)]
#: The name of a backend, set or job: it is part of URLs, logs and commands.
Name = Annotated[
    str, matching(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", "must be a name", "letters, digits, '-', '_' and '.'")
]
Credential = Annotated[SecretStr, AfterValidator(_credential)]
Flag = Annotated[bool, BeforeValidator(_flag), schema({"type": "boolean"})]
#: A whole number from 0, and one from 1.
Count = Annotated[int, at_least(0), BeforeValidator(_whole), _whole_schema(0)]
PositiveCount = Annotated[int, at_least(1), BeforeValidator(_whole), _whole_schema(1)]
#: So many that work at once: each takes a thread, connections and memory.
Workers = Annotated[int, at_least(1, 64), BeforeValidator(_whole), _whole_schema(1, 64)]
#: A duration whose unit must be written.
Duration = Annotated[timedelta, BeforeValidator(_duration), _json(format_duration), schema(_duration_pattern)]
#: Seconds; a bare number is one of seconds.
Seconds = Annotated[
    float,
    BeforeValidator(_seconds),
    _json(_write_seconds),
    schema({"type": "number", "exclusiveMinimum": 0}, _duration_pattern),
]
#: Bytes.
Size = Annotated[int, between(1), BeforeValidator(_size), _json(format_size), _SIZE_SCHEMA]
S3PartSize = Annotated[
    int, between(MIN_PART_SIZE, 5 * GIB), BeforeValidator(_size), _json(format_size), _SIZE_SCHEMA
]
#: An absolute path: relative ones start at the configuration file's directory, ``~`` is the home directory.
FilePath = Annotated[str, AfterValidator(_path)]
#: The same, with a slash at the end where it is plainly a directory.
SourcePath = Annotated[str, AfterValidator(_source_path)]
Prefix = Annotated[str, AfterValidator(_prefix)]
Bucket = Annotated[
    str,
    matching(r"[A-Za-z0-9][A-Za-z0-9._-]{1,62}", "must be a bucket's name", "letters, digits, '-', '_' and '.'"),
]
#: Part of a host name: a region, an account.
HostPart = Annotated[str, matching(r"[A-Za-z0-9-]{1,63}", "must be letters, digits and '-'")]
Endpoint = Annotated[
    str,
    AfterValidator(_without_password),
    matching(r"https?://[^/\s@]+(/\S*)?", "must be a URL", "https://host or http://host"),
]
Url = Annotated[
    str,
    AfterValidator(_without_password),
    matching(r"[A-Za-z][A-Za-z0-9+.:-]*://\S*", "must be an fsspec URL", "for example sftp://host/path"),
]
