"""What is a version of what, from a configuration's jobs to what `prune` removes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from fsbackup import ReplicatedStorage
from fsbackup.config import Config, load_config, parse_config
from fsbackup.jobs import run_job
from fsbackup.replication.prune import PruneReport
from fsbackup.retention import Retention
from tests.replication.prune_helpers import Disks, content, outcomes

PRODUCTION = Path(__file__).parents[2] / "configs/production.yaml"
KEYS = dict.fromkeys(("R2_ACCESS_KEY_ID", "R2_SECRET_ACCESS_KEY", "B2_ACCESS_KEY_ID", "B2_SECRET_ACCESS_KEY"), "k")


def config(disks: Disks, retention: Mapping[str, Any], *destinations: str, **job: Any) -> Config:
    """Return a configuration with that retention on every disk, and a job for each destination."""
    backends = {each: {"type": "local", "path": each, "retention": dict(retention)} for each in disks.raw_replicas}
    sets = {
        "all": {"backends": [*disks.raw_replicas], "min_copies": 1},
        "last": {"backends": [[*disks.raw_replicas][-1]]},
    }
    settings = {"source": {"path": "source/"}, "replication": "all", **job}
    jobs = {f"j{at}": {**settings, "destination": each} for at, each in enumerate(destinations)}
    text = json.dumps({"version": 1, "backends": backends, "replication": sets, "jobs": jobs})
    return parse_config(text, directory=disks.root, environ={})


def prune(configured: Config, name: str = "all") -> PruneReport:
    report = ReplicatedStorage.from_config(configured, name, errors="raise").prune(dry_run=False)
    assert report.status == "complete", report.as_dict()
    return report


def put_all(disks: Disks, keys: Iterable[str], oldest: float = 900) -> list[str]:
    """Store objects on every disk, each a day younger than the one before."""
    listed = list(keys)
    for at, key in enumerate(listed):
        disks.put(disks.raw_replicas, key, oldest - at)
    return listed


@pytest.fixture
def disks(tmp_path: Path) -> Disks:
    """Return two empty disks."""
    return Disks(tmp_path, "ab")


PICTURES = [f"2024/{month:02}/logo.png" for month in range(1, 13)]


@pytest.mark.parametrize("retention", [{"max_age": "30d", "keep_last": 7}, {"keep_daily": 7}, {"keep_monthly": 2}])
def test_a_directory_per_month_at_the_source_makes_no_versions(disks: Disks, retention: dict[str, Any]) -> None:
    """Twelve pictures are twelve pictures, not twelve states of one."""
    configured = config(disks, retention, "uploads/{relpath}", prune=True)
    for path in PICTURES:
        (disks.root / "source" / path).parent.mkdir(parents=True)
        (disks.root / "source" / path).write_bytes(content(f"uploads/{path}"))
    stored = set(put_all(disks, (f"uploads/{path}" for path in PICTURES)))
    report = run_job(configured, "j0")
    assert (report.status, report.already) == ("complete", 12)
    assert report.prune is not None
    assert report.prune.count("deleted") == 0
    assert disks.whole("a") == disks.whole("b") == stored
    assert prune(configured).count("deleted") == 0


def test_a_tenant_whose_number_looks_like_a_day_keeps_its_backups(disks: Disks) -> None:
    """By the destination that we ship: when tenant 12 is stopped, tenant 17 goes on, and nothing of 12 goes."""
    destination = load_config(PRODUCTION, environ=KEYS).jobs["tenants"].destination
    weeks = [f"{2024 + at // 12}-W{at % 12 + 1:02}" for at in range(24)]
    stopped = put_all(disks, [f"backups/tenants/12/{week}.tar" for week in weeks[:3]])
    going_on = put_all(disks, [f"backups/tenants/17/{week}.tar" for week in weeks], oldest=500)
    source = {"for_each": ["12", "17"], "command": ["echo", "{item}"]}
    configured = config(disks, {"max_age": "30d", "keep_last": 7}, destination, source=source)
    assert prune(configured).count("deleted") == 2 * 17
    assert disks.whole("a") == {*stopped, *going_on[-7:]}


@pytest.mark.parametrize(
    ("stopped", "going_on"),
    [("1412345678", "1512345678"), ("19850412-1234", "19790301-5678"), ("20250103", "20250104"), ("2025", "2026")],
)
@pytest.mark.parametrize("template", ["t/{{now:%Y-%m-%d}}/{}.sql", "t/{}/{{now:%Y%m%d}}.sql", "t/{{now:%Y}}-{}"])
def test_ids_that_look_like_dates_are_not_versions_of_each_other(
    disks: Disks, stopped: str, going_on: str, template: str
) -> None:
    """Each has a floor of its own, whatever it is made of."""
    old = put_all(disks, [template.format(stopped).format(now=datetime(2024, 1, 1, tzinfo=UTC))])
    days = (datetime(2020 + at, 1, 2, tzinfo=UTC) for at in range(5))
    newer = put_all(disks, [template.format(going_on).format(now=day) for day in days], oldest=500)
    configured = config(disks, {"max_age": "30d"}, template.format("{name}").replace("{name}.sql", "{name}"))
    assert prune(configured).count("deleted") == 2 * 4
    assert disks.whole("a") == {*old, newer[-1]}


def test_what_a_run_found_at_its_source_stays(disks: Disks) -> None:
    """Whatever the rules say, here an expression of the user's, on every backend; what it did not find goes."""
    rule = {"max_age": "30d", "keep_last": 2, "series": "^(uploads)/.*/(.*)"}
    configured = config(disks, rule, "uploads/{relpath}", prune=True)
    for path in PICTURES[:6]:
        (disks.root / "source" / path).parent.mkdir(parents=True)
        (disks.root / "source" / path).write_bytes(content(f"uploads/{path}"))
    stored = put_all(disks, (f"uploads/{path}" for path in PICTURES))
    report = run_job(configured, "j0")
    assert report.prune is not None
    assert outcomes(report.prune) == {(key, disk): "deleted" for key in stored[6:10] for disk in "ab"}
    assert disks.whole("a") == disks.whole("b") == {*stored[:6], *stored[10:]}


