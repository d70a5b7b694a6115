"""Destination templates read backwards: from a key to what each field may have been. Pure text."""

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
#: What each strftime directive can produce; names of days and months as without a locale. No value of a directive
#: is the beginning of another, so that where one begins says where it ends. A directive that is not here (%Z, %c,
#: %s, %-d, ...) has no such form, or one that depends on the system.
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
#: What the other fields can be, one or more of it.
_FIELDS = {"relpath": ".+", "name": "[^/]+", "hostname": "[^/]+", "job": "[^/]+"}


@dataclass(frozen=True, slots=True)
class CompiledTemplate:
    """A destination template as expressions for whole keys.

    Parameters
    ----------
    shortest, longest
        The same but for this: where fields can be split in several ways, the first is as short, or as long, as
        can be, then the next. What the nth ``{now}`` made is the group ``nown``.
    formats
        The formats of the ``{now}`` fields; none when it makes no series.
    """

    shortest: re.Pattern[str]
    longest: re.Pattern[str]
    formats: tuple[str, ...]


def compile_template(template: str) -> CompiledTemplate:
    """Return the expressions for the keys that a destination template makes.

    Raises
    ------
    ConfigError
        When it is no template, or has an unknown field.
    """
    parsed = _parse(template)
    formats = tuple(spec for _, field, spec in parsed if field == "now")
    if not all(_can_be_matched(spec) for spec in formats):
        formats = ()
    shortest, longest = (_expression(parsed, bool(formats), suffix) for suffix in ("?", ""))
    return CompiledTemplate(re.compile(shortest, re.DOTALL), re.compile(longest, re.DOTALL), formats)


def is_calendar_day(found: re.Match[str]) -> bool:
    """Return whether the year, month and day of a match, where it has them all, are a day: not February 30."""
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
        raise ConfigError(f"destination {template!r} must have its braces in pairs") from None
    for _, field, _, _ in parsed:
        if field is not None and field != "now" and field not in _FIELDS:
            known = ", ".join(f"{{{each}}}" for each in _FIELDS)
            raise ConfigError(
                f"destination {template!r} has an unknown field {{{field}}}", hint=f"{{now:%Y/%m}}, {known}"
            )
    return [(text, field, spec or "") for text, field, spec, _ in parsed]


def _directives(spec: str) -> list[str]:
    """Return a format as literal text and directives (a letter) in turns, beginning and ending with text."""
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
    """Return the group of a field or directive; a second time it must be the same text."""
    if name in seen:
        return f"(?P={name})"
    seen.add(name)
    return f"(?P<{name}>{expression})"
