"""Which timeline a moment is recovered on: where two have it, each with commits of its own, nobody guesses.

The times are minutes ago. The base backup ended 100 minutes ago; segments 1 and 2 were written until 90 and 80
minutes ago. In segment 3 timeline 2 left timeline 1, which went on until 40 minutes ago; timeline 2 has segments
until 30 minutes ago.
"""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fsbackup.errors import ConfigError
from fsbackup.postgres import pg_restore, push, survey
from fsbackup.postgres.restoring import PgRestoreReport
from fsbackup.postgres.timelines import Timeline
from tests.integration.cli_helpers import Cli
from tests.postgres.segments import FILES, Clouds, name_of, segment, tar_of
from tests.postgres.test_cli_wal import CONFIG

#: What PostgreSQL writes where a standby is promoted.
PROMOTED = "no recovery target specified"


def ago(minutes: float) -> datetime:
    return datetime.now(UTC) - timedelta(minutes=minutes)


def archive(
    clouds: Clouds, number: int, written: float, *, timeline: int = 1, stored: float | None = None
) -> None:
    """Archive a segment that was written until some minutes ago, and stored then, or later."""
    path = clouds.file(name := name_of(number, timeline), segment(number, timeline=timeline))
    now = time.time()
    os.utime(path, (now, now - written * 60))
    assert push(clouds.archive, path)
    when = now - (written if stored is None else stored) * 60
    for cloud in clouds.names:
        os.utime(clouds.home / cloud / ".fsbackup/manifests/pg/shop/wal" / name, (when, when))


def history(clouds: Clouds, timeline: int, *lines: tuple[int, str, str]) -> None:
    """Archive a history: which timeline was left where, and why."""
    text = "".join(f"{parent}\t{position}\t{why}\n\n" for parent, position, why in lines)
    assert push(clouds.archive, clouds.file(f"{timeline:08X}.history", text.encode()))


def base(clouds: Clouds, first: int, ended: float, timeline: int = 1, *, end: str | None = None) -> str:
    described = json.dumps({} if end is None else {"stop": end}).encode()
    return clouds.base(first, days=ended / 1440, timeline=timeline, data=tar_of(FILES), described=described)


def begin(clouds: Clouds) -> str:
    """Archive what both timelines have, and return the label of the base backup."""
    archive(clouds, 1, 90)
    archive(clouds, 2, 80)
    return base(clouds, 1, 100)


@pytest.fixture
def diverged(clouds: Clouds) -> Clouds:
    """An old server that went on after a standby had been promoted."""
    begin(clouds)
    for number, written in ((3, 60), (4, 50), (5, 40)):
        archive(clouds, number, written)
    history(clouds, 2, (1, "0/300100", PROMOTED))
    for number, written in ((3, 55), (4, 30)):
        archive(clouds, number, written, timeline=2)
    return clouds


def restore(clouds: Clouds, minutes: float | None, timeline: Timeline | None = None) -> PgRestoreReport:
    """Restore to so many minutes ago; what is reported is what is written."""
    target = clouds.home / f"restored {time.monotonic()}"
    to = None if minutes is None else ago(minutes)
    report = pg_restore(clouds.archive, target, to=to, timeline=timeline, config="c")
    follows = to is None and not report.alternatives and timeline in (None, "latest")
    written = f"recovery_target_timeline = '{'latest' if follows else report.timeline}'\n"
    assert report.alternatives or written in (target / "postgresql.auto.conf").read_text()
    return report


@pytest.mark.parametrize("minutes", [79, 41])
def test_a_moment_that_both_have_is_refused_until_one_is_chosen(diverged: Clouds, minutes: float) -> None:
    """Also behind the last segment that both have: when they diverged, nobody knows."""
    with pytest.raises(ConfigError, match="more than one timeline has 20") as caught:
        restore(diverged, minutes)
    assert "they may differ by then: 2, the newest, and 1 diverges from the newest at 0/300100, " in str(
        caught.value
    )
    assert "choose: --timeline 2 (or latest), or --timeline 1" in str(caught.value)
    assert not list(diverged.home.glob("restored*"))
    old = restore(diverged, minutes, 1)
    assert (old.timeline, old.last_segment) == (1, name_of(5))
    choices: tuple[Timeline, ...] = (2, "latest")
    for chosen in choices:
        new = restore(diverged, minutes, chosen)
        assert (new.timeline, new.last_segment) == (2, name_of(4, timeline=2))


