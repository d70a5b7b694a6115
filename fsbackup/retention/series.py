"""Which keys are backups of the same thing: a *series* is a key with its date taken out. Pure text.

``backups/full/2025/10/db.sql.gz`` is of the series ``backups/full/*/db.sql.gz``. Whatever is not plainly a date
stays: two things taken for one would cost the older of them, one taken for two costs only room.
"""

from __future__ import annotations

import re

#: As text with ``*`` for each date, or what the groups of an own pattern matched.
Series = str | tuple[str | None, ...]

_YEAR = r"(?:19|20)[0-9]{2}"
_MONTH = r"(?:0[1-9]|1[0-2])"
_DAY = r"(?:0[1-9]|[12][0-9]|3[01])"
_HOUR = r"(?:[01][0-9]|2[0-3])"
_SIXTY = r"[0-5][0-9]"
_SECOND = rf"{_SIXTY}(?:[.,](?:[0-9]{{6}}|[0-9]{{3}}(?=Z)))?"
_ZONE = rf"(?:Z|\+{_HOUR}:?{_SIXTY}|-{_HOUR}:{_SIXTY})?"
_CLOCK = rf"{_HOUR}[-_.:]?{_SIXTY}(?:[-_.:]?{_SECOND})?{_ZONE}"
# A bare number in a directory below a date may as well be a tenant's: there, a time must have its separators.
_TIME = rf"(?:[Tt_ .-]{_CLOCK}|/{_HOUR}[-_:]{_SIXTY}(?:[-_:]{_SIXTY})?|[Tt]{_HOUR})"
_ALONE = r"(?<![^\W_])"
_ENDS = r"(?![^\W_])"

#: Segments of one timeline count up in hexadecimal: eight digits of the timeline (they stay, a timeline is its own
#: series), eight of the log, eight of the segment, of which there are at most 4,096 (PostgreSQL's XLogFileName).
_TIMELINE = rf"(?<={_ALONE}0000[0-9A-F]{{4}})"
_SEGMENT = r"[0-9A-F]{8}00000[0-9A-F]{3}"

_FORMS = (
    rf"{_TIMELINE}{_SEGMENT}(?:\.[0-9A-F]{{8}}(?=\.backup))?{_ENDS}",
    # The directory that some archives keep a log's segments in.
    rf"{_TIMELINE}[0-9A-F]{{8}}(?=/0000[0-9A-F]{{4}}{_SEGMENT})",
    # MySQL's and MariaDB's binary logs, by their default names.
    r"(?<=[-n]bin\.)[0-9]{6,}",
    r"(?<=binlog\.)[0-9]{6,}",
    # 2025-10-03, 2025/10/03T02-00-00Z, 2025_10_03 0200; 20251003, 20251003T020000, 2025100302.
    rf"(?<![0-9]){_YEAR}[-_./]{_MONTH}[-_./]{_DAY}{_TIME}?(?![0-9])",
    rf"(?<![0-9]){_YEAR}{_MONTH}{_DAY}(?:{_TIME}|{_CLOCK}|{_HOUR})?(?![0-9])",
    # 2025-W40, 2025/W40-5.
    rf"(?<![0-9]){_YEAR}[-_/]?[Ww](?:0[1-9]|[1-4][0-9]|5[0-3])(?:-?[1-7])?(?![0-9])",
    # 2025/10, 2025-10. With a dot it is as likely a version.
    rf"(?<![0-9]){_YEAR}/{_MONTH}(?![0-9])",
    rf"(?<![0-9]){_YEAR}[-_]{_MONTH}(?![-_]?[0-9])",
    # A year's directory only where the date says that year again: 2025/db-2025-10-03.sql, but not servers/2019/db.
    rf"(?<![^/])(?P<year>{_YEAR})(?=/(?:.*[^0-9])?(?P=year)(?:[-_.]?{_MONTH}|[-_]?[Ww][0-5]))",
    # Epoch seconds or milliseconds from 2014 to 2033.
    rf"{_ALONE}1[4-9][0-9]{{8}}(?:[0-9]{{3}})?{_ENDS}",
)
_DATE = re.compile("|".join(_FORMS))


def series_of(key: str, pattern: re.Pattern[str] | None = None) -> Series | None:
    """Return the series of `key`, or None when it has no date, so that no other key can be of its series.

    Dates are ``2025-10-03``, ``2025/10/03``, ``20251003`` and so on, with or without a time behind them,
    ``2025/10``, ``2025-10``, ``2025-W40`` and epoch seconds. PostgreSQL's WAL segments count as dates, one
    series per timeline, and so do the numbers of MySQL's binary logs. Other digits stay: ``db2``, ``v1.2.3``,
    a year alone, tenants' numbers (a directory ``12`` right below ``2025/10`` reads as a day, though).

    Parameters
    ----------
    key
        The object's key.
    pattern
        Instead of that: where it is found in the key, what its groups matched names the series. Keys it is not
        found in are taken as without it.
    """
    found = pattern.search(key) if pattern is not None else None
    if found is not None:
        return found.groups()
    # No key has a NUL, and a star of its own must not pass for a date.
    text, dates = _DATE.subn("\0", key)
    return text.replace("%", "%25").replace("*", "%2A").replace("\0", "*") if dates else None
