"""`fsbackup get --recursive`: a tree back into a directory, and again only what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.cli_kit import Cli


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Return the command line with the job `tree` done."""
    made = Cli(tmp_path)
    assert made("run", "tree").code == 0
    return made


def files(directory: Path) -> dict[str, str]:
    return {str(each.relative_to(directory)): each.read_text() for each in directory.rglob("*") if each.is_file()}


WHOLE = {"a": "a" * 100, "b/c": "b/c" * 100, "b/d": "b/d" * 100}


def test_a_tree_comes_back_and_the_second_time_nothing_is_read(cli: Cli) -> None:
    first = cli("get", "--recursive", "t", "back")
    assert (first.code, first.out) == (0, "back: 3 objects, 700 B, proven\n")
    assert files(cli.home / "back") == WHOLE
    (cli.home / "back/b/c").write_text("x" * 300)
    again = cli("get", "-r", "t/", "back", "--json").json()
    assert (again["objects"], again["already"], again["failures"]) == (3, 2, 0)
    assert files(cli.home / "back") == WHOLE


def test_one_that_cannot_be_had_is_named_and_the_exit_code_is_1(cli: Cli) -> None:
    for disk in ("disk1", "disk2", "disk3"):
        (cli.home / disk / "t/b/c").write_text("rotten")
    done = cli("get", "--recursive", "t", "back")
    assert done.code == 1
    assert "t/b/c: failed: " in done.out
    assert "1 object failed; run the same again" in done.out
    assert set(files(cli.home / "back")) == {"a", "b/d"}


def test_a_backend_away_is_degraded(cli: Cli) -> None:
    done = cli("get", "--recursive", "t", "back", env=cli.break_third())
    assert done.code == 3
    assert "disk3 could not be listed" in done.out
    assert files(cli.home / "back") == WHOLE


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("get", "-r", "t", "-"), 2, "does not go with --recursive"),
        (("get", "", "back"), 2, "which object is not said"),
        (("get", "-r", "no/such", "back"), 1, "nothing at or below"),
        (("get", "t/", "back"), 2, "is a prefix"),
    ],
)
def test_what_makes_no_sense_is_refused(cli: Cli, arguments: tuple[str, ...], code: int, message: str) -> None:
    done = cli(*arguments)
    assert done.code == code
    assert message in done.err
    assert not (cli.home / "back").exists()