@pytest.mark.parametrize("minutes", [81, 35])
def test_a_moment_before_they_diverge_or_behind_the_end_of_the_old_one_is_no_question(
    diverged: Clouds, minutes: float
) -> None:
    assert restore(diverged, minutes).timeline == 2


def test_a_failover_after_which_the_old_server_is_silent_is_no_question(clouds: Clouds) -> None:
    """Of the segment in which it was left, there is what the promoted server has archived as partial."""
    begin(clouds)
    history(clouds, 2, (1, "0/300100", PROMOTED))
    partial = clouds.file(f"{name_of(3)}.partial", segment(3))
    assert push(clouds.archive, partial)
    for number, written in ((3, 55), (4, 30)):
        archive(clouds, number, written, timeline=2)
    for minutes in (79, 31, None):
        report = restore(clouds, minutes)
        assert (report.timeline, report.alternatives) == (2, {})


def test_the_segment_in_which_it_was_left_counts_once_the_old_server_has_archived_it_whole(clouds: Clouds) -> None:
    """It has what a promoted standby had not got."""
    begin(clouds)
    archive(clouds, 3, 60)
    history(clouds, 2, (1, "0/300100", PROMOTED))
    archive(clouds, 3, 30, timeline=2)
    with pytest.raises(ConfigError, match="more than one timeline"):
        restore(clouds, 70)
    assert restore(clouds, 59).timeline == 2


def test_segments_that_were_archived_late_do_not_hide_that_they_diverge(clouds: Clouds) -> None:
    """A server that was cut off, and archived all at once afterwards: when it wrote them counts."""
    begin(clouds)
    for number, written in ((2, 80), (3, 60), (4, 50)):
        archive(clouds, number, written, stored=25)
    history(clouds, 2, (1, "0/300100", PROMOTED))
    archive(clouds, 3, 24, timeline=2)
    with pytest.raises(ConfigError, match="more than one timeline"):
        restore(clouds, 60)
    assert restore(clouds, 85).timeline == 2


def test_where_a_recovery_to_a_moment_ended_is_known_exactly(clouds: Clouds) -> None:
    """The moment was the wrong one: an earlier one is no question, a later one is."""
    begin(clouds)
    for number, written in ((3, 60), (4, 50)):
        archive(clouds, number, written)
    first = ago(70).astimezone().isoformat(sep=" ")
    history(clouds, 2, (1, "0/300100", f"before {first}"))
    archive(clouds, 3, 30, timeline=2)
    assert restore(clouds, 71).timeline == 2
    with pytest.raises(ConfigError, match=r"diverges from the newest at 0/300100 \(20"):
        restore(clouds, 69)


def test_a_moment_that_only_the_old_one_has_is_not_taken_from_it_unasked(clouds: Clouds) -> None:
    """The new one has not archived so much yet; there may be a gap in it, too."""
    begin(clouds)
    for number, written in ((3, 60), (4, 10)):
        archive(clouds, number, written)
    history(clouds, 2, (1, "0/300100", PROMOTED))
    archive(clouds, 3, 30, timeline=2)
    with pytest.raises(ConfigError, match="is not on timeline 2, the newest, but on 1 diverges") as caught:
        restore(clouds, 20)
    assert "if that is what you want: --timeline 1" in str(caught.value)
    assert restore(clouds, 20, 1).timeline == 1


