"""`fsbackup get --recursive`: restore a tree into a directory; run again, it restores only what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.cli_helpers import Cli


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Return the command line with the job `tree` done."""
    command = Cli(tmp_path)
    assert command("run", "tree").code == 0
    return command


def files(directory: Path) -> dict[str, str]:
    return {str(each.relative_to(directory)): each.read_text() for each in directory.rglob("*") if each.is_file()}


WHOLE = {"a": "a" * 100, "b/c": "b/c" * 100, "b/d": "b/d" * 100}


def test_a_tree_is_restored_and_the_second_time_only_what_differs(cli: Cli) -> None:
    first = cli("get", "--recursive", "t", "back")
    assert (first.code, first.out) == (0, "back: 3 objects, 700 B, verified\n")
    assert files(cli.home / "back") == WHOLE
    (cli.home / "back/b/c").write_text("x" * 300)
    again = cli("get", "-r", "t/", "back", "--json").json()
    assert (again["objects"], again["already"], again["failures"]) == (3, 2, 0)
    assert files(cli.home / "back") == WHOLE


def test_an_object_without_a_good_replica_is_reported_and_the_exit_code_is_1(cli: Cli) -> None:
    for disk in ("disk1", "disk2", "disk3"):
        (cli.home / disk / "t/b/c").write_text("rotten")
    done = cli("get", "--recursive", "t", "back")
    assert done.code == 1
    assert "t/b/c: failed: " in done.out
    assert "1 object failed; run the same command again" in done.out
    assert set(files(cli.home / "back")) == {"a", "b/d"}


def test_an_unreachable_backend_is_degraded(cli: Cli) -> None:
    done = cli("get", "--recursive", "t", "back", env=cli.break_third())
    assert done.code == 3
    assert "disk3: unreachable: " in done.out
    assert files(cli.home / "back") == WHOLE


def test_what_may_be_old_is_said(cli: Cli) -> None:
    """Into a file, a tree or a pipe: one backend of three cannot prove what is the newest."""
    third = cli.break_third()
    (cli.home / "disk2").rename(cli.home / "gone")
    warned = "A NEWER VERSION MAY EXIST: too few backends answered"
    assert f"; {warned}" in cli("get", "t/a", "back", env=third).out
    tree = cli("get", "-r", "t", "tree", env=third)
    assert f"3 objects: {warned}\n" in tree.out
    assert cli("get", "-r", "t", "tree", "--json", env=third).json()["unproven"] == 3
    piped = cli("get", "t/a", "-", env=third)
    assert (piped.code, piped.out) == (0, "a" * 100)
    assert f"t/a: {warned}\n" in piped.err
    assert warned not in cli("-q", "get", "t/a", "-", env=third).err


def test_the_read_order_is_said(cli: Cli) -> None:
    config = cli.home / "fsbackup.yaml"
    assert "read_order" not in cli("ls", "t", "--json").lines()[0]
    config.write_text(
        config.read_text().replace("min_copies: 2", "min_copies: 2, read_order: [disk2, [disk1, disk3]]")
    )
    order, head, *_ = cli("ls", "-l", "t").out.splitlines()
    assert order == "read order: disk2, then disk1 and disk3"
    assert head.split()[0] == "size"
    assert cli("ls", "t", "--json").lines()[0]["read_order"] == [["disk2"], ["disk1", "disk3"]]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("get", "-r", "t", "-"), 2, "cannot be used with --recursive"),
        (("get", "--owner", "t/a", "-"), 2, "--owner needs a file"),
        (("get", "", "back"), 2, "the key is empty"),
        (("get", "-r", "no/such", "back"), 4, "nothing at or below"),
        (("get", "t/", "back"), 2, "is a prefix"),
    ],
)
def test_wrong_arguments_are_refused(cli: Cli, arguments: tuple[str, ...], code: int, message: str) -> None:
    done = cli(*arguments)
    assert done.code == code
    assert message in done.err
    assert not (cli.home / "back").exists()