def test_what_was_found_says_so(disks: Disks) -> None:
    """Per copy, with the same words on every backend; also where only the manifest is left."""
    rule = Retention(keep_daily=1, series="^()")
    keys = put_all(disks, ["x/1", "x/2", "x/3", "x/4"])
    disks.raw_replicas["a"].drop("x/2")
    store = disks.store(dict.fromkeys("ab", rule))
    heard: dict[tuple[str, str], tuple[str, str]] = {}
    store.prune(
        dry_run=False,
        found_at_source={"x/1", "x/2"},
        on_step=lambda step: heard.update({(step.key, step.backend): (step.outcome, step.reason)}),
    )
    why = ("kept", "found at the source by this run")
    assert heard["x/1", "a"] == heard["x/1", "b"] == heard["x/2", "b"] == why
    assert disks.keys("b") == {"x/1", "x/2", keys[-1]}
    assert disks.raw_replicas["a"].manifest("x/2") is not None


def test_wal_is_not_thinned(disks: Disks) -> None:
    """Twenty segments of today are no twenty states of one file: without one of them no recovery goes past it."""
    segments = {f"wal/00000001000000000000{at:04X}" for at in range(20)}
    for at, key in enumerate(sorted(segments)):
        disks.put("ab", key, 0.5 - at / 100)
    rule = {"keep_daily": 14, "keep_last": 1}
    report = prune(config(disks, rule, "wal/{relpath}", "backups/{now:%Y/%m}/{name}"))
    assert report.count("deleted") == 0
    assert disks.whole("a") == disks.whole("b") == segments


def test_every_command_knows_the_destinations_of_all_jobs_that_store_there(disks: Disks) -> None:
    """Also of a job whose set is another one; where the job does not store, nothing is a version of anything."""
    keys = put_all(disks, [f"full/2024/{month:02}/db" for month in range(1, 13)])
    configured = config(disks, {"max_age": "30d"}, "full/{now:%Y/%m}/{name}", replication="last")
    report = prune(configured)
    assert outcomes(report) == {(key, "b"): "deleted" for key in keys[:-1]}
    assert disks.whole("a") == set(keys)
    store = ReplicatedStorage.from_config(configured, "all", errors="raise")
    assert dict(store.status().backends["b"].states) == {"present": 1, "expired": 11}
    assert store.verify().status == "complete"
    assert store.repair().steps == ()
    assert [entry.states["b"] for entry in store.ls()] == ["expired"] * 11 + ["present"]
    assert store.stat(keys[0]).replicas["b"].state == "expired"


def test_a_key_that_two_jobs_may_have_made_stays(disks: Disks) -> None:
    """It may be a file of the one as well as a version of the other."""
    keys = put_all(disks, [f"up/2024/{month:02}/a.png" for month in range(1, 13)])
    rule = {"max_age": "30d"}
    assert prune(config(disks, rule, "up/{now:%Y/%m}/{relpath}", "up/{relpath}")).count("deleted") == 0
    assert prune(config(disks, rule, "up/{now:%Y/%m}/{relpath}")).count("deleted") == 2 * 11
    assert disks.whole("a") == {keys[-1]}


def test_years_of_a_job_by_its_destination(disks: Disks) -> None:
    """Keys with {now} to the second, every ten days for two years: what a rule keeps stays, and nothing else."""
    destination = "full/{now:%Y-%m-%dT%H%M%S%z}/{relpath}"
    ages = [10 * at + 0.5 for at in range(73)]
    days = [datetime.fromtimestamp(disks.now - age * 86_400, UTC) for age in ages]
    keys = [destination.format(now=day, relpath="2025/db.sql") for day in days]
    for key, age in zip(keys, ages, strict=True):
        disks.put("a", key, age)
    prune(config(disks, {"max_age": "60d", "keep_last": 3, "keep_yearly": 3}, destination))
    newest_of_each_year = {day.year: key for day, key in reversed([*zip(days, keys, strict=True)])}
    assert disks.whole("a") == {*keys[:6], *newest_of_each_year.values()}


def test_a_set_made_in_python_names_its_series_itself(disks: Disks) -> None:
    """By the same templates as jobs have."""
    keys = put_all(disks, [f"db/{day:%Y-%m-%d}" for day in (datetime(2024, 1, day, tzinfo=UTC) for day in (1, 2))])
    store: ReplicatedStorage = disks.store({"a": Retention(keep_yearly=1)})
    assert store.prune(dry_run=False).count("deleted") == 0
    store = disks.store({"a": Retention(keep_yearly=1, destinations=("db/{now:%Y-%m-%d}",))})
    assert outcomes(store.prune(dry_run=False)) == {(keys[0], "a"): "deleted"}
