"""Which WAL and which base backups go: never WAL that a kept base backup needs, whatever else a rule says."""

from __future__ import annotations

import io
import time
from collections.abc import Iterable
from datetime import timedelta
from itertools import chain
from typing import Any

import pytest

from fsbackup import ReplicatedStorage
from fsbackup.retention import ArchiveRule, Plan, Retention
from fsbackup.wal import base_key, description_key, stamp, wal_key
from tests.integration.cli_helpers import Cli
from tests.postgres.segments import Clouds, name_of

CONFIG = """\
version: 1
backends:
  r2: {type: local, path: r2, retention: {max_age: 1d, series: "(pg)"}}
  b2: {type: local, path: b2}
replication: {wal: {backends: [r2, b2], min_copies: 1}}
postgres: {shop: {replication: wal, prefix: pg/shop, retention: {window: 30d, min_bases: 1}}}
"""
NOW = 1_800_000_000.0
DAY = 86_400.0
ROOT = "pg/shop"


def base(days: float, first: int, *, timeline: int = 1, now: float = NOW) -> list[str]:
    """Return the keys of a base backup that ended so many days ago and needs the WAL from a segment on."""
    stopped = now - days * DAY
    label = stamp(stopped - 600)
    return [
        base_key(ROOT, label),
        description_key(ROOT, label, stopped, name_of(first, timeline), name_of(first, timeline)),
    ]


def wal(numbers: Iterable[int], timeline: int = 1) -> list[str]:
    return [wal_key(ROOT, name_of(number, timeline)) for number in numbers]


def kept(keys: Iterable[str], **rule: Any) -> list[str]:
    """Return what is kept of an archive; on a backend that lets everything else go after a day."""
    archive = ArchiveRule(ROOT, **rule)
    plan = Plan(Retention(max_age=timedelta(days=1), series="^(pg)", archives=(archive,)), NOW)
    listed = list(keys)
    for key in listed:
        plan.see(key, NOW - 400 * DAY)
    return [key for key in listed if plan.decide(key, NOW - 400 * DAY).keep]


def test_without_a_rule_of_its_own_an_archive_is_kept() -> None:
    """Whatever the backend's own retention says of versions and age."""
    keys = [*base(300, 1), *base(1, 9), *wal(range(12)), "pg/shop/cluster.json"]
    assert kept(keys) == keys


def test_the_window_begins_at_the_end_of_the_base_backup_before_it() -> None:
    """One that ended a minute into the window does not reach to its first second."""
    old, before, inside = base(36, 1), base(35.0001, 4), base(34.999, 7)
    keys = [*old, *before, *inside, *wal(range(10))]
    assert kept(keys, window=timedelta(days=35)) == [*before, *inside, *wal(range(4, 10))]
    reaches = base(35, 4)
    assert kept([*old, *reaches, *wal(range(10))], window=timedelta(days=35)) == [*reaches, *wal(range(4, 10))]


def test_the_newest_base_backups_are_kept_at_any_age() -> None:
    """And the only one, however old it is, with all of its WAL."""
    bases = [base(400, 1), base(300, 5), base(200, 9)]
    keys = [*chain(*bases), *wal(range(12))]
    assert kept(keys, window=timedelta(days=35), min_bases=2) == [*bases[1], *bases[2], *wal(range(5, 12))]
    assert kept(keys, min_bases=1) == [*bases[2], *wal(range(9, 12))]
    assert kept([*bases[0], *wal(range(12))], window=timedelta(days=35)) == [*bases[0], *wal(range(1, 12))]


def test_wal_follows_its_timeline() -> None:
    """A base backup needs what comes after it, on its own timeline and on later ones."""
    first, second = base(50, 2), base(10, 6, timeline=2)
    keys = [*first, *second, *wal(range(12)), *wal(range(5, 9), timeline=2)]
    assert kept(keys, min_bases=2) == [*first, *second, *wal(range(2, 12)), *wal(range(5, 9), timeline=2)]
    assert kept(keys, min_bases=1) == [*second, *wal(range(6, 9), timeline=2)]


