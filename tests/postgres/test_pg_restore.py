"""A data directory out of an archive: the right base backup, whole, or an empty directory."""

from __future__ import annotations

import errno
import os
import tarfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fsbackup.errors import ConfigError, FsbackupError, IntegrityError
from fsbackup.postgres import background, drill, pg_restore, push, spooled
from tests.integration.cli_helpers import Cli
from tests.postgres.segments import FILES, Clouds, name_of, segment, tar_of
from tests.postgres.test_cli_wal import CONFIG
from tests.postgres.test_spool import start_worker


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A directory that is not there yet."""
    return tmp_path / "restored"


def ago(days: float) -> datetime:
    return datetime.now(UTC) - timedelta(days=days)


def test_the_directory_is_ready_to_be_started(clouds: Clouds, target: Path) -> None:
    """What was in the base backup, and settings behind those of postgresql.auto.conf; % is doubled."""
    clouds.push(1, 2)
    label = clouds.base(1, data=tar_of({**FILES, "postgresql.auto.conf": b"work_mem = '5MB'\n"}))
    report = pg_restore(clouds.archive, target, to=ago(0.5), trust=["r2"], config="/etc/50% of it's.yaml")
    assert (report.status, report.base) == ("complete", label)
    assert {path.name for path in target.iterdir()} == {*FILES, "postgresql.auto.conf", "recovery.signal"}
    kept, _, *reset, command, timeline, moment = (target / "postgresql.auto.conf").read_text().splitlines()
    assert kept == "work_mem = '5MB'"
    assert command.startswith("restore_command = '")
    assert """-c ''/etc/50%% of it''"''"''s.yaml'' wal-fetch %f %p --cluster shop --trust r2'""" in command
    assert timeline == "recovery_target_timeline = '1'"
    assert moment.startswith("recovery_target_time = '20")
    assert reset[:4] == [f"recovery_target{which} = ''" for which in ("", "_lsn", "_name", "_xid")]
    assert report.archiving == ("archive_mode = on",)
    assert target.stat().st_mode & 0o777 == 0o700


def test_the_newest_base_backup_before_the_target_is_taken(clouds: Clouds, tmp_path: Path) -> None:
    """That is the shortest way."""
    clouds.push(1, 2, 3)
    old, new = (clouds.base(first, days=days, data=tar_of(FILES)) for first, days in ((1, 3), (2, 1)))
    for name, to, label in (("a", ago(2), old), ("b", ago(0.5), new), ("c", None, new)):
        assert pg_restore(clouds.archive, tmp_path / name, to=to, config="c").base == label


@pytest.mark.parametrize("days", [5.0, -0.01])
def test_a_target_outside_of_the_window_is_refused(clouds: Clouds, target: Path, days: float) -> None:
    """Before the end of the oldest base backup, or after the newest segment: PostgreSQL would end with FATAL."""
    clouds.push(1, 2)
    clouds.base(1, data=tar_of(FILES))
    with pytest.raises(ConfigError, match="is outside of what can be recovered: 20"):
        pg_restore(clouds.archive, target, to=ago(days), config="c")
    assert not target.exists()


def test_a_base_backup_of_a_branch_that_was_left_is_not_taken(clouds: Clouds, target: Path) -> None:
    """It was made on timeline 1 after timeline 2 had begun: PostgreSQL would not find its way."""
    clouds.push(1, 2, 3, 4)
    clouds.push(2, 3, timeline=2)
    push(clouds.archive, clouds.file("00000002.history", b"1\t0/200100\tno recovery target specified\n"))
    right = clouds.base(1, days=3, data=tar_of(FILES))
    clouds.base(3, days=1, data=tar_of(FILES))
    assert pg_restore(clouds.archive, target, config="c").base == right


def test_no_target_of_an_earlier_restore_counts(clouds: Clouds, target: Path) -> None:
    """The server was recovered to a moment once, and has that in its settings and its base backups."""
    clouds.push(1, 2)
    earlier = b"recovery_target_time = '2020-01-01 00:00:00+00'\n"
    clouds.base(1, data=tar_of({**FILES, "postgresql.auto.conf": earlier}))
    pg_restore(clouds.archive, target, config="c")
    settings = dict(
        line.split(" = ", 1)
        for line in (target / "postgresql.auto.conf").read_text().splitlines()
        if " = " in line
    )
    assert settings["recovery_target_time"] == settings["recovery_target"] == "''"


