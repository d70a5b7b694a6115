"""Which keys are of one series: those that a destination's {now} or a rule's own expression names."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fsbackup.errors import ConfigError
from fsbackup.retention import Retention, series_of
from fsbackup.retention.series import find_series

#: Ways of writing a time, as strftime has it.
FORMATS = [
    "%Y-%m-%d", "%Y/%m/%d", "%Y_%m_%d", "%Y.%m.%d", "%Y%m%d", "%Y-%m-%dT%H-%M-%SZ", "%Y-%m-%dT%H:%M:%S%z",
    "%Y-%m-%d %H:%M:%S.%f", "%Y%m%dT%H%M%S", "%Y%m%d%H%M%S", "%Y%m%d%H", "%Y-%m-%d_%H%M", "%Y-%m-%d/%H-%M",
    "%Y/%m", "%Y-%m", "%G-W%V", "%G/W%V-%u", "%Y/%m/db-%Y-%m-%d", "%F", "%FT%T", "%d-%b-%Y", "%B %Y", "%A", "%a",
    "%Y-%j", "%y%m%d", "%I.%M%p", "%Y", "%d", "%U-%w", "%W", "on (%D) at [%R]",
]  # fmt: skip
_ZONES = st.sampled_from([UTC, timezone(timedelta(hours=-5)), timezone(timedelta(hours=5, minutes=30))])
_TIMES = st.datetimes(datetime(1970, 1, 1), datetime(2099, 12, 31, 23, 59, 59), timezones=_ZONES)
# No slash at the ends of a path, no empty segment. Digits and dates of their own are in it.
_SEGMENTS = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/"), min_size=1, max_size=8)
_TENANTS = st.sampled_from(["12", "17", "2025", "1412345678", "19850412", "20250103", "000000010000000A000000FE"])
_RELPATHS = st.lists(_SEGMENTS | _TENANTS, min_size=1, max_size=4).map("/".join)


def made(template: str, now: datetime, relpath: str) -> str:
    """Return the key that a job's destination makes."""
    return template.format(now=now, relpath=relpath, name=relpath.rpartition("/")[2], hostname="db-1", job="full")


@pytest.mark.parametrize("style", FORMATS)
@settings(max_examples=30)
@given(one=_TIMES, other=_TIMES, relpath=_RELPATHS, another=_RELPATHS)
@example(datetime(2024, 2, 29, tzinfo=UTC), datetime(2025, 12, 31, tzinfo=UTC), "12/db.sql", "17/db.sql")
def test_a_series_is_what_a_destination_makes_of_one_file(
    style: str, one: datetime, other: datetime, relpath: str, another: str
) -> None:
    """Whenever it runs, and whatever the file's own path looks like; another file's keys are another series."""
    template = f"backups/{{now:{style}}}/{{relpath}}"
    first, second, third = (
        series_of(made(template, now, path), destinations=[template])
        for now, path in ((one, relpath), (other, relpath), (other, another))
    )
    assert first == second is not None
    assert (first == third) == (relpath == another)


@pytest.mark.parametrize(
    "template",
    [
        "{hostname}/{now:%Y-%m-%d}/{job}/{name}", "{now:%Y}/{now:%m}/{relpath}", "{job}/{relpath}/{now:%Y-%m-%d}",
        "x{{1}}/{now:%Y-%m-%d}+{name}.(sql)", "{name}/{now:%Y-%m-%d}/{name}", "{now:%Y}/{name}-{now:%Y-%m-%d}.gz",
        "backups/full/{now:%Y/%m}/{name}",
    ],
)  # fmt: skip
def test_every_field_has_its_place_in_a_series(template: str) -> None:
    """Times are one series, files are not."""
    times = [datetime(2025, month, 3, tzinfo=UTC) for month in range(1, 13)]
    found = {
        path: {series_of(made(template, now, path), destinations=[template]) for now in times} for path in "ab"
    }
    assert [len(each) for each in found.values()] == [1, 1]
    assert None not in found["a"] | found["b"]
    assert found["a"].isdisjoint(found["b"])


@pytest.mark.parametrize(
    ("template", "key"),
    [
        ("full/{now:%Y/%m}/{name}", "full/2025/13/db"),
        ("full/{now:%Y/%m}/{name}", "full/2025/10/a/db"),
        ("full/{now:%Y/%m}/{name}", "full/2525/10/db"),
        ("full/{now:%Y/%m}/{name}", "full/2025/10/"),
        ("full/{now:%Y/%m}/{name}", "also/full/2025/10/db"),
        ("full/{now:%Y/%m}/{name}", "full/\N{ARABIC-INDIC DIGIT TWO}025/10/db"),
        ("full.{now:%F}", "fullx2025-10-03"),
        ("full/{now:%F}", "full/2025-02-29"),
        ("full/{now:%Y}/{now:%Y-%m}", "full/2024/2025-10"),
        ("{name}/{now:%Y}/{name}", "a/2025/b"),
        ("full/{now}/{name}", "full/2025-10-03 02:00:00+00:00/db"),
        ("full/{now:%Y %Z}/{name}", "full/2025 CET/db"),
        ("full/{now:%-d}/{name}", "full/3/db"),
        ("full/{now:%c}/{name}", "full/Fri Oct  3 02:00:00 2025/db"),
        ("full/{now:%Y}/{now:%Z}", "full/2025/CET"),
        ("full/{now:latest}/{name}", "full/latest/db"),
        ("uploads/{relpath}", "uploads/2025/10/photo.png"),
    ],
)
def test_what_a_destination_does_not_make_as_it_stands_is_no_version(template: str, key: str) -> None:
    """Nothing near it, nothing that no date is; and a format that has no one form makes no series at all."""
    assert series_of(key, destinations=[template]) is None
    assert find_series(key, None, [template])[1] == (
        "no series: its key matches no job's destination with {now} and no `series`"
    )


