"""`prune`: what each backend's retention lets go, removed there and nowhere else, and expired from then on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from fsbackup import ReplicatedStorage
from fsbackup.errors import ConfigError, ObjectNotFoundError
from fsbackup.replication.prune import PruneReport, PruneStep
from fsbackup.retention import Retention
from tests.replication.prune_helpers import (
    DAY,
    KEY,
    NEW,
    Disks,
    assert_untouched,
    content,
    daily,
    days,
    drop,
    outcomes,
    reason,
    record,
)
from tests.replication.raw_replicas import manifest_name


def test_each_backend_lets_go_by_its_own_rule(disks: Disks) -> None:
    """30 days here, 60 there, for ever on the third; no tombstone, no manifest, no directory is left behind."""
    for day in range(90):
        disks.put("abc", daily(day), 89.5 - day)
    everything = {daily(day) for day in range(90)}
    store = disks.store({"a": days(30, 7), "b": days(60, 7)})
    heard: list[PruneStep] = []
    report = store.prune(dry_run=False, on_step=heard.append)
    assert report.status == "complete", report.as_dict()
    assert disks.whole("a") == {daily(day) for day in range(60, 90)}
    assert disks.whole("b") == {daily(day) for day in range(30, 90)}
    assert disks.whole("c") == everything
    gone = [step for step in heard if step.outcome == "deleted"]
    assert len(gone) == len(report.steps) == report.count("deleted") == 90
    assert report.count("kept") == 180
    size = len(content(daily(0)))
    assert {name: each.bytes_freed for name, each in report.backends.items()} == {
        "a": 60 * size,
        "b": 30 * size,
        "c": 0,
    }
    first = next(step for step in gone if (step.key, step.backend) == (daily(0), "a"))
    assert (first.size, first.created_at) == (size, record("", b"", disks.now - 89.5 * DAY)["created_at"])
    assert first.reason == "older than 30d (89d), 30 newer ones of its series are kept; proven on c"
    assert store.prune(dry_run=False).count("deleted") == 0


def test_what_went_is_expired_and_is_not_brought_back(old: Disks) -> None:
    """To status, verify and repair it is as it should be; what the floor wants is still missed and refilled."""
    store = old.store({"a": days(30), "b": days(30)}, min_copies=3)
    assert store.prune(dry_run=False).count("deleted") == 2
    for name in "ab":
        assert old.whole(name) == {NEW}
    status = store.status()
    assert (status.status, status.complete, status.objects) == ("complete", 2, 2)
    assert dict(status.backends["a"].states) == {"present": 1, "expired": 1}
    assert store.verify(deep=True).status == "complete"
    repaired = store.repair()
    assert (repaired.status, repaired.steps) == ("complete", ())
    assert store.download(KEY, old.root / "back")
    old.raw_replicas["a"].drop(NEW)
    old.raw_replicas["a"].drop(manifest_name(NEW))
    assert dict(store.status().backends["a"].states) == {"missing": 1, "expired": 1}
    assert [(each.key, each.state) for each in store.verify().problems] == [(NEW, "missing")]
    assert store.repair().done == {"refill": 1}
    assert old.whole("a") == {NEW}


def test_a_listing_tells_what_went_from_what_is_missing(old: Disks) -> None:
    """And so does a look at one object; a copy that the floor wants is missing, however old."""
    store = old.store({"a": days(30), "b": days(30)}, min_copies=3)
    assert store.prune(dry_run=False).count("deleted") == 2
    drop(old, "b", NEW)
    drop(old, "c", NEW)
    entries = {entry.key: entry for entry in store.ls()}
    assert dict(entries[KEY].states) == {"a": "expired", "b": "expired", "c": "present"}
    assert dict(entries[NEW].states) == {"a": "present", "b": "missing", "c": "missing"}
    assert [entries[key].is_complete for key in (KEY, NEW)] == [True, False]
    gone, lost = store.stat(KEY), store.stat(NEW)
    assert [each.state for each in gone.replicas.values()] == ["expired", "expired", "present"]
    assert [each.state for each in lost.replicas.values()] == ["present", "missing", "missing"]
    assert (gone.status, lost.status) == ("complete", "failed")
    plain = old.store({}, min_copies=3)
    assert {entry.key: list(entry.states.values())[:2] for entry in plain.ls()} == {
        KEY: ["missing", "missing"],
        NEW: ["present", "missing"],
    }
    assert plain.stat(KEY).status == "failed"


@pytest.fixture
def years(disks: Disks) -> tuple[Disks, ReplicatedStorage]:
    """Return 100 backups, of which one disk let go all but the newest 14, and their set."""
    for day in range(100):
        disks.put("abc", daily(day), 200 - 2 * day)
    store = disks.store({"a": days(30)})
    assert store.prune(dry_run=False).count("deleted") == 86
    return disks, store


def test_a_long_listing_with_much_that_went_keeps_its_order(years: tuple[Disks, ReplicatedStorage]) -> None:
    """Some are asked about, many at once, and some are not."""
    disks, store = years
    drop(disks, "a", daily(90))
    entries = list(store.ls())
    assert [entry.key for entry in entries] == [daily(day) for day in range(100)]
    states = ["expired"] * 86 + ["present"] * 14
    states[90] = "missing"
    assert [entry.states["a"] for entry in entries] == states


def test_the_floor_of_each_backend(disks: Disks) -> None:
    """The newest so many of each series stay at any age, counted by what that backend itself has."""
    for day in range(8):
        disks.put("abc" if day % 2 else "bc", daily(day), 400 - day)
        disks.put("abc", daily(day, "other"), 400 - day)
    report = disks.store({"a": days(30, 3), "b": days(30, 2)}).prune(dry_run=False)
    assert report.status == "complete", report.as_dict()
    newest = {daily(day, "other") for day in (5, 6, 7)}
    assert disks.whole("a") == {daily(day) for day in (3, 5, 7)} | newest
    assert disks.whole("b") == {daily(day, name) for day in (6, 7) for name in ("db", "other")}
    assert len(disks.whole("c")) == 16


def test_keys_of_no_series_and_other_peoples_files_stay(old: Disks) -> None:
    """Each is a series of its own, is no key of ours, or has no manifest."""
    old.put("abc", "db/latest.gz", 4000)
    for name in ("db/2001-01-01.gz", "db/2001-01-02%zz", "db/.2001-01-03.fsbackup-tmp"):
        old.raw_replicas["a"].put(name, b"not ours")
    heard: dict[str, str] = {}
    store = old.store({"a": days(30)})
    store.prune(
        dry_run=False, on_step=lambda step: heard.update({step.key: step.reason} if step.backend == "a" else {})
    )
    assert old.keys("a") == {
        NEW,
        "db/latest.gz",
        "db/2001-01-01.gz",
        "db/2001-01-02%zz",
        "db/.2001-01-03.fsbackup-tmp",
    }
    assert heard["db/2001-01-01.gz"] == "it has no manifest, so nothing proves that fsbackup stored it"
    assert heard["db/latest.gz"] == "no series: its key matches no job's destination with {now} and no `series`"


def test_a_prefix_restricts_what_is_acted_upon_not_what_counts(disks: Disks) -> None:
    """Whole segments; the newer ones of the series, outside of it, hold no place free."""
    for day in (0, 31, 365, 366):
        key = daily(day, "full").replace("-", "/")
        disks.put("ab", key, 500 - day)
    disks.put("ab", "full/2025/012/x-2025-01-01", 500)
    store = disks.store({"a": days(30, 2)})
    before = disks.keys("b")
    assert store.prune("full/2025/01", dry_run=False).count("deleted") == 1
    assert disks.whole("a") == before - {"full/2025/01/01.gz"}
    assert store.prune("full/2026", dry_run=False).count("deleted") == 0


def test_nothing_is_removed_unless_asked(old: Disks) -> None:
    """A dry run is the default: it says what would go, and nothing is touched."""
    before = old.snapshot()
    report = old.store({"a": days(30), "b": days(30)}).prune()
    assert old.snapshot() == before
    assert (report.dry_run, report.status) == (True, "complete")
    assert outcomes(report) == {(KEY, "a"): "planned", (KEY, "b"): "planned"}
    assert report.backends["a"].bytes_freed == len(content(KEY))
    assert report.as_dict()["steps"][0]["outcome"] == "planned"


def test_what_nobody_wants_goes_everywhere(old: Disks) -> None:
    """Also with the last copy."""
    drop(old, "b")
    store = old.store(dict.fromkeys("abc", days(30)))
    report = store.prune(dry_run=False)
    assert outcomes(report) == {(KEY, "a"): "deleted", (KEY, "c"): "deleted"}
    assert reason(report).endswith("; no other backend's rule keeps it")
    assert all(old.whole(name) == {NEW} for name in "abc")
    assert store.status().objects == 1
    with pytest.raises(ObjectNotFoundError):
        store.restore(KEY, old.root / "back")


#: How an object of 40 days by its listing is younger by something else.
YOUNGER: dict[str, Callable[[Disks], None]] = {
    "made later, by its manifest": lambda disks: disks.edit("a", KEY, 40, created_at="2999-01-01T00:00:00+00:00"),
    "replaced elsewhere": lambda disks: disks.put("c", KEY, 5, generation=2, listed=40),
    "put back here by repair": lambda disks: disks.touch("a", KEY, 5),
}
#: What makes its manifest a damaged one.
NO_DATE = {"no date": "once", "date of another type": 7, "date without a zone": "2025-01-01T00:00:00"}


@pytest.mark.parametrize("created_at", NO_DATE.values(), ids=NO_DATE)
def test_it_stays_without_a_date(old: Disks, created_at: object) -> None:
    old.edit("a", KEY, 40, created_at=created_at)
    report = old.store({"a": days(30)}).prune(dry_run=False)
    assert outcomes(report) == {(KEY, "a"): "blocked"}
    assert KEY in old.keys("a")


@pytest.mark.parametrize("younger", YOUNGER)
def test_it_stays_by_the_youngest_of_its_times(old: Disks, younger: str) -> None:
    """The listing only says what to ask about."""
    YOUNGER[younger](old)
    report = old.store({"a": days(30)}).prune(dry_run=False)
    assert outcomes(report) == {}
    assert KEY in old.keys("a")


def test_an_object_that_was_refilled_elsewhere_does_not_come_back(old: Disks) -> None:
    """Its copies are younger than it: by its manifest it has expired, and status asks."""
    store = old.store({"a": days(30)})
    store.prune(dry_run=False)
    for name in "bc":
        old.touch(name, KEY, 3)
    assert dict(store.status().backends["a"].states) == {"present": 1, "expired": 1}
    assert store.verify().status == "complete"
    assert store.repair().steps == ()
    assert old.keys("a") == {NEW}


def test_nor_does_it_where_other_processes_repair(old: Disks, tmp_path: Path) -> None:
    """Who mends the portions knows no rule: what expired is told them, also where only the manifest shows it."""
    backends: dict[str, Any] = {
        name: {"type": "local", "path": str(old.raw_replicas[name].base)} for name in "abc"
    }
    backends["a"]["retention"] = {"max_age": "30d"}
    three = {"backends": [*"abc"], "min_copies": 1}
    job = {"source": {"path": "x"}, "destination": "{name}/{now:%Y-%m-%d}.gz", "replication": "three"}
    config = {"version": 1, "backends": backends, "replication": {"three": three}, "jobs": {"daily": job}}
    (tmp_path / "three.yaml").write_text(yaml.safe_dump(config))
    store = ReplicatedStorage.from_config(tmp_path / "three.yaml", "three", errors="raise")
    store.prune(dry_run=False)
    for name in "bc":
        old.touch(name, KEY, 3)
    with ThreadPoolExecutor(2) as executor:
        assert store.verify(executor=executor).status == "complete"
        assert store.repair(executor=executor).steps == ()
    assert old.keys("a") == {NEW}


def test_it_stays_while_the_others_times_would_call_it_missing(old: Disks) -> None:
    """It was put on the others some minutes later; else repair would bring it back in between."""
    for name in "abc":
        for key in (KEY, NEW):
            old.touch(name, key, 30 + 2 / 1440 if key == KEY else 0)
        old.edit(name, KEY, 30 + 2 / 1440, created_at=record("", b"", old.now - 30 * DAY - 180)["created_at"])
    store = old.store({"a": days(30)})
    for name in "bc":
        old.touch(name, KEY, 30 - 2 / 1440)
    assert store.prune(dry_run=False).steps == ()
    for name in "bc":
        old.touch(name, KEY, 30 + 1 / 1440)
    assert store.prune(dry_run=False).count("deleted") == 1
    assert store.repair().steps == ()


def test_what_an_interrupted_prune_left_is_cleared(old: Disks) -> None:
    """A manifest without its data, of what the rule let go; meanwhile nobody misses it, and readers find it."""
    old.raw_replicas["a"].drop(KEY)
    store = old.store({"a": days(30)})
    assert store.status().status == "complete"
    assert store.verify().status == "complete"
    assert store.repair().steps == ()
    assert store.download(KEY, old.root / "back")
    assert outcomes(store.prune()) == {(KEY, "a"): "planned"}
    report = store.prune(dry_run=False)
    assert outcomes(report) == {(KEY, "a"): "cleared"}
    assert (report.status, report.backends["a"].bytes_freed) == ("complete", 0)
    assert old.whole("a") == {NEW}


def test_what_an_interrupted_prune_left_of_the_last_copy_is_no_loss(old: Disks) -> None:
    """Nobody wants it: to verify, status and repair there is no such object any more."""
    old.raw_replicas["a"].drop(KEY)
    drop(old, "b")
    drop(old, "c")
    store = old.store(dict.fromkeys("abc", days(30)))
    assert (store.status().objects, store.verify().objects) == (1, 1)
    assert store.verify().status == "complete"
    repaired = store.repair()
    assert (repaired.status, repaired.unrecoverable, repaired.steps) == ("complete", 0, ())
    assert outcomes(store.prune(dry_run=False)) == {(KEY, "a"): "cleared"}
    assert old.whole("a") == {NEW}


def test_the_manifest_of_what_is_lost_is_not_cleared(old: Disks) -> None:
    """Its rule keeps it, or another backend should have it and does not prove it: that is repair's business."""
    store = old.store({"a": days(30)})
    old.put("abc", daily(39), 1)
    old.raw_replicas["a"].drop(daily(39))
    for name in "abc":
        old.raw_replicas[name].drop(KEY)
    before = old.snapshot()
    heard: list[tuple[str, str]] = []
    report = store.prune(dry_run=False, on_step=lambda step: heard.append((step.key, step.backend)))
    assert (report.status, report.steps) == ("complete", ())
    assert sorted(heard) == [(daily(39), "b"), (daily(39), "c"), (NEW, "a"), (NEW, "b"), (NEW, "c")]
    assert old.snapshot() == before
    assert {each.state for each in store.verify().problems} == {"missing", "lost"}
    assert store.repair().unrecoverable == 1


