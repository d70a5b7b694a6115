"""What `pg-status` knows: from which second on, up to which, from which cloud, and what is missing."""

from __future__ import annotations

import os
import re
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fsbackup.errors import ConfigError
from fsbackup.loop import run
from fsbackup.postgres import pg_restore, push, survey, window
from fsbackup.replication.drills import record_drill
from tests.integration.cli_helpers import Cli
from tests.postgres.segments import FILES, OURS, Clouds, name_of, tar_of
from tests.postgres.test_cli_wal import CONFIG


def test_a_whole_archive_has_one_window_on_each_cloud(clouds: Clouds) -> None:
    """From the end of the oldest base backup, which is the first moment that it can be recovered to."""
    clouds.push(1, 2, 3, 4, 5)
    old, new = clouds.base(2, days=3), clouds.base(4, days=1)
    status = survey(clouds.archive)
    assert (status.status, status.problems, status.system_identifier) == ("complete", (), str(OURS))
    for each in [status.together, *status.backends.values()]:
        assert [base.label for base in each.bases] == [old, new]
        assert each.timelines == {1: ((name_of(1), name_of(5)),)}
        [found] = each.windows
        assert found.base == old
        assert found.begin == each.bases[0].stopped
        assert found.end is not None
    assert window(clouds.archive) == status.together.windows
    assert status.as_dict()["backends"]["r2"]["bases"][0]["label"] == old


def test_a_gap_is_named_and_ends_the_window(clouds: Clouds) -> None:
    """A later base backup begins another one. What no base backup needs is no gap."""
    clouds.push(1, 3, 5, 6, 9, 10)
    first, second = clouds.base(5, days=3), clouds.base(9, days=1)
    status = survey(clouds.archive)
    assert status.status == "failed"
    assert [str(gap) for gap in status.together.gaps] == [f"{name_of(7)} to {name_of(8)} (2)"]
    assert f"gap: {name_of(7)} to {name_of(8)} (2) missing" in status.problems[0]
    assert [each.base for each in status.together.windows] == [first, second]


def test_a_segment_that_one_cloud_lacks_is_degraded(clouds: Clouds) -> None:
    """Together they have it; `repair` brings it there."""
    clouds.push(1, 2, 3)
    clouds.base(1)
    clouds.lose("b2", f"wal/{name_of(2)}")
    status = survey(clouds.archive)
    assert status.status == "degraded"
    assert status.together.gaps == ()
    assert [gap.first for gap in status.backends["b2"].gaps] == [name_of(2)]
    assert clouds.archive.store.repair().status == "complete"
    assert survey(clouds.archive).status == "complete"


def test_recovery_takes_a_segment_from_the_newer_timeline(clouds: Clouds) -> None:
    """Timeline 2 left timeline 1 in segment 4: what timeline 1 has of that one does not matter."""
    clouds.push(1, 2, 3)
    clouds.push(4, 5, timeline=2)
    label = clouds.base(1)
    push(clouds.archive, clouds.file("00000002.history", b"1\t0/4000A0\tno recovery target specified\n"))
    status = survey(clouds.archive)
    assert (status.status, status.together.gaps) == ("complete", ())
    [found] = status.together.windows
    assert found.base == label
    for cloud in ("r2", "b2"):
        clouds.lose(cloud, f"wal/{name_of(3)}")
    assert [gap.first for gap in survey(clouds.archive).together.gaps] == [name_of(3)]


def test_a_window_ends_at_the_earliest_with_its_base_backup(clouds: Clouds) -> None:
    """Nothing was written since; the base backup ended after its last segment had been stored."""
    clouds.push(1)
    clouds.base(1, days=-0.001)
    (window,) = survey(clouds.archive).together.windows
    assert window.begin == window.end


def test_a_later_base_backup_of_a_quiet_cluster_leaves_one_window(clouds: Clouds) -> None:
    """It ends after its last segment was stored, and so does the window that begins with the older one."""
    clouds.push(1, 2)
    old, new = clouds.base(1, days=1), clouds.base(2, days=-0.001)
    for each in [(status := survey(clouds.archive)).together, *status.backends.values()]:
        [found] = each.windows
        assert (found.base, found.end) == (old, each.bases[-1].stopped)
    assert [base.label for base in status.together.bases] == [old, new]


def test_where_windows_end_the_wal_tells(clouds: Clouds) -> None:
    """A segment that `repair` has brought there last does not make the window before a gap the longer one."""
    clouds.push(1, 3)
    first, second = (clouds.base(at, days=4 - at, data=tar_of(FILES)) for at in (1, 3))
    store(clouds, 3, at=time.time() - 600)
    assert [each.base for each in survey(clouds.archive).together.windows] == [first, second]
    assert pg_restore(clouds.archive, clouds.home / "restored", config="c").base == second


def test_a_time_in_whole_seconds_stands_for_all_of_the_second(clouds: Clouds) -> None:
    """Many services cut when something was stored: what was committed in that second is not behind the end."""
    clouds.push(1)
    clouds.base(1, data=tar_of(FILES))
    second = int(time.time()) - 60
    committed, later = (datetime.fromtimestamp(second + part, UTC) for part in (0.116, 1))
    store(clouds, 1, at=second)
    assert pg_restore(clouds.archive, clouds.home / "restored", to=committed, config="c").status == "complete"
    with pytest.raises(ConfigError, match="is outside of what can be recovered"):
        pg_restore(clouds.archive, clouds.home / "later", to=later, config="c")
    store(clouds, 1, at=second + 0.1)
    with pytest.raises(ConfigError, match="is outside of what can be recovered"):
        pg_restore(clouds.archive, clouds.home / "later", to=committed, config="c")


