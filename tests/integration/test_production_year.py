"""`configs/production.yaml`, day by day for more than a year, as cron runs it.

The jobs, the retention and the directory are real; the clock is not, nor are `pg_dump` and the two clouds. A disk
is lost, a cloud is away for a week, a tenant goes and another one comes. Each day `tests.retention_judge`, which
shares no code with the package, says what must be on each backend.
"""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from fsbackup import ReplicatedStorage
from fsbackup.config import Config, load_config
from fsbackup.jobs import run_job
from tests.integration.cloud import Cloud, LookedAt, assert_proven
from tests.replication.raw_replicas import RawDisk, manifest_name
from tests.retention_judge import Object, kept
from tests.zones import local_zone

pytestmark = pytest.mark.matrix

PRODUCTION = Path(__file__).parents[2] / "configs/production.yaml"
SECRETS = ("R2_ACCESS_KEY_ID", "R2_SECRET_ACCESS_KEY", "B2_ACCESS_KEY_ID", "B2_SECRET_ACCESS_KEY")
#: What the sets have in the buckets that they share.
SETS = {"triple": "backups", "wal": "wal"}
DAYS = 370
ZONE = "Europe/Berlin"
CLOUD_AWAY, DISK_LOST, TENANT_GONE, TENANT_COMES = range(100, 107), 200, 150, 50
DUMP = """#!/bin/sh
test "$1 $2" = "-Fc shop" || exit 2
echo "the shop on $TODAY, and more of it than what is refused as too short"
"""


@dataclass(frozen=True)
class Promised:
    """The `retention` of a backend, as a person reads it."""

    max_age: timedelta | None
    keep_last: int = 7
    keep_daily: int = 0
    keep_weekly: int = 0
    keep_monthly: int = 0
    keep_yearly: int = 0


PROMISES = {name: Promised(timedelta(days=age)) for name, age in (("local", 30), ("r2", 365), ("b2", 365))}


@dataclass
class Year:
    """The machine, its clock, and all that was ever backed up."""

    root: Path
    config: Config
    clouds: Mapping[str, Cloud]
    now: float = 0.0
    day: int = 0
    #: What must be in each object, by key, and when it was made.
    made: dict[str, tuple[float, bytes | dict[str, bytes]]] = field(default_factory=dict)
    segments: dict[str, bytes] = field(default_factory=dict)
    #: When the disk got each record; the content of each object that was looked at.
    times: dict[str, float] = field(default_factory=dict)
    seen: dict[str, bytes] = field(default_factory=dict)
    looked_at: LookedAt = field(default_factory=dict)

    @property
    def disk(self) -> Path:
        return self.root / "local"

    def store(self, name: str) -> ReplicatedStorage:
        """Return a set of the configuration."""
        return ReplicatedStorage.from_config(self.config, name, errors="raise")

    def run(self, job: str) -> bool:
        """Run a job, and tell whether each of its objects is in every place now."""
        report = run_job(self.config, job)
        self.date_records()
        is_away = any(cloud.is_away for cloud in self.clouds.values())
        assert report.status == ("degraded" if is_away else "complete"), report.as_dict()
        return report.status == "complete"

    def date_records(self) -> None:
        """Have the disk list what it has just stored as stored at the time of the clock."""
        for directory, _, names in os.walk(self.disk / ".fsbackup/manifests"):
            for path in (f"{directory}/{name}" for name in names):
                if os.stat(path).st_mtime != self.times.setdefault(path, self.now):
                    os.utime(path, (self.times[path], self.times[path]))

    def mend(self, *accept_empty: str) -> None:
        """Have both sets repaired, as a person does who has heard of a loss."""
        for name, prefix in SETS.items():
            report = self.store(name).repair(prefix, accept_empty=accept_empty if name == "triple" else ())
            assert report.status == "complete", report.as_dict()
        self.date_records()

    def replace_disk(self) -> None:
        """Lose everything on the disk, put in an empty one, and mend."""
        shutil.rmtree(self.disk)
        self.times.clear()
        self.disk.mkdir()
        self.mend("local")


@pytest.fixture
def root() -> Iterator[Path]:
    """Return a directory in memory: the same calls as on a disk, and no wait for a thousand syncs."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        yield Path(name)


@pytest.fixture
def year(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Year]:
    """Return the deployment."""
    clouds = {name: Cloud(name) for name in ("r2", "b2")}
    monkeypatch.setattr("fsbackup.backends.CloudflareR2Storage", clouds["r2"].open)
    monkeypatch.setattr("fsbackup.backends.BackblazeB2Storage", clouds["b2"].open)
    tools = root / "bin"
    tools.mkdir()
    (tools / "pg_dump").write_text(DUMP)
    (tools / "pg_dump").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    environ = {
        **dict.fromkeys(SECRETS, "k"),
        "BACKUP_LOCAL_PATH": str(root / "local"),
        "BACKUP_MIN_BYTES": "50",
        "BACKUP_TENANTS_DIR": str(root / "tenants"),
        "BACKUP_WAL_DIR": str(root / "wal"),
    }
    (root / "wal").mkdir()
    for tenant in ("2026-W01", "ring"):
        (root / "tenants" / tenant / "files").mkdir(parents=True)
    this = Year(root, load_config(PRODUCTION, environ=environ), clouds)
    monkeypatch.setattr("fsbackup.clock.now", lambda: this.now)
    with local_zone(ZONE):
        yield this


@pytest.mark.timeout(900)  # a year of jobs, each day judged: a minute alone
def test_the_deployment_works_for_a_year(year: Year, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the rules promise is there, day by day, with the right content, and in the end nothing else."""
    first = datetime(2024, 9, 16, 2, 30, tzinfo=ZoneInfo(ZONE))
    for year.day in range(DAYS):
        year.now = (first + timedelta(days=year.day)).timestamp()
        today = datetime.fromtimestamp(year.now, ZoneInfo(ZONE))  # on one day of the year there is no 2:30
        monkeypatch.setenv("TODAY", f"{today:%Y-%m-%d}")
        change_the_world(year)
        run_cron(year, today)
        judge(year)
    for name, prefix in SETS.items():
        report = year.store(name).verify(prefix, deep=True)
        assert report.status == "complete", report.problems
    assert len(year.made) > DAYS
    assert len(year.clouds["r2"].content()) - len(year.segments) < len(year.made)


