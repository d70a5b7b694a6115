"""Which keys are of one series: those that differ in their dates and in nothing else."""

from __future__ import annotations

import re
import string
from datetime import datetime

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from fsbackup.retention import series_of

#: Every way of writing a date that is known, as strftime has it.
FORMATS = [
    "%Y-%m-%d", "%Y/%m/%d", "%Y_%m_%d", "%Y.%m.%d", "%Y%m%d", "%Y-%m-%dT%H-%M-%SZ", "%Y-%m-%dT%H:%M:%S+00:00",
    "%Y-%m-%d %H:%M:%S.%f", "%Y%m%dT%H%M%S", "%Y%m%dT%H%M%SZ", "%Y%m%d%H%M%S", "%Y%m%d%H", "%Y-%m-%d_%H%M",
    "%Y-%m-%d/%H-%M", "%Y/%m", "%Y-%m", "%G-W%V", "%G/W%V", "%G-W%V-%u", "%Y/%m/db-%Y-%m-%d",
]  # fmt: skip

# No slash at the ends of a part: keys have no empty segments. Digits are in it, but not beside the date.
_LETTERS = st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from("ab12./-_*%TWZ")
_PARTS = st.text(_LETTERS, max_size=12)
_DATES = st.datetimes(datetime(1970, 1, 1), datetime(2099, 12, 31, 23, 59, 59))


def apart(before: str, after: str) -> None:
    """Take only what leaves the date recognisable: no digits or times grown to it, and no date of its own."""
    assume(not before[-1:].isascii() or not before[-1:].isalnum())
    assume(re.match(r"[^0-9TtWwZ+. /_-]|$", after))
    assume(series_of(f"{before}|{after}") is None)


@pytest.mark.parametrize("style", FORMATS)
@given(before=_PARTS, after=_PARTS, one=_DATES, other=_DATES)
@example(before="backups/full/", after=".sql.gz", one=datetime(2025, 10, 3), other=datetime(2026, 1, 31, 23, 59))
def test_a_series_is_the_same_on_every_date(
    style: str, before: str, after: str, one: datetime, other: datetime
) -> None:
    """Whatever stands around the date, another date gives the same series."""
    apart(before, after)
    first, second = (series_of(f"{before}{date.strftime(style)}{after}") for date in (one, other))
    assert first is not None
    assert first == second


@pytest.mark.parametrize("style", ["%Y/%Y%m%d.sql", "full/%Y/db-%Y-%m-%d", "%Y/db/x-%Y-%m", "a/%G/%G-W%V.tar"])
@given(one=_DATES, other=_DATES)
def test_a_year_beside_the_same_year_is_a_date(style: str, one: datetime, other: datetime) -> None:
    """A directory per year does not make a series per year."""
    first, second = (series_of(date.strftime(style)) for date in (one, other))
    assert isinstance(first, str)
    assert first == second
    assert first.count("*") == 2


@given(_PARTS, _PARTS, _PARTS, _PARTS, _DATES)
def test_different_things_have_different_series(a: str, b: str, c: str, d: str, date: datetime) -> None:
    """What is left of two keys without their dates differs when it differed before."""
    apart(a, b)
    apart(c, d)
    assume((a, b) != (c, d))
    assert series_of(f"{a}{date:%Y-%m-%d}{b}") != series_of(f"{c}{date:%Y-%m-%d}{d}")


@given(st.integers(1_400_000_000, 1_999_999_999), st.sampled_from(["", "000"]))
def test_epoch_seconds_are_a_date(when: int, milliseconds: str) -> None:
    """Seconds and milliseconds, standing alone."""
    assert series_of(f"db-{when}{milliseconds}.sql") == "db-*.sql"


@given(st.integers(1, 0xFFFF), st.integers(0, 0xFFFFFFFF), st.integers(0, 0xFFF))
def test_wal_segments_are_a_series_per_timeline(timeline: int, log: int, segment: int) -> None:
    """PostgreSQL counts them in hexadecimal, and a segment of its own series would never be let go."""
    name = f"{timeline:08X}{log:08X}{segment:08X}"
    assert series_of(f"wal/{name}") == f"wal/{timeline:08X}*"
    assert series_of(f"wal/{name}.zst") == f"wal/{timeline:08X}*.zst"
    assert series_of(f"wal/{name}.00000028.backup") == f"wal/{timeline:08X}*.backup"
    assert series_of(f"{name[:16]}/{name}") == f"{timeline:08X}*/{timeline:08X}*"


@pytest.mark.parametrize(
    ("key", "series"),
    [
        ("backups/full/2025/10/db.sql.gz", "backups/full/*/db.sql.gz"),
        ("backups/tenants/2025/10/1212/db.sql", "backups/tenants/*/1212/db.sql"),
        ("2025/db-2025-10-03.sql", "*/db-*.sql"),
        ("db2/pg16-v1.2.3-2025-10-03.sql", "db2/pg16-v1.2.3-*.sql"),
        ("db-2025-10-03-1.sql", "db-*-1.sql"),
        ("db-2025-10-03T02-00-00.7z", "db-*.7z"),
        ("db20251003.sql", "db*.sql"),
        ("daily/2025-10-03/1200/db.sql", "daily/*/1200/db.sql"),
        ("mysql-bin.000123", "mysql-bin.*"),
        ("binlog.1000001", "binlog.*"),
        ("日本/2025-10-03/é\udcff", "日本/*/é\udcff"),
        ("*-2025-10-03%", "%2A-*%25"),
    ],
)
def test_dates_are_taken_out(key: str, series: str) -> None:
    """A date and the time behind it become a star; the rest of the key stays."""
    assert series_of(key) == series


@pytest.mark.parametrize(
    "key",
    [
        "db2.sql", "v1.2.3", "pg16/base.tar", "servers/2019/db.bak", "windows-2019.vhd", "app-2025.10.3.tgz",
        "tenants/000123/db", "tenants/20251345/db", "invoice-1234567890123456.pdf", "wal/00000002.history",
        "objects/5F2B0C9A7E3D4B1A9C8E7F60", "5f2b0c9a7e3d4b1a9c8e7f60", "120251003", "202510031", "0171696298400",
        "2025-13-01", "2025-10-32", "2025-W54", "a/1096298400", "db\N{ARABIC-INDIC DIGIT TWO}025-10-03", "db.sql",
        "id1696298400x", "é1696298400", "x000000010000000A000000FE", "000000010000000A00A000FE",
    ],
)  # fmt: skip
def test_other_digits_are_no_date(key: str) -> None:
    """Two things must not be taken for one: then the older of them would be let go."""
    assert series_of(key) is None


@pytest.mark.parametrize(
    ("key", "series"),
    [
        ("backups/acme/n7/db.sql", ("acme", "db.sql")),
        ("backups/acme/n8/db.sql", ("acme", "db.sql")),
        ("backups/acme/db.sql", None),
        ("other/2025-10-03.sql", "other/*.sql"),
    ],
)
def test_an_own_pattern(key: str, series: object) -> None:
    """Its groups name the series; a key it is not found in is taken as without it."""
    assert series_of(key, re.compile(r"^backups/([^/]+)/n[0-9]+/(.*)$")) == series


@given(st.text(string.digits + "-/_.:TWZAF", max_size=40))
def test_any_digits_are_read(key: str) -> None:
    """Nothing made of digits and separators is too much, and every star stands for something."""
    series = series_of(key)
    assert series is None or (isinstance(series, str) and "*" in series)