def store(clouds: Clouds, number: int, *, at: float) -> None:
    """Have a segment be stored at another time."""
    for cloud in clouds.names:
        path = clouds.home / cloud / ".fsbackup/manifests/pg/shop/wal" / name_of(number)
        os.utime(path, (at, at))


def test_a_timeline_without_its_history_is_a_problem(clouds: Clouds) -> None:
    clouds.push(1)
    clouds.push(2, timeline=2)
    clouds.base(1)
    assert "00000002.history is missing" in survey(clouds.archive).problems[0]


def test_a_base_backup_whose_last_segment_is_missing_is_no_use(clouds: Clouds) -> None:
    """It was not consistent before."""
    clouds.push(1, 2)
    clouds.base(1, last=3)
    status = survey(clouds.archive)
    assert [gap.first for gap in status.together.gaps] == [name_of(3)]
    assert status.together.windows == ()


def test_segments_are_counted_over_the_end_of_a_log_file(clouds: Clouds) -> None:
    """4,096 segments of 1 MiB, and the next name has another middle."""
    clouds.push(4095, 4096)
    clouds.base(4095)
    assert name_of(4096) == "000000010000000100000000"
    assert survey(clouds.archive).status == "complete"


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    made = Cli(tmp_path)
    (tmp_path / "fsbackup.yaml").write_text(CONFIG)
    return made


def test_the_command_says_it_in_one_line(cli: Cli, clouds: Clouds) -> None:
    """How far back, how far on, and from which cloud alone; 3 with one away, 1 without a base backup."""
    clouds.push(1, 2)
    assert cli("pg-status", "shop").code == 1
    assert "Next: `fsbackup base-backup shop`" in cli("pg-status", "shop").out
    clouds.base(1)
    done = cli("pg-status", "shop", "--max-lag", "10m")
    assert done.code == 0
    assert done.out.splitlines()[-1].startswith("complete: any archived commit from ")
    assert done.out.splitlines()[-1].endswith("; from r2 or b2 alone; no drill has shown it yet")
    run(record_drill(clouds.archive.targets, "shop", time.time() - 3 * 86_400, {}, ok=True))
    assert "; last drilled 3d ago" in cli("pg-status", "shop").out
    assert cli("pg-status", "shop", "--max-lag", "10m", "-q").out == ""
    assert cli("pg-status", "shop", "--max-lag", "0.000001").code == 2
    clouds.lose("b2", f"wal/{name_of(2)}")
    assert "; from r2 alone" in cli("pg-status", "shop").out
    clouds.take_away("b2")
    away = cli("pg-status", "shop")
    assert away.code == 3
    assert "b2 unreachable" in away.out
    report = cli("pg-status", "shop", "--json").json()
    assert (report["status"], report["together"]["newest"]) == ("degraded", name_of(2))


def test_a_backend_with_a_gap_does_not_suffice(cli: Cli, clouds: Clouds) -> None:
    """Its newest segment and its last base backup are those of the others, and it cannot go on to them."""
    clouds.push(1, 2, 3, 4)
    clouds.base(1)
    clouds.lose("b2", f"wal/{name_of(3)}")
    assert "; from r2 alone;" in cli("pg-status", "shop").out
    clouds.lose("r2", f"wal/{name_of(2)}")
    assert " alone" not in cli("pg-status", "shop").out


def test_a_backend_without_a_history_does_not_suffice(cli: Cli, clouds: Clouds) -> None:
    """From it alone, PostgreSQL would know of no timeline but that of the base backup."""
    clouds.push(1, 2)
    clouds.push(3, timeline=2)
    clouds.base(1)
    push(clouds.archive, clouds.file("00000002.history", b"1\t0/3000A0\tno recovery target specified\n"))
    assert "; from r2 or b2 alone;" in cli("pg-status", "shop").out
    clouds.lose("b2", "wal/00000002.history")
    done = cli("pg-status", "shop")
    assert (done.code, "; from r2 alone;" in done.out) == (3, True)
    assert "b2: without 00000002.history\n" in done.out


def test_all_windows_are_in_the_line(cli: Cli, clouds: Clouds) -> None:
    """One that is shorter than a second is given in thousandths, and does not end before it begins."""
    clouds.push(1)
    clouds.base(1, days=2)
    clouds.push(3)
    clouds.base(3, days=-0.001)
    line = cli("pg-status", "shop").out.splitlines()[-1]
    second = r"[-0-9]{10} [:0-9]{8}(\.\d{3})?\S{6}"
    found = re.match(
        rf"failed: any archived commit from {second} to {second} and from (.+) to (.+) can be recovered;", line
    )
    assert found is not None
    begin, end = (datetime.fromisoformat(each) for each in found.groups()[-2:])
    assert begin <= end
    assert survey(clouds.archive).together.windows[-1].has(begin.timestamp())


def test_archiving_that_has_stopped_is_found(clouds: Clouds) -> None:
    """The newest segment is too old, or there is none."""
    assert "nothing is archived, and at most 60 s" in survey(clouds.archive, max_lag=60.0).problems[-1]
    clouds.push(1)
    clouds.base(1)
    assert survey(clouds.archive, max_lag=60.0).status == "complete"
    late = survey(clouds.archive, max_lag=0.0).problems[-1]
    assert "the newest segment is " in late
    assert late.endswith("the server is idle, or does not archive; `fsbackup doctor` asks it")