def test_the_base_backup_is_one_of_the_timeline(diverged: Clouds) -> None:
    """After they have diverged, each has its own; one from before leads to both."""
    old, new = base(diverged, 4, 55), base(diverged, 4, 52, timeline=2)
    assert restore(diverged, 45, 1).base == old
    assert restore(diverged, 45, 2).base == new
    before = survey(diverged.archive).together.bases[0].label
    for timeline in (1, 2):
        assert restore(diverged, 58, timeline).base == before


def test_a_base_backup_in_whose_last_segment_they_diverge_leads_to_both_if_it_had_ended(diverged: Clouds) -> None:
    """Its description has the position; PostgreSQL would say FATAL of one that ended behind it."""
    before = base(diverged, 3, 58, end="0/3000FF")
    behind = base(diverged, 3, 57, end="0/300101")
    assert restore(diverged, 45, 1).base == behind
    assert restore(diverged, 45, 2).base == before


def test_branches_of_branches(clouds: Clouds) -> None:
    """Timelines 2 and 3 are both from 1, at the same position; 4 is from 3."""
    begin(clouds)
    for number, written in ((3, 60), (4, 50)):
        archive(clouds, number, written)
    archive(clouds, 3, 45, timeline=2)
    for number, written in ((3, 47), (4, 35)):
        archive(clouds, number, written, timeline=3)
    archive(clouds, 4, 30, timeline=4)
    first = (1, "0/300100", f"before {ago(70).isoformat(sep=' ')}")
    history(clouds, 2, first)
    history(clouds, 3, first)
    history(clouds, 4, first, (3, "0/400100", PROMOTED))
    assert restore(clouds, 71).timeline == 4
    with pytest.raises(ConfigError, match="--timeline 1 or --timeline 2;"):
        restore(clouds, 52)
    with pytest.raises(ConfigError, match="--timeline 2;"):
        restore(clouds, 48)
    with pytest.raises(ConfigError, match="--timeline 3;"):
        restore(clouds, 40)
    for timeline in (1, 2, 3, 4):
        assert restore(clouds, 52, timeline).timeline == timeline
    reaches = survey(clouds.archive).together.reaches
    assert [each.last for each in reaches] == [name_of(4), name_of(3, 2), name_of(4, 3), name_of(4, 4)]
    assert [each.fork and (each.fork.timeline, each.fork.position) for each in reaches] == [
        (1, "0/300100"),
        (1, "0/300100"),
        (3, "0/400100"),
        None,
    ]


def test_a_timeline_that_cannot_be_recovered_is_refused(diverged: Clouds) -> None:
    """It is not there, or does not have the moment."""
    with pytest.raises(ConfigError, match="has no timeline 7 - it has 1, 2"):
        restore(diverged, 60, 7)
    with pytest.raises(ConfigError, match="outside of what can be recovered on timeline 1: 20"):
        restore(diverged, 35, 1)


def test_a_newest_timeline_to_which_no_base_backup_leads_is_said(clouds: Clouds) -> None:
    """The only one is of the old server, and from afterwards: its data is not restored for that of the new one."""
    for number, written in ((3, 60), (4, 50)):
        archive(clouds, number, written)
    history(clouds, 2, (1, "0/300100", PROMOTED))
    archive(clouds, 3, 30, timeline=2)
    base(clouds, 4, 55)
    status = survey(clouds.archive)
    assert status.problems == ("no base backup leads to timeline 2, the newest",)
    for minutes in (None, 52):
        with pytest.raises(ConfigError, match="--timeline 1"):
            restore(clouds, minutes)
    with pytest.raises(ConfigError, match="no base backup leads to timeline 2"):
        restore(clouds, None, 2)
    assert restore(clouds, None, 1).last_segment == name_of(4)


def test_a_history_that_nobody_can_read_does_not_hide_its_timeline(clouds: Clouds) -> None:
    """It has no segment yet: without its history the old one looks like the newest."""
    begin(clouds)
    archive(clouds, 3, 60)
    history(clouds, 2, (1, "0/300100", PROMOTED))
    for cloud in clouds.names:
        (clouds.home / cloud / "pg/shop/wal/00000002.history").write_text("rotten")
    for minutes in (None, 70):
        with pytest.raises(ConfigError, match="--timeline 1"):
            restore(clouds, minutes)
    assert restore(clouds, 70, 1).timeline == 1


