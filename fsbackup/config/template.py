"""The rules of a job's `destination`: which fields it may have. Rendering it is the job's own business."""

from __future__ import annotations

import string
from collections.abc import Sequence
from datetime import datetime

from fsbackup.config.problems import rule_error, suggest
from fsbackup.keys import check_key

#: The fields of templates and a value each may have.
_FIELDS = {
    "now": datetime(2025, 10, 21, 2, 30, 5),
    "name": "db.sql.gz",
    "relpath": "dumps/db.sql.gz",
    "hostname": "db1",
    "job": "nightly",
    "item": "shop",
}
#: The fields that the key of a file may have, that of a command, and that of an item of `for_each`.
FIELDS_OF_FILE = ("now", "name", "relpath", "hostname", "job")
FIELDS_OF_COMMAND = ("now", "hostname", "job")
FIELDS_OF_ITEM = (*FIELDS_OF_COMMAND, "item")
#: The fields that tell the files of one run apart.
PER_FILE = frozenset({"name", "relpath"})

_EXAMPLE = "for example backups/{now:%Y/%m}/{name}"


def check_template(template: str, fields: Sequence[str]) -> frozenset[str]:
    """Return which of `fields` the template has.

    Raises
    ------
    pydantic_core.PydanticCustomError
        When it is no template, names an unknown field, or makes something that is not a key.
    """
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError:
        raise rule_error("must have its braces in pairs", _EXAMPLE) from None
    used = [(name, spec or "", conversion) for _, name, spec, conversion in parsed if name is not None]
    for name, spec, conversion in used:
        _check_field(name, spec, conversion, fields)
    _check_result(template)
    return frozenset(name for name, _, _ in used)


def _check_field(name: str, spec: str, conversion: str | None, fields: Sequence[str]) -> None:
    if name not in fields:
        raise rule_error("must use known fields only", suggest(name, fields))
    if conversion or (spec and name != "now"):
        raise rule_error(f"must use {{{name}}} as it is", "only {now} takes a format")
    if name == "now" and not is_date_format(spec):
        raise rule_error("must give {now} a date format", "for example {now:%Y/%m} or {now:%Y-%m-%dT%H%M%S}")


def is_date_format(spec: str) -> bool:
    """Return whether ``{now:spec}`` stands for a date."""
    # A directive that strftime does not know is left in the text by some C libraries and refused by others.
    try:
        return "%" in spec and "{" not in spec and "%" not in f"{_FIELDS['now']:{spec}}"
    except ValueError:
        return False


def _check_result(template: str) -> None:
    key = template.format(**_FIELDS)
    try:
        check_key(key)
    except ValueError as error:
        reason = str(error).removeprefix(f"key {key!r} cannot be used: ")
        raise rule_error("must make a legal key", reason) from None