def test_what_went_is_expired_also_while_another_backend_is_away(old: Disks) -> None:
    """The listings that there are say enough; nothing is brought back."""
    store = old.store({"a": days(30)})
    store.prune(dry_run=False)
    with old.away("c"):
        assert dict(store.status().backends["a"].states) == {"present": 1, "expired": 1}
        assert store.repair().done == {}
    assert old.whole("a") == {NEW}


def test_a_disk_that_lost_everything_misses_what_its_rule_keeps_and_no_more(disks: Disks) -> None:
    """Not every object is the newest of nothing: the others let go what it would not have any more."""
    for day in range(90):
        disks.put("bc", daily(day), 89.5 - day)
    store = disks.store(dict.fromkeys("abc", days(30, 7)) | {"b": days(60, 7), "c": days(60, 7)})
    assert dict(store.status().backends["a"].states) == {"missing": 30, "expired": 60}
    report = store.prune(dry_run=False)
    assert (report.status, report.count("deleted")) == ("complete", 60)
    assert store.repair().done == {"refill": 30}
    assert disks.whole("a") == {daily(day) for day in range(60, 90)}


def test_what_periods_let_go_is_expired_in_every_view(disks: Disks) -> None:
    """A day's newest is kept, its older ones are not, though they are not old; a disk lists no age."""
    keys = [f"db/{day:%Y-%m-%dT%H}0000.gz" for day in (datetime(2026, 1, 2, hour) for hour in range(3))]
    disks.now = disks.now // DAY * DAY  # all of one day, whatever time it is
    for number, key in enumerate(keys):
        disks.put("abc", key, 1 - (number + 1) / 100)
    rule = Retention(keep_daily=7, destinations=("db/{now:%Y-%m-%dT%H%M%S}.gz",))
    store = disks.store({"a": rule})
    assert store.prune(dry_run=False).count("deleted") == 2
    states = {each.key: each.states["a"] for each in store.ls()}
    assert states == {keys[0]: "expired", keys[1]: "expired", keys[2]: "present"}
    assert {key: store.stat(key).states["a"] for key in keys} == states
    disks.raw_replicas["a"].drop(keys[2])
    assert {each.key: each.states["a"] for each in store.ls()}[keys[2]] == "missing"


def test_two_prunes_at_once(disks: Disks) -> None:
    """Both end well, and what should go is gone."""
    for day in range(60):
        disks.put("abc", daily(day), 99 - day)
    reports: list[PruneReport] = []
    store = disks.store({"a": days(30), "b": days(30)})
    threads = [threading.Thread(target=lambda: reports.append(store.prune(dry_run=False))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [report.status for report in reports] == ["complete"] * 3
    assert disks.whole("a") == disks.whole("b") == {daily(59)}
    assert len(disks.whole("c")) == 60


def test_a_set_without_retention_has_nothing_to_prune(old: Disks) -> None:
    """That is a mistake in the configuration, and so is a rule for a backend that there is not."""
    with pytest.raises(ConfigError, match=r"no backend has a retention.*max_age"):
        old.store({}).prune()
    with pytest.raises(ConfigError, match="retention names z, which the set does not have"):
        old.store({"z": days(1)})
    assert_untouched(old, old.store({"a": Retention(keep_last=1)}), "complete")