def test_the_end_of_the_newest_is_restored_and_what_it_leaves_out_is_said(diverged: Clouds) -> None:
    """Nothing is asked; the way to the rest is named. Who has chosen is told nothing."""
    report = restore(diverged, None)
    assert report.timeline == 2
    assert report.alternatives[1].startswith(
        "timeline 1 diverges from the newest at 0/300100, and has WAL of its own"
    )
    assert restore(diverged, None, "latest").alternatives == restore(diverged, None, 1).alternatives == {}


@pytest.fixture
def cli(clouds: Clouds) -> Cli:
    made = Cli(clouds.home)
    (clouds.home / "fsbackup.yaml").write_text(CONFIG)
    return made


def test_the_command_refuses_with_2_and_names_both(diverged: Clouds, cli: Cli) -> None:
    to = ("--to", ago(45).isoformat())
    refused = cli("pg-restore", "shop", "new", *to)
    assert refused.code == 2
    assert "choose: --timeline 2 (or latest), or --timeline 1; before they diverge" in refused.err
    assert "--timeline 1" in cli("pg-restore", "shop", "new", *to, "--json").json()["error"]["hint"]
    done = cli("pg-restore", "shop", "old", *to, "--timeline", "1")
    assert done.code == 0
    assert f"it recovers on timeline 1; the newest segment is {name_of(5)}, archived 20" in done.out
    assert cli("pg-restore", "shop", "new", *to, "--timeline", "latest", "--json").json()["timeline"] == 2
    end = cli("pg-restore", "shop", "end")
    assert (end.code, "timeline 1 diverges from the newest at 0/300100" in end.out) == (0, True)
    assert list(cli("pg-restore", "shop", "end2", "--json").json()["alternatives"]) == ["1"]
    assert (diverged.home / "old/recovery.signal").exists()


@pytest.mark.parametrize("value", ["0", "00000002", "newest"])
def test_what_is_no_timeline_is_refused(cli: Cli, value: str) -> None:
    """The names of files have hexadecimal digits, PostgreSQL's settings decimal ones."""
    done = cli("pg-restore", "shop", "new", "--timeline", value)
    assert (done.code, "--timeline" in done.err) == (2, True)


def test_a_drill_is_for_one_timeline_too(
    diverged: Clouds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    """It is refused like the restore; of a dump there is no timeline."""
    from fsbackup.postgres import drill

    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(ConfigError, match="more than one timeline has 20"):
        drill(diverged.archive, to=ago(45), config="c", directory=tmp_path)
    report = drill(diverged.archive, to=ago(45), timeline=1, config="c", directory=tmp_path)
    assert report.timeline == 1
    mixed = cli("drill", "shop", "--timeline", "1", "--restore-command", "--", "true")
    assert (mixed.code, "--timeline cannot be used with" in mixed.err) == (2, True)


def test_the_status_has_the_window_of_each_timeline(diverged: Clouds, cli: Cli) -> None:
    """Where only one has WAL of its own, there is nothing to tell apart."""
    lines = cli("pg-status", "shop").out.splitlines()
    head = next(number for number, line in enumerate(lines) if line.startswith("timeline"))
    first, second = (lines[head + step] for step in (1, 2))
    assert first.split()[:2] == ["1", "0/300100"]
    assert second.startswith("2 ")
    ends = [line.split(" to ")[1] for line in (first, second)]
    assert ends == sorted(ends)
    [old, new] = cli("pg-status", "shop", "--json").json()["together"]["reaches"]
    assert (old["timeline"], old["fork"]["position"], old["fork"]["before"]) == (1, "0/300100", name_of(2))
    assert (new["timeline"], new["fork"]) == (2, None)
    for number in (3, 4, 5):
        for cloud in diverged.names:
            diverged.lose(cloud, f"wal/{name_of(number)}")
    assert "diverges" not in cli("pg-status", "shop").out