def test_nothing_of_a_standby_is_left(clouds: Clouds, target: Path) -> None:
    """Or it would follow its primary, and recovery would not end."""
    clouds.push(1, 2)
    standby = b"primary_conninfo = 'host=live'\nprimary_slot_name = 'slot'\nrecovery_min_apply_delay = '1h'\n"
    clouds.base(1, data=tar_of({**FILES, "postgresql.auto.conf": standby, "standby.signal": b""}))
    pg_restore(clouds.archive, target, config="c")
    assert (target / "recovery.signal").exists()
    assert not (target / "standby.signal").exists()
    written = (target / "postgresql.auto.conf").read_text().partition("# written by")[2].splitlines()
    assert {"primary_conninfo = ''", "primary_slot_name = ''", "recovery_min_apply_delay = '0'"} < set(written)


def test_without_a_base_backup_the_way_to_one_is_said(clouds: Clouds, target: Path) -> None:
    """Unless a cloud that may have one is away."""
    clouds.push(1)
    with pytest.raises(ConfigError, match="run `fsbackup base-backup shop` first"):
        pg_restore(clouds.archive, target, config="c")
    clouds.take_away("b2")
    with pytest.raises(ConfigError, match="look at `fsbackup pg-status shop`"):
        pg_restore(clouds.archive, target, config="c")


def test_a_directory_with_something_in_it_is_left_alone(clouds: Clouds, target: Path) -> None:
    clouds.push(1)
    clouds.base(1, data=tar_of(FILES))
    target.mkdir()
    (target / "precious").touch()
    with pytest.raises(ConfigError, match="not empty: it has precious"):
        pg_restore(clouds.archive, target, config="c")
    with pytest.raises(ConfigError, match="is not a directory"):
        pg_restore(clouds.archive, target / "precious", config="c")
    assert [path.name for path in target.iterdir()] == ["precious"]


