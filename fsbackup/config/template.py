"""The rules of a job's `destination`: which fields it may have. Rendering it is the job's own business."""

from __future__ import annotations

import string
from datetime import datetime

from fsbackup.config.problems import rule_error, suggest
from fsbackup.keys import check_key

#: The fields of a template and a value each may have.
FIELDS = {
    "now": datetime(2025, 10, 21, 2, 30, 5),
    "name": "db.sql.gz",
    "relpath": "dumps/db.sql.gz",
    "hostname": "db1",
    "job": "nightly",
}
#: The fields that tell the files of one run apart.
PER_FILE = frozenset({"name", "relpath"})

_EXAMPLE = "for example backups/{now:%Y/%m}/{name}"


def check_template(template: str) -> frozenset[str]:
    """Return the fields of `template`.

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
        _check_field(name, spec, conversion)
    _check_result(template)
    return frozenset(name for name, _, _ in used)


def _check_field(name: str, spec: str, conversion: str | None) -> None:
    if name not in FIELDS:
        raise rule_error("must use known fields only", suggest(name, FIELDS))
    if conversion or (spec and name != "now"):
        raise rule_error(f"must use {{{name}}} as it is", "only {now} takes a format")
    if name == "now" and not is_date_format(spec):
        raise rule_error("must give {now} a date format", "for example {now:%Y/%m} or {now:%Y-%m-%dT%H%M%S}")


def is_date_format(spec: str) -> bool:
    """Return whether ``{now:spec}`` stands for a date."""
    # A directive that strftime does not know is left in the text by some C libraries and refused by others.
    try:
        return "%" in spec and "{" not in spec and "%" not in f"{FIELDS['now']:{spec}}"
    except ValueError:
        return False


def _check_result(template: str) -> None:
    key = template.format(**FIELDS)
    try:
        check_key(key)
    except ValueError as error:
        reason = str(error).removeprefix(f"key {key!r} cannot be used: ")
        raise rule_error("must make a legal key", reason) from None
