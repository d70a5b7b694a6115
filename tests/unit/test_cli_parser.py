"""The parser of one command line, which knows only the command that it names."""

from __future__ import annotations

import pytest

from fsbackup.cli.parser import UsageExit, help_page, parse_arguments


@pytest.mark.parametrize(
    "words",
    [
        ["put", "run", "get"],
        ["-c", "get", "put", "run", "get"],
        ["-qc", "get", "put", "run", "get"],
        ["--config", "get", "--log-format", "json", "put", "run", "get"],
        ["--config=get", "-v", "put", "run", "get"],
    ],
    ids=" ".join,
)
def test_the_command_is_the_first_argument_that_is_no_option(words: list[str]) -> None:
    """Neither the value of an option nor a key that is called as another command."""
    args = parse_arguments(words)
    assert (args.source, args.key) == ("run", "get")
    assert args.config in (None, "get")


def test_an_unknown_command_is_told_all_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    """Also where a command is named further on."""
    with pytest.raises(SystemExit):
        parse_arguments(["puts", "note", "run"])
    said = capsys.readouterr().err
    assert "invalid choice: 'puts'" in said
    for name in ("put", "run", "wal-push", "config"):
        assert name in said
        assert f"  {name:<13}" in help_page()


SECRET = "AGE-SECRET-KEY-1QYQSZQGPQYQSZQGPQYQSZQGPQYQSZQGPQYQSZQGPQYQSZQGPQYQSLALALA"
BODY = "b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQ"


@pytest.mark.parametrize(
    "words",
    [
        ["put", "a", "x", "--encrypt", "age1x", SECRET],
        ["put", "a", "x", "--identity", SECRET],
        ["put", "a", "x", f"--identity={SECRET.lower()}"],
        ["put", "x", "--command", SECRET, "--", "true"],
        ["put", "a", "x", "--compress", SECRET],
        ["put", "x", "--command", "--min-size", SECRET, "--", "true"],
        ["put", "x", "--command", "--timeout", SECRET, "--", "true"],
        ["put", "a", f"../{SECRET}"],
        ["get", "k", "q", SECRET],
        ["get", "k", "q", SECRET.replace("SECRET-KEY-1", "SECRET-KEY-PQ-1")],
        ["get", "k", "q", "-----BEGIN", "OPENSSH", "PRIVATE", "KEY-----", BODY, "LALALA", "-----END"],
        ["get", "k", "q", f"-----BEGIN PRIVATE KEY-----\n{BODY}\nLALALA\n-----END PRIVATE KEY-----"],
        ["config", SECRET],
        ["--log-format", SECRET, "ls"],
        ["--nothing", SECRET, "ls"],
        [SECRET],
    ],
)
def test_no_usage_error_shows_a_private_key(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Wherever it was typed, or expanded to: a terminal is looked at, and cron sends mail."""
    with pytest.raises(UsageExit) as caught:
        parse_arguments(words)
    said = capsys.readouterr().err
    assert "error: " in said
    assert "LALALA" not in (said + caught.value.message).upper()