def test_what_is_not_wal_of_a_place_stays() -> None:
    """Histories of timelines, whose archive it is, and what nobody knows."""
    extra = [wal_key(ROOT, "00000002.history"), "pg/shop/cluster.json", "pg/shop/note", "pg/shop/wal/x"]
    parts = [
        wal_key(ROOT, f"{name_of(number)}{end}") for number in (1, 7) for end in (".partial", ".00000028.backup")
    ]
    assert kept([*base(1, 5), *extra, *parts], min_bases=1) == [*base(1, 5), *extra, *parts[2:]]


def test_without_a_complete_base_backup_nothing_goes() -> None:
    """Nobody knows which WAL it takes. One that was not finished counts for nothing, and goes after a day."""
    keys = wal(range(5))
    assert kept(keys, min_bases=1) == keys
    data, _ = base(3, 2)
    assert kept([data, *keys], min_bases=1) == [data, *keys]
    assert kept([data, *base(2, 4), *keys], min_bases=1) == [*base(2, 4), *wal([4])]
    under_way, _ = base(0.5, 2)
    assert under_way in kept([under_way, *base(0.2, 4)], min_bases=1)


def test_compressed_and_encrypted_names_count_the_same() -> None:
    keys = [f"{key}.zst.age" for key in [*base(50, 2), *base(10, 6), *wal(range(8))]]
    assert kept(keys, min_bases=1) == [f"{key}.zst.age" for key in [*base(10, 6), *wal(range(6, 8))]]


def fill(clouds: Clouds, keys: Iterable[str], **options: Any) -> ReplicatedStorage:
    """Return a set that has these keys."""
    store = ReplicatedStorage(list(clouds.archive.store.backends.values()), min_copies=1, name="wal", **options)
    for key in keys:
        assert store.replicate(io.BytesIO(key.encode()), key)
    return store


def test_prune_lets_wal_go_with_the_base_backups(clouds: Clouds) -> None:
    """On each backend; one that lacks the older base backup is not taken for one that needs less."""
    now = time.time()
    old, new = base(40, 1, now=now), base(20, 5, now=now)
    rule = Retention(archives=(ArchiveRule(ROOT, window=timedelta(days=30)),))
    store = fill(clouds, [*old, *new, *wal(range(8))], retention={"r2": rule, "b2": rule})
    clouds.lose("b2", old[1].removeprefix(f"{ROOT}/"))
    assert store.prune(dry_run=False).status == "complete"
    for cloud in ("r2", "b2"):
        assert f"wal/{name_of(0)}" not in clouds.stored(cloud)
        assert {f"wal/{name_of(number)}" for number in range(1, 8)} <= set(clouds.stored(cloud))
    assert store.repair().status == "complete"
    shorter = Retention(archives=(ArchiveRule(ROOT, window=timedelta(days=10)),))
    again = fill(clouds, [], retention={"r2": shorter, "b2": shorter})
    assert again.prune(dry_run=False).status == "complete"
    assert again.status().status == "complete"
    for cloud in ("r2", "b2"):
        assert {f"{ROOT}/{name}" for name in clouds.stored(cloud)} == {*new, *wal(range(5, 8))}


@pytest.fixture
def cli(clouds: Clouds) -> Cli:
    """A configuration in which the archive is that of a cluster, and one cloud's own retention keeps a day."""
    made = Cli(clouds.home)
    (clouds.home / "fsbackup.yaml").write_text(CONFIG)
    return made


def test_prune_knows_a_cluster_by_its_prefix_and_explains(cli: Cli, clouds: Clouds) -> None:
    """Which base backup needs a segment, or that none does."""
    now = time.time()
    old, new = base(40, 1, now=now), base(31, 5, now=now)
    label = new[0].split("/")[3]
    fill(clouds, [*old, *new, *wal(range(8))])
    explained = cli("prune", "--explain", wal([6])[0]).out
    assert f"r2: base backup {label} needs the WAL from {name_of(5)} on" in explained
    gone = cli("prune", "--explain", wal([4])[0]).out
    assert f"b2: no base backup that is kept needs it: they begin with {name_of(5)} ({label})" in gone
    assert cli("prune", "pg/shop/", "--set", "wal").code == 0
    for cloud in ("r2", "b2"):
        assert {f"{ROOT}/{name}" for name in clouds.stored(cloud)} == {*new, *wal(range(5, 8))}
    assert cli("verify", "--set", "wal").code == 0
