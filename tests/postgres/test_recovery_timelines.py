"""A real PostgreSQL that goes on after another one has branched off: a moment is recovered on the timeline that is
meant, row by row as it was there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.matrix import matrix
from tests.postgres.server import Home, Server, temporary_home
from tests.postgres.test_cli_wal import CONFIG


@pytest.fixture
def home() -> Iterator[Home]:
    """A directory in which two disks are the clouds."""
    with temporary_home(CONFIG) as made:
        yield made


@dataclass
class Branches:
    """Two servers of one cluster that are both stopped: the old one on timeline 1, the new one on timeline 2.

    `early` is a moment before they diverge, with the rows of that time; `late` one that both have, with the rows
    of each.
    """

    old: Server
    new: Server
    early: tuple[str, tuple[str, ...]]
    late: tuple[str, tuple[str, ...], tuple[str, ...]]


def branch(home: Home, how: str) -> Branches:
    """Have a new server recover to a moment, or to the end of the WAL, while the old one goes on."""
    old, new = Server(home).create(), Server(home, "new", port=5433)
    with old.running():
        old.insert(50)
        old.switch()
        home.fsbackup("base-backup", "shop")
        old.insert(50)
        early = old.sql("select clock_timestamp()"), old.committed
        old.insert(50)
        fork, new.ledger = old.sql("select clock_timestamp()"), list(old.ledger)
        if how == "moment":
            old.insert(50)
        old.switch()
        home.fsbackup("pg-restore", "shop", "new", *(("--to", fork) if how == "moment" else ()))
        new.set(recovery_target_action="promote", restore_command=f"cp {home.path}/r2/pg/shop/wal/%f %p")
        with new.running():
            new.wait_promoted()
            for server in (old, new, old, new):
                server.insert(20)
            late = old.sql("select clock_timestamp()"), old.committed, new.committed
            for server in (old, new):
                server.insert(20)
                server.switch()
    assert len({early[1], *late[1:]}) == 3
    return Branches(old, new, early, late)


def rows_at(home: Home, name: str, *arguments: str, command: str | None = None) -> tuple[str, ...]:
    """Return the rows of a server that was restored and has recovered, with another `restore_command` if one is
    given.
    """
    home.fsbackup("pg-restore", "shop", name, *arguments)
    (server := Server(home, name)).set(archive_mode="off", recovery_target_action="promote")
    if command is not None:
        server.set(restore_command=command)
    with server.running():
        server.wait_promoted()
        return server.rows


@pytest.mark.parametrize("how", ["moment", matrix("end")])
def test_a_moment_that_two_timelines_have_is_recovered_on_the_one_that_is_meant(home: Home, how: str) -> None:
    """Without a word it is refused: the newest timeline has other rows of that time than the old server had."""
    at, old, new = branch(home, how).late
    refused = home.fsbackup("pg-restore", "shop", "which", "--to", at, check=False)
    assert refused.code == 2
    assert "choose: --timeline 2 (or latest), or --timeline 1; before they diverge" in refused.err
    assert not (home.path / "which").exists()
    assert rows_at(home, "old", "--to", at, "--timeline", "1") == old
    copy = f"cp {home.path}/r2/pg/shop/wal/%f %p"  # what is written, and no more than that, has it go there
    assert rows_at(home, "newest", "--to", at, "--timeline", "latest", command=copy) == new


@pytest.mark.matrix
def test_a_failover_is_no_question(home: Home) -> None:
    """The old server was shut down, and has archived all that it had."""
    old, new = Server(home).create(), Server(home, "new")
    with old.running():
        old.insert(50)
        old.switch()
        home.fsbackup("base-backup", "shop")
        old.insert(50)
        early = old.sql("select clock_timestamp()"), old.committed
        old.insert(50)
        old.stop("fast")
    home.fsbackup("pg-restore", "shop", "new")
    new.ledger = list(old.ledger)
    with new.running():
        new.wait_promoted()
        new.insert(20)
        late = new.sql("select clock_timestamp()"), new.committed
        new.insert(20)
        new.switch()
    for name, (moment, rows) in {"early": early, "late": late}.items():
        assert rows_at(home, name, "--to", moment) == rows
    assert home.fsbackup("pg-restore", "shop", "end", "--json").json()["alternatives"] == {}


@pytest.mark.matrix
def test_what_is_no_question_is_recovered_as_before(home: Home) -> None:
    """A moment before they diverge, and all of the newest; each with what a drill of either says."""
    made = branch(home, "moment")
    assert rows_at(home, "early", "--to", made.early[0]) == made.early[1]
    assert rows_at(home, "early-1", "--to", made.early[0], "--timeline", "1") == made.early[1]
    assert rows_at(home, "end") == made.new.committed
    assert rows_at(home, "end-1", "--timeline", "1") == made.old.committed
    at, *rows = made.late
    sql = "select md5(string_agg(n || noise, ',' order by n)) from rows"
    query = ("drill", "shop", "--to", at, "--sql", sql, "--directory", str(home.path))
    assert home.fsbackup(*query, check=False).code == 2
    answers = {home.fsbackup(*query, "--timeline", n, "--json").json()["answer"] for n in ("1", "2")}
    assert len(answers) == len(rows)


@pytest.mark.matrix
def test_recovery_of_the_old_timeline_begins_a_third(home: Home) -> None:
    """The wrong moment at first, the right one then: its server goes on, and all that it has comes back."""
    made = branch(home, "moment")
    at, old, _ = made.late
    home.fsbackup("pg-restore", "shop", "third", "--to", at, "--timeline", "1")
    (third := Server(home, "third")).set(recovery_target_action="promote")
    with third.running():
        third.wait_promoted()
        assert third.rows == old
        third.ledger = [row for row in made.old.ledger if row[1] <= at]
        assert third.committed == old
        third.insert(30)
        then, at_that_time = third.sql("select clock_timestamp()"), third.committed
        third.insert(30)
        third.switch()
    assert sorted(home.fsbackup("pg-status", "shop", "--json").json()["together"]["timelines"]) == ["1", "2", "3"]
    assert rows_at(home, "then", "--to", then) == at_that_time
    assert rows_at(home, "end") == third.committed
    refused = home.fsbackup("pg-restore", "shop", "which", "--to", at, check=False)
    assert (refused.code, "--timeline 2; before" in refused.err) == (2, True)