@pytest.mark.parametrize(
    "key",
    [
        "backups/full/2025/10/db.sql.gz", "db-2025-10-03T02-00-00.7z", "db20251003.sql", "2025/db-2025-10-03.sql",
        "wal/000000010000000A000000FE", "wal/000000010000000A000000FE.00000028.backup", "mysql-bin.000123",
        "binlog.1000001", "db-1759456800.sql", "db-1759456800000.sql", "2025-W40", "uploads/2024/01/logo.png",
    ],
)  # fmt: skip
def test_dates_are_never_guessed(key: str) -> None:
    """Whatever a key looks like, it has no versions unless somebody said so."""
    assert series_of(key) is None
    assert series_of(key, destinations=["elsewhere/{now:%Y/%m}/{relpath}"]) is None


@pytest.mark.parametrize(
    ("key", "templates"),
    [
        ("a-2024-b-2025-c", ["{hostname}-{now:%Y}-{name}"]),
        ("uploads/2024/01/logo.png", ["uploads/{relpath}", "uploads/{now:%Y/%m}/{relpath}"]),
        ("b/2025/10/11/x", ["b/{now:%Y/%m}/{relpath}", "b/{now:%Y/%m/%d}/{relpath}"]),
        ("b/05-06-2025/x", ["b/{now:%d-%m-%Y}/{name}", "b/{now:%m-%d-%Y}/{name}"]),
        ("b/2025/CET/x", ["b/{now:%Y}/{relpath}", "b/{now:%Y/%Z}/{name}"]),
    ],
)
def test_a_key_that_can_be_read_in_two_ways_is_a_series_of_its_own(key: str, templates: list[str]) -> None:
    """Whichever destination comes first; and it says so."""
    assert series_of(key, destinations=templates) is series_of(key, destinations=templates[::-1]) is None
    why = "no series: its key matches the jobs' destinations in more than one way"
    assert find_series(key, None, templates)[1] == why


def test_destinations_that_say_the_same_agree() -> None:
    """Two jobs may store below one directory."""
    templates = ["b/{now:%Y/%m}/{relpath}", "b/{now:%Y/%m}/{name}", "{job}/{now:%Y/%m}/{name}"]
    assert series_of("b/2025/10/x", destinations=templates) == series_of("b/2026/01/x", destinations=templates[:1])


_PIECES = ["{hostname}", "{name}", "{relpath}", "{now:%w}", "{now:%u%u}", "-", "/", "1"]
_READ = {
    "{hostname}": "[^/]+",
    "{name}": "[^/]+",
    "{relpath}": ".+",
    "{now:%w}": "[0-6]",
    "{now:%u%u}": "([1-7])\\1",
}


def readings(key: str, pieces: list[str]) -> Iterator[tuple[tuple[str, int], ...]]:
    """Yield, of every way to split a key into a destination's pieces, where each {now} begins."""
    if not pieces:
        if not key:
            yield ()
        return
    for length in range(1, len(key) + 1):
        if re.fullmatch(_READ.get(pieces[0], re.escape(pieces[0])), key[:length]):
            for rest in readings(key[length:], pieces[1:]):
                yield ((pieces[0], len(key)), *rest) if "now" in pieces[0] else rest


_TEMPLATES = st.lists(st.sampled_from(_PIECES), min_size=2, max_size=7, unique=True)


@settings(max_examples=150)
@given(_TEMPLATES.filter(lambda pieces: sum("now" in each for each in pieces) == 1), st.text("11/-", max_size=9))
@example(["{hostname}", "{now:%w}", "{relpath}"], "1-11-1")
def test_no_second_way_to_read_a_key_is_missed(pieces: list[str], key: str) -> None:
    """Compared with trying every way."""
    ways = set(readings(key, pieces))
    assert (series_of(key, destinations=["".join(pieces)]) is not None) == (len(ways) == 1)


@pytest.mark.parametrize(
    ("key", "series"),
    [
        ("backups/acme/n7/db.sql", ("acme", "db.sql")),
        ("backups/acme/n8/db.sql", ("acme", "db.sql")),
        ("backups/acme/db.sql", None),
        ("other/2025-10-03.sql", None),
    ],
)
def test_an_own_expression(key: str, series: object) -> None:
    """Its groups name the series, also of a key that a destination reads otherwise."""
    own = re.compile(r"^backups/([^/]+)/n[0-9]+/(.*)$")
    assert series_of(key, own) == series_of(key, own, ["backups/{relpath}"]) == series


def test_a_key_that_the_own_expression_is_not_found_in() -> None:
    """It is of the series that a destination names."""
    assert series_of("other/2025-10-03.sql", re.compile("^(a)"), ["{name}/{now:%F}.sql"]) is not None


@given(st.text(string.digits + "-/_.:TWZAF", max_size=40))
def test_any_digits_are_read(key: str) -> None:
    """Nothing made of digits and separators is too much."""
    for style in FORMATS:
        series = series_of(key, destinations=[f"{{relpath}}{{now:{style}}}{{name}}"])
        assert series is None or f"{{now:{style}}}" in series


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["a/{now:%Y"], "has an unpaired brace"),
        (["a/{date}"], r"unknown field \{date\} - use \{now:%Y/%m\}, \{relpath\}, \{name\}, "),
        (["{0}/{now:%Y}"], "unknown field"),
        ("a/{now:%Y}", "must be a list of templates, not one string"),
    ],
)
def test_wrong_destinations(wrong: tuple[str, ...], message: str) -> None:
    """A rule that cannot be meant is a mistake."""
    with pytest.raises(ConfigError, match=message):
        Retention(destinations=wrong)
