"""Retention as the configuration has it: its rules, and that it says what the pure rule says."""

from __future__ import annotations

from datetime import timedelta

import pytest
from pydantic import ValidationError

from fsbackup.config import LocalConfig, RetentionConfig, parse_config
from fsbackup.errors import ConfigError
from fsbackup.retention import Retention

TEXT = "version: 1\nbackends:\n  x: {type: local, retention: {%s}}\n"


def rule(settings: str) -> Retention:
    """Return the rule these settings stand for."""
    disk = parse_config(TEXT % settings, environ={}).backends["x"]
    assert isinstance(disk, LocalConfig)
    assert disk.retention is not None
    return Retention(**dict(disk.retention))


def test_the_settings_are_the_rules_fields() -> None:
    """Each by its own name, with the same defaults; destinations are of the jobs, archives of the clusters."""
    assert [*RetentionConfig.model_fields, "destinations", "archives"] == list(Retention.__slots__)
    assert rule("max_age: 30d") == Retention(max_age=timedelta(days=30))
    settings = "max_age: 26h, keep_last: 7, keep_daily: 14, keep_weekly: 8, keep_monthly: 12, keep_yearly: 3"
    assert rule(f"{settings}, series: '^(a)'") == Retention(timedelta(hours=26), 7, 14, 8, 12, 3, "^(a)")


@pytest.mark.parametrize("field", ["keep_daily", "keep_weekly", "keep_monthly", "keep_yearly"])
def test_max_age_can_be_left_out(field: str) -> None:
    """Any rule that counts periods says by itself what is let go."""
    assert rule(f"{field}: 2").deletes
    assert rule(f"{field}: 2").max_age is None


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("", "must say what to let go (max_age: 30d, or keep_daily, keep_weekly and so on)"),
        ("keep_last: 7", "must say what to let go (max_age: 30d, or keep_daily, keep_weekly and so on)"),
        ("keep_daily: 0", "must say what to let go (max_age: 30d, or keep_daily, keep_weekly and so on)"),
        ("max_age: 1d, series: ''", "series: must not be empty"),
        (
            "max_age: 1d, series: a",
            "series: must have a group, not 'a' (put what names the series in parentheses)",
        ),
        (
            "max_age: 1d, series: '(a'",
            "series: must be a regular expression, not '(a' (missing ), unterminated subpattern at position 0)",
        ),
    ],
)
def test_wrong_settings(settings: str, expected: str) -> None:
    """A retention that lets nothing go, and a pattern that names nothing, are mistakes."""
    with pytest.raises(ConfigError) as caught:
        parse_config(TEXT % settings, source="c", environ={})
    field, _, message = expected.rpartition("series: ")
    where = "backends.x.retention" + (".series" if field != expected and "series: " in expected else "")
    assert str(caught.value) == f"c:3: {where}: {message}"


def test_a_retention_made_in_python() -> None:
    """It has the same rules."""
    with pytest.raises(ValidationError, match="must say what to let go"):
        RetentionConfig(keep_last=3)
