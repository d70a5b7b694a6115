"""Drills: that a cluster can be recovered is shown, and when that was is kept."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fsbackup.errors import ConfigError
from fsbackup.loop import run
from fsbackup.postgres import drill
from fsbackup.postgres.drilling import compare
from fsbackup.replication.drills import last_drill, record_drill
from tests.integration.cli_helpers import Cli
from tests.postgres.segments import FILES, Clouds, tar_of
from tests.postgres.test_cli_wal import CONFIG

NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("answer", "expect", "is_right"),
    [
        ("3", "> 0", True),
        ("0", "> 0", False),
        ("10", ">= 9", True),
        ("10", "9", False),
        ("9", "9", True),
        ("shop", "= shop", True),
        ("shop", "!= shop", False),
        ("1.50", "= 1.5", True),
        ("", None, False),
        ("x", None, True),
    ],
)
def test_an_answer_is_compared_as_a_number_or_as_text(answer: str, expect: str | None, is_right: bool) -> None:
    assert (compare(answer, expect) is None) is is_right


def test_the_last_success_is_known_from_any_replica(clouds: Clouds) -> None:
    """A failure is kept, too, and is none."""
    clouds.push(1)
    targets = clouds.archive.targets
    assert run(last_drill(targets, "shop")) is None
    assert run(record_drill(targets, "shop", NOW, {"answer": "1"}, ok=True)) == {}
    run(record_drill(targets, "shop", NOW + 60, {}, ok=False))
    run(record_drill(targets, "crm", NOW + 90, {}, ok=True))
    clouds.take_away("b2")
    assert run(last_drill(clouds.archive.targets, "shop")) == NOW
    assert run(last_drill(clouds.archive.targets, "shop", ok=False)) == NOW + 60
    assert list(run(record_drill(clouds.archive.targets, "shop", NOW + 99, {}, ok=True))) == ["b2"]


def test_status_watches_the_age_of_the_last_drill(clouds: Clouds) -> None:
    """In a line of its own; never is too long ago."""
    cli = Cli(clouds.home)
    (clouds.home / "fsbackup.yaml").write_text(CONFIG)
    clouds.push(1)
    never = cli("status", "--drill-age", "35d")
    assert never.code == 1
    assert "shop: failed: last drilled with success: never" in never.out
    run(record_drill(clouds.archive.targets, "shop", time.time() - 40 * 86_400, {}, ok=True))
    assert cli("status", "--drill-age", "35d", "-q").code == 1
    assert cli("status", "--drill-age", "50d").code == 0
    assert "shop: complete: last drilled with success: 40d ago" in cli("status", "--drill-age", "50d").out
    drills = cli("status", "--drill-age", "50d", "--json").json()["drills"]
    assert drills["shop"]["status"] == "complete"


def test_what_cannot_be_recovered_fails_and_that_is_kept(
    clouds: Clouds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A base backup that is none. A target outside of the window is a mistake instead."""
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    clouds.push(1)
    clouds.base(1, data=tar_of({"readme": b"x"}))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    report = drill(clouds.archive, config="c", directory=scratch)
    assert report.status == "failed"
    assert "none of pg_basebackup's" in str(report.problem)
    assert list(scratch.iterdir()) == []
    assert run(last_drill(clouds.archive.targets, "shop")) is None
    assert run(last_drill(clouds.archive.targets, "shop", ok=False)) is not None
    clouds.base(1, days=0.5, data=tar_of({**FILES, "PG_VERSION": b"7\n"}))
    assert "the cluster is of PostgreSQL 7" in str(drill(clouds.archive, config="c", directory=scratch).problem)
    with pytest.raises(ConfigError, match="is outside of what can be recovered"):
        drill(clouds.archive, to=datetime(2020, 1, 1, tzinfo=UTC), config="c", directory=scratch)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    with pytest.raises(ConfigError, match="does not run as root"):
        drill(clouds.archive, config="c")
