"""Matching of keys against destination templates: from a key back to the fields. Pure text processing."""

from __future__ import annotations

import re
import string
from dataclasses import dataclass
from datetime import date

from fsbackup.errors import ConfigError

_YEAR = "(?:19|20)[0-9]{2}"
_TWO_DIGITS = "[0-9]{2}"
_HOUR = "(?:[01][0-9]|2[0-3])"
_SIXTY = "[0-5][0-9]"
_WEEK = "(?:[0-4][0-9]|5[0-3])"
#: The possible output of each strftime directive, names of days and months in the C locale. No value of a
#: directive is the beginning of another value of it, so that the start of a value determines its end. The
#: directives missing here (%Z, %c, %s, %-d, ...) have no such form, or one that depends on the system.
_DIRECTIVES = {
    "Y": _YEAR,
    "G": _YEAR,
    "y": _TWO_DIGITS,
    "m": "(?:0[1-9]|1[0-2])",
    "d": "(?:0[1-9]|[12][0-9]|3[01])",
    "j": "(?:00[1-9]|0[1-9][0-9]|[12][0-9]{2}|3[0-5][0-9]|36[0-6])",
    "H": _HOUR,
    "I": "(?:0[1-9]|1[0-2])",
    "M": _SIXTY,
    "S": _SIXTY,
    "f": "[0-9]{6}",
    "p": "[AP]M",
    "z": rf"[+-]{_HOUR}{_SIXTY}",
    "V": "(?:0[1-9]|[1-4][0-9]|5[0-3])",
    "U": _WEEK,
    "W": _WEEK,
    "u": "[1-7]",
    "w": "[0-6]",
    "a": "(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)",
    "A": "(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day",
    "b": "(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)",
    "B": "(?:January|February|March|April|May|June|July|August|September|October|November|December)",
}
#: Directives that stand for several others.
_COMBINED = {"F": "%Y-%m-%d", "T": "%H:%M:%S", "R": "%H:%M", "D": "%m/%d/%y"}
_DAY = {"Y", "m", "d"}
#: The possible text of the other fields.
_FIELDS = {"relpath": ".+", "name": "[^/]+", "hostname": "[^/]+", "job": "[^/]+", "item": ".+"}


@dataclass(frozen=True, slots=True)
class CompiledTemplate:
    """A destination template as regular expressions for whole keys.

    Parameters
    ----------
    shortest, longest
        Both match the same keys; where fields can be split in several ways, each field in turn is as short, or as
        long, as possible. The text of the nth ``{now}`` is the group ``nown``.
    formats
        The formats of the ``{now}`` fields; empty when the template makes no series.
    """

    shortest: re.Pattern[str]
    longest: re.Pattern[str]
    formats: tuple[str, ...]


def compile_template(template: str) -> CompiledTemplate:
    """Return the expressions for the keys that a destination template makes.

    Raises
    ------
    ConfigError
        When it is not a template, or has an unknown field.
    """
    parsed = _parse(template)
    formats = tuple(spec for _, field, spec in parsed if field == "now")
    if not all(_can_be_matched(spec) for spec in formats):
        formats = ()
    shortest, longest = (_expression(parsed, bool(formats), suffix) for suffix in ("?", ""))
    return CompiledTemplate(re.compile(shortest, re.DOTALL), re.compile(longest, re.DOTALL), formats)


def is_calendar_day(found: re.Match[str]) -> bool:
    """Return whether year, month and day of a match are a date of the calendar; True when one is missing."""
    if not found.re.groupindex.keys() >= _DAY:
        return True
    try:
        return bool(date(int(found["Y"]), int(found["m"]), int(found["d"])))
    except ValueError:
        return False


def _parse(template: str) -> list[tuple[str, str | None, str]]:
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError:
        raise ConfigError(f"destination {template!r} has an unpaired brace") from None
    for _, field, _, _ in parsed:
        if field is not None and field != "now" and field not in _FIELDS:
            known = ", ".join(f"{{{each}}}" for each in _FIELDS)
            raise ConfigError(
                f"destination {template!r} has an unknown field {{{field}}}", hint=f"use {{now:%Y/%m}}, {known}"
            )
    return [(text, field, spec or "") for text, field, spec, _ in parsed]


def _directives(spec: str) -> list[str]:
    """Return a format as literal texts and directives (one letter) alternating, text first and last."""
    single = re.sub("%([FTRD])", lambda found: _COMBINED[found[1]], spec)
    return re.split("%(.)", single, flags=re.DOTALL)


def _can_be_matched(spec: str) -> bool:
    directives = _directives(spec)[1::2]
    return bool(directives) and all(each in _DIRECTIVES for each in directives)


def _expression(parsed: list[tuple[str, str | None, str]], has_series: bool, suffix: str) -> str:
    seen: set[str] = set()
    parts, number = [], 0
    for text, field, spec in parsed:
        parts.append(re.escape(text))
        if field == "now" and has_series:
            parts.append(f"(?P<now{number}>{_date_expression(spec, seen)})")
            number += 1
        elif field == "now":
            parts.append(f".+{suffix}")
        elif field is not None:
            parts.append(_group(field, _FIELDS[field] + suffix, seen))
    return "".join(parts)


def _date_expression(spec: str, seen: set[str]) -> str:
    return "".join(
        _group(part, _DIRECTIVES[part], seen) if at % 2 else re.escape(part)
        for at, part in enumerate(_directives(spec))
    )


def _group(name: str, expression: str, seen: set[str]) -> str:
    """Return the group of a field or directive; a further occurrence must match the same text."""
    if name in seen:
        return f"(?P={name})"
    seen.add(name)
    return f"(?P<{name}>{expression})"
