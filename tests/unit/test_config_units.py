"""Durations and sizes."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fsbackup.config import format_duration, format_size, parse_duration, parse_size
from fsbackup.config.units import MAX_BYTES, MAX_SECONDS


@settings(deadline=None)
@given(st.integers(0, MAX_SECONDS))
def test_a_duration_survives_writing_and_reading(seconds: int) -> None:
    """What is written for a duration reads back as the same duration."""
    duration = timedelta(seconds=seconds)
    assert parse_duration(format_duration(duration)) == duration


@settings(deadline=None)
@given(st.integers(0, MAX_BYTES))
def test_a_size_survives_writing_and_reading(size: int) -> None:
    """What is written for a size reads back as the same size."""
    assert parse_size(format_size(size)) == size


@settings(deadline=None)
@given(st.text("0159smhdwybkgtMiB .-٣", max_size=12))
def test_any_text_is_a_duration_or_a_value_error(text: str) -> None:
    """No text makes the readers fail in another way than ValueError."""
    for parse in (parse_duration, parse_size):
        try:
            parse(text)
        except ValueError:
            continue


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", timedelta(seconds=90)),
        ("15m", timedelta(minutes=15)),
        ("26h", timedelta(hours=26)),
        ("30d", timedelta(days=30)),
        ("30 d", timedelta(days=30)),
        ("2w", timedelta(days=14)),
        ("1y", timedelta(days=365)),
    ],
)
def test_durations_have_one_unit(text: str, expected: timedelta) -> None:
    """Seconds, minutes, hours, days, weeks and years of 365 days are understood."""
    assert parse_duration(text) == expected


@pytest.mark.parametrize("text", ["", "30", "d", "-1d", "1.5h", "30D", "1d12h", "1001y", "٣d", "9" * 5000 + "d"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    """A missing unit, a sign, a fraction, two units or far too much is no duration."""
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0", 0), ("512", 512), ("512B", 512), ("64MB", 64_000_000), ("8MiB", 8 << 20), ("1 gib", 1 << 30)],
)
def test_sizes_are_bytes_decimal_or_binary(text: str, expected: int) -> None:
    """Plain numbers are bytes, MB is decimal, MiB is binary, in any case."""
    assert parse_size(text) == expected


@pytest.mark.parametrize("text", ["", "MiB", "-1", "1.5MiB", "8M", "8 pebbles", "9999999999TiB", "9" * 5000])
def test_what_is_no_size_is_refused(text: str) -> None:
    """An unknown unit, a sign, a fraction or more than 2**63 - 1 bytes is no size."""
    with pytest.raises(ValueError, match="not a size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("duration", "expected"),
    [(timedelta(days=365), "365d"), (timedelta(hours=26), "26h"), (timedelta(seconds=0.5), "0.5")],
)
def test_durations_are_written_in_the_largest_whole_unit(duration: timedelta, expected: str) -> None:
    """30 days are 30d, 26 hours stay 26h, and a fraction is bare seconds."""
    assert format_duration(duration) == expected
