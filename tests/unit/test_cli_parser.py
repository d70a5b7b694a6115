"""The parser of one command line, which knows only the command that it names."""

from __future__ import annotations

import pytest

from fsbackup.cli.parser import help_page, parse_arguments


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