def change_the_world(year: Year) -> None:
    """Write a segment of WAL and the tenants' files; have happen what happens on this day."""
    tenants = year.root / "tenants"
    if year.day == TENANT_GONE:
        shutil.rmtree(tenants / "ring")
    if year.day == TENANT_COMES:
        (tenants / "-new").mkdir()
    for tenant in tenants.iterdir():
        (tenant / "state.txt").write_text(f"{tenant.name} on day {year.day}")
    if year.day % 7 == 0:
        name, data = f"00000001000000000000{year.day // 7:04X}", f"segment {year.day}".encode()
        year.segments[f"wal/{name}"] = data
        (year.root / "wal" / name).write_bytes(data)
    was_away, year.clouds["r2"].is_away = year.clouds["r2"].is_away, year.day in CLOUD_AWAY
    if was_away and not year.clouds["r2"].is_away:
        year.mend()
    if year.day == DISK_LOST:
        year.replace_disk()


def run_cron(year: Year, today: datetime) -> None:
    """Run the nightly job, that of WAL where there is some, on Sundays the weekly one; note what they store."""
    year.made[f"backups/full/{today:%Y/%m/%d-%H%M}.dump"] = (
        year.now,
        f"the shop on {today:%Y-%m-%d}, and more of it than what is refused as too short\n".encode(),
    )
    year.run("full")
    if year.day % 7 == 0 and year.run("wal"):
        for path in sorted((year.root / "wal").iterdir())[:-2]:
            path.unlink()  # find -mtime +7 -delete
    if today.isoweekday() == 7:
        calendar = today.isocalendar()
        for tenant in (year.root / "tenants").iterdir():
            key = f"backups/tenants/{tenant.name}/{calendar.year}-W{calendar.week:02}.tar"
            year.made[key] = (year.now, {"state.txt": (tenant / "state.txt").read_bytes()})
        year.run("tenants")


def judge(year: Year) -> None:
    """Compare each backend that answers with what its rule promises."""
    objects: list[Object] = [
        (key, key.rpartition("/")[0] if "tenants" in key else "full", when) for key, (when, _) in year.made.items()
    ]
    for name, promise in PROMISES.items():
        promised = kept(objects, promise, year.now, ZONE)
        found = on_disk(year) if name == "local" else year.clouds[name].content()
        backups = {key: data for key, data in found.items() if key.startswith("backups/")}
        if name != "local" and not year.clouds[name].is_away:
            assert {key: data for key, data in found.items() if key not in backups} == year.segments
        if name != "local" and year.clouds[name].is_away:
            continue
        assert not promised - backups.keys(), (name, year.day)
        for key, data in backups.items():
            if year.seen.get(key) != data:
                assert_content(data, year.made[key][1])
                year.seen[key] = data
        if is_pruned(year, name):
            assert {key for key in backups if "/full/" in key} == {key for key in promised if "/full/" in key}


def is_pruned(year: Year, name: str) -> bool:
    """Tell whether nothing else may be left: a copy that was put back stays as long as a young one."""
    age = 31 if name == "local" else 366
    put_back = {"local": (DISK_LOST,), "r2": (CLOUD_AWAY.stop,), "b2": ()}[name]
    others_away = year.clouds["r2"].is_away
    return not others_away and not any(day <= year.day <= day + age for day in put_back)


def on_disk(year: Year) -> dict[str, bytes]:
    """Return what the disk has, each file proven by its manifest; looked at without the library."""
    raw, found = RawDisk(year.disk), {}
    for key in [each for each in raw.names() if not each.startswith(".fsbackup/")]:
        data = raw.get(key)
        assert_proven(key, data, raw.get(manifest_name(key)), year.looked_at)
        found[key] = data or b""
    return found


def assert_content(data: bytes, expected: bytes | dict[str, bytes]) -> None:
    """Compare an object with what it was made of: a dump as it is, an archive by its files."""
    if isinstance(expected, bytes):
        assert data == expected
        return
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        files = {Path(each.name).name: archive.extractfile(each) for each in archive if each.isfile()}
    assert {name: file.read() for name, file in files.items() if file} == expected