@pytest.mark.parametrize(
    "data",
    [
        tar_of({"readme": b"hello"}),
        tar_of({**FILES, "../../outside": b"x"}),
        tar_of({**FILES, "large": bytes(3 << 20)})[: 2 << 20],
        b"no tar" * 1000,
    ],
    ids=["no cluster", "outside", "truncated", "no tar"],
)
@pytest.mark.parametrize("has_filter", [True, False])
def test_what_cannot_be_unpacked_leaves_an_empty_directory(
    clouds: Clouds, target: Path, data: bytes, has_filter: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing outside of it; also with a Python whose `tarfile` has no filter yet."""
    if not has_filter:
        monkeypatch.delattr(tarfile, "data_filter")
    clouds.push(1)
    clouds.base(1, data=data)
    with pytest.raises(IntegrityError):
        pg_restore(clouds.archive, target, config="c")
    assert list(target.iterdir()) == []
    assert not (target.parents[1] / "outside").exists()


def test_a_python_without_filters_unpacks_the_same(
    clouds: Clouds, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of Debian 12."""
    monkeypatch.delattr(tarfile, "data_filter")
    clouds.push(1)
    clouds.base(1, data=tar_of({**FILES, "base/1/1249": b"rows"}))
    pg_restore(clouds.archive, target, config="c")
    assert (target / "base/1/1249").read_bytes() == b"rows"
    assert (target / "PG_VERSION").stat().st_mode & 0o777 == 0o600


def test_an_error_that_nobody_expects_ends_the_restore(
    clouds: Clouds, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who writes into the pipe does not wait for whom has stopped reading."""

    def fails(*_: object, **__: object) -> None:
        raise TypeError("no such argument")

    monkeypatch.setattr(tarfile.TarFile, "extractall", fails)
    clouds.push(1)
    clouds.base(1, data=tar_of({**FILES, "large": bytes(3 << 20)}))
    with pytest.raises(IntegrityError, match="no such argument"):
        pg_restore(clouds.archive, target, config="c")


def test_a_rotten_base_backup_comes_from_the_other_cloud(clouds: Clouds, target: Path) -> None:
    """Without another one nothing is restored."""
    clouds.push(1)
    label = clouds.base(1, data=tar_of({**FILES, "noise": b"x" * (2 << 20)}))
    for cloud in ("r2", "b2"):
        path = clouds.home / cloud / "pg/shop/base" / label / "base.tar"
        path.write_bytes(path.read_bytes().replace(b"xx", b"yy"))
        if cloud == "r2":
            pg_restore(clouds.archive, clouds.home / "good", config="c")
            assert (clouds.home / "good/noise").read_bytes() == b"x" * (2 << 20)
    with pytest.raises(FsbackupError):
        pg_restore(clouds.archive, target, config="c")
    assert list(target.iterdir()) == []


def test_with_a_cloud_away_the_report_is_degraded(clouds: Clouds, target: Path) -> None:
    clouds.push(1)
    clouds.base(1, data=tar_of(FILES))
    clouds.take_away("b2")
    report = pg_restore(clouds.archive, target, config="c")
    assert report.status == "degraded"
    assert list(report.away) == ["b2"]


def test_the_command_says_what_a_target_and_a_copy_need(clouds: Clouds) -> None:
    """A commit after the target, the newest segment, and that a started copy archives into the same archive."""
    clouds.push(1, 2)
    clouds.base(1, data=tar_of(FILES))
    cli = Cli(clouds.home)
    (clouds.home / "fsbackup.yaml").write_text(CONFIG)
    done = cli("pg-restore", "shop", "restored", "--to", ago(0.5).isoformat())
    assert done.code == 0
    assert f"the newest segment is {name_of(2)}, archived 20" in done.out
    assert "the target needs a commit after it in the WAL" in done.out
    assert "it archives as the old server did (archive_mode = on)" in done.out


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_what_is_left_to_root_is_said(clouds: Clouds) -> None:
    """PostgreSQL refuses to start on it; a directory of another user is given its files."""
    clouds.push(1, 2)
    clouds.base(1, data=tar_of(FILES))
    cli = Cli(clouds.home)
    (clouds.home / "fsbackup.yaml").write_text(CONFIG)
    warning = "is root's, as whom PostgreSQL refuses to start"
    assert warning in cli("pg-restore", "shop", "restored").out
    (clouds.home / "given").mkdir()
    os.chown(clouds.home / "given", 65534, 65534)
    assert warning not in cli("pg-restore", "shop", "given").out
    assert (clouds.home / "given/PG_VERSION").stat().st_uid == 65534


@pytest.mark.parametrize("restore", ["pg_restore", "drill"])
def test_a_restore_leaves_nothing_of_what_was_fetched_ahead(
    clouds: Clouds, target: Path, restore: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of another restore, whose worker lives or was killed; a drill not even of its own, however it ends."""
    clouds.push(1, 2)
    clouds.base(1, data=tar_of(FILES))
    place = clouds.home / "spool/shop/fetch"
    place.mkdir(parents=True)
    for name in (name_of(1), f"{name_of(1)}.json", f"{name_of(2)}.tmp", f"{name_of(2)}.busy", "asked"):
        (place / name).write_bytes(segment(1))
    start_worker(place)
    assert spooled.is_locked(str(place))
    if restore == "pg_restore":
        pg_restore(clouds.archive, target, config="c")
    else:
        monkeypatch.setattr("os.geteuid", lambda: 1000)
        with pytest.raises(ConfigError):  # before anything is restored
            drill(clouds.archive, config="c", to=ago(5.0), directory=clouds.home)
    assert not spooled.is_locked(str(place))
    assert {path.name for path in place.iterdir()} == {spooled.LOCK, background.LOG}


def test_a_restore_does_not_depend_on_the_spool(
    clouds: Clouds, target: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What is there is never believed, so that it is no more than a waste of room."""
    clouds.push(1, 2)
    clouds.base(1, data=tar_of(FILES))
    (clouds.home / "spool/shop/fetch").mkdir(parents=True)

    def refuse(_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(background, "stop", refuse)
    assert pg_restore(clouds.archive, target, config="c")
    assert "spool/shop/fetch: Operation not permitted" in caplog.text
