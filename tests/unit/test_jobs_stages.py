"""Jobs that compress and encrypt: their keys, what retention and `shrink` make of them, and their failures."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fsbackup.config import Config, parse_config
from fsbackup.errors import ConfigError
from fsbackup.jobs import Planned, plan_job, run_job
from fsbackup.replication.storage import ReplicatedStorage
from tests.replication.staged import Staged

NOW = datetime(2026, 1, 31, 2, 30, tzinfo=UTC)


@pytest.fixture
def place(tmp_path: Path) -> Staged:
    return Staged.make(tmp_path)


def config(place: Staged, *, retention: str = "{max_age: 30d}", **job: Any) -> Config:
    """Return a configuration with the two disks and one job, which compresses and encrypts."""
    settings = {
        "source": {"path": "source/"},
        "destination": "k/{relpath}",
        "replication": "two",
        "compress": "zstd",
        "encrypt": {"age": [place.recipient]},
        **job,
    }
    return parse_config(
        f"""
version: 1
state_dir: host
backends:
  a: {{type: local, path: a, retention: {retention}}}
  b: {{type: local, path: b, retention: {retention}}}
replication: {{two: {{backends: [a, b]}}}}
jobs: {{j: {json.dumps(settings)}}}
""",
        directory=place.root,
        environ={},
    )


def lines(count: int) -> dict[str, Any]:
    """Return a source whose output is long and, compressed, always short."""
    return {"command": [sys.executable, "-c", f"print('a line' * {count})"], "min_bytes": 1000}


def stored(place: Staged) -> list[str]:
    found = (path.relative_to(place.root / "a") for path in (place.root / "a").rglob("*") if path.is_file())
    return sorted(str(path) for path in found if path.parts[0] != ".fsbackup")


def test_a_tree(place: Staged) -> None:
    """Each file under its key with the suffixes; again, and nothing is sent; modes of directories are kept."""
    (place.root / "source/sub").mkdir(parents=True)
    (place.root / "source/sub").chmod(0o700)
    (place.root / "source/sub/f").write_text("one" * 100)
    (place.root / "source/g").write_text("two")
    chosen = config(place)
    assert [each.key for each in plan_job(chosen, "j") if isinstance(each, Planned)] == [
        "k/g.zst.age",
        "k/sub/f.zst.age",
    ]
    report = run_job(chosen, "j")
    assert (report.status, report.stored, report.bytes_read) == ("complete", 2, 303)
    assert stored(place) == ["k/g.zst.age", "k/sub/f.zst.age"]
    assert place.plain("k/sub/f.zst.age") == b"one" * 100
    assert place.record("k/sub/f.zst.age")["source"]["directories"] == [0o700]
    assert place.key_file.exists(), "in the state directory"
    assert run_job(chosen, "j").already == 2
    again = ReplicatedStorage.from_config(chosen, "two").restore_tree(
        "k", place.root / "back", identity=place.root / "id.txt"
    )
    assert again.status == "complete"
    assert (place.root / "back/sub").stat().st_mode & 0o777 == 0o700
    assert (place.root / "back/g").read_text() == "two"


def test_versions_are_a_series_with_the_suffixes(place: Staged) -> None:
    """What `{now}` makes is let go by its age, and nothing else is taken for one of it."""
    chosen = config(
        place, retention="{keep_daily: 2}", source=lines(500), destination="db/{now:%Y-%m-%d}.sql", prune=True
    )
    store = ReplicatedStorage.from_config(chosen, "two")
    assert store.replicate(place.file(b"mine"), "db/2025-01-01.sql").status == "complete"
    for day in range(4):
        assert run_job(chosen, "j", now=NOW + timedelta(days=day)).status == "complete"
    assert stored(place) == ["db/2025-01-01.sql", "db/2026-02-03.sql.zst.age"], "all made today: one a day"
    assert place.record("db/2026-02-03.sql.zst.age")["series"] == "db/{now:%Y-%m-%d}.sql.zst.age"


def test_sizes_are_those_of_the_source(place: Staged) -> None:
    """`min_bytes` and `shrink` look at what was dumped: compressed, all of these are of one size."""
    assert run_job(config(place, source=lines(100), destination="x"), "j").failed == 1, "600 bytes are too few"
    chosen = config(place, source=lines(50_000), destination="db/{now:%Y-%m-%d}.sql")
    assert run_job(chosen, "j", now=NOW).status == "complete"
    smaller = config(place, source=lines(20_000), destination="db/{now:%Y-%m-%d}.sql")
    report = run_job(smaller, "j", now=NOW + timedelta(days=1))
    assert (report.shrunk, report.problems[0].before) == (1, 300_001)
    refusing = config(
        place,
        source=lines(9000),
        destination="db/{now:%Y-%m-%d}.sql",
        shrink={"below": "50%", "action": "fail"},
    )
    report = run_job(refusing, "j", now=NOW + timedelta(days=2))
    assert (report.failed, len(stored(place))) == (1, 2)
    assert "less than 50%" in str(report.problems[0].error)


def test_a_file_of_recipients_that_goes_away_fails_the_run(place: Staged) -> None:
    """Nothing is stored, neither encrypted to fewer nor in the clear."""
    recipients = place.file(place.recipient.encode(), "recipients")
    chosen = config(place, encrypt={"age": ["file:recipients"]}, source=lines(500), destination="x")
    recipients.unlink()
    with pytest.raises(ConfigError, match="recipients cannot be read"):
        run_job(chosen, "j")
    assert stored(place) == []
