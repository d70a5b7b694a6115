"""`prune` where something speaks against it: it leaves what it should not touch, and says what to mend first."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fsbackup.errors import NoHealthyReplicaError
from fsbackup.replication.prune import PruneReport
from fsbackup.retention import Retention
from tests.replication.prune_helpers import (
    DAY,
    KEY,
    NEW,
    Disks,
    assert_untouched,
    daily,
    days,
    drop,
    outcomes,
    reason,
    record,
)
from tests.replication.raw_replicas import manifest_name, pending_name, sealed

#: What is wrong with the copy that the only other backend should have, and what is said of it.
LACKING: dict[str, tuple[Callable[[Disks], object], str]] = {
    "missing": (lambda disks: drop(disks, "b"), "b should have it, but has no copy"),
    "data gone": (lambda disks: disks.raw_replicas["b"].drop(KEY), "b should have it, but has no copy"),
    "short": (
        lambda disks: disks.raw_replicas["b"].put(KEY, b"?"),
        "b should have it, but has a copy that does not match",
    ),
    "manifest gone": (
        lambda disks: disks.raw_replicas["b"].drop(manifest_name(KEY)),
        "b should have it, but has a copy that does not match its manifest",
    ),
    "manifest damaged": (
        lambda disks: disks.raw_replicas["b"].put(manifest_name(KEY), b"{}"),
        "b should have it, but has a copy that does not match its manifest",
    ),
    "stale": (
        lambda disks: disks.put("a", KEY, 40, data=b"newer", generation=2),
        "b should have it, but has an older version",
    ),
}


@pytest.mark.parametrize("rule", [None, days(365)], ids=["no rule", "a longer rule"])
@pytest.mark.parametrize("lacking", LACKING)
def test_the_last_proven_copy_stays_while_another_backend_wants_it(
    tmp_path: Path, lacking: str, rule: Retention | None
) -> None:
    """Held, with why, and something to mend; once that is mended, it goes."""
    disks = Disks(tmp_path, "ab")
    disks.put("ab", KEY, 40)
    disks.put("ab", NEW, 0)
    harm, why = LACKING[lacking]
    harm(disks)
    store = disks.store({"a": days(30)} | ({"b": rule} if rule else {}))
    report = assert_untouched(disks, store, "degraded")
    assert outcomes(report) == {(KEY, "a"): "blocked"}
    assert f"it is the last proven copy: {why}" in reason(report)
    assert store.repair().status == "complete"
    assert store.prune(dry_run=False).status == "complete"
    assert disks.whole("a") == {NEW}
    assert disks.whole("b") == {KEY, NEW}


def test_it_goes_when_one_of_those_who_want_it_proves_it(old: Disks) -> None:
    """One that lacks it is refilled from there."""
    drop(old, "b")
    report = old.store({"a": days(30)}).prune(dry_run=False)
    assert report.status == "complete"
    assert reason(report).endswith("; proven on c")
    assert old.keys("a") == {NEW}


def test_a_copy_that_is_proven_where_nobody_wants_it_is_no_proof(old: Disks) -> None:
    """Else both would go at once, each because of the other."""
    drop(old, "c")
    report = assert_untouched(old, old.store({"a": days(30), "b": days(30)}), "degraded")
    assert outcomes(report) == {(KEY, "a"): "blocked", (KEY, "b"): "blocked"}
    assert "too few backends that should have it prove it: c should have it, but has no copy" in reason(report)


def test_a_backend_wants_what_is_in_its_own_floor(tmp_path: Path) -> None:
    """Though the others have newer ones: it would keep its copy, if that were not damaged."""
    disks = Disks(tmp_path, "ab")
    disks.put("ab", KEY, 40)
    disks.put("a", NEW, 0)
    disks.raw_replicas["b"].put(KEY, b"?")
    report = assert_untouched(disks, disks.store(dict.fromkeys("ab", days(30))), "degraded")
    assert outcomes(report) == {(KEY, "a"): "blocked"}


def test_a_backend_wants_for_its_floor_what_it_lacks(tmp_path: Path) -> None:
    """An object that was put back later is older by its manifest, and does not push itself out of the floor."""
    disks = Disks(tmp_path, "ab")
    disks.put("a", KEY, 40, listed=35)
    disks.put("ab", NEW, 0)
    report = assert_untouched(disks, disks.store({"a": days(30), "b": days(30, 2)}), "degraded")
    assert outcomes(report) == {(KEY, "a"): "blocked"}


def test_what_has_no_manifest_takes_no_place_in_a_floor(tmp_path: Path) -> None:
    """Else a file of somebody's would have the newest backup expire."""
    disks = Disks(tmp_path, "ab")
    disks.put("a", KEY, 40)
    disks.raw_replicas["a"].put(NEW, b"not ours")
    store = disks.store(dict.fromkeys("ab", days(30)))
    assert [(each.key, each.state) for each in store.verify().problems if each.backend == "b"] == [
        (KEY, "missing"),
        (NEW, "missing"),
    ]
    assert store.prune(dry_run=False).count("deleted") == 0


@pytest.mark.parametrize("what", ["no manifest", "damaged manifest", "short data"])
def test_what_proves_or_mends_another_copy_stays(old: Disks, what: str) -> None:
    """Without it nobody could prove that data any more, or tell whose it is, or ever get rid of it."""
    if what == "short data":
        old.raw_replicas["c"].put(KEY, b"?")
    else:
        old.raw_replicas["c"].drop(manifest_name(KEY))
    if what == "damaged manifest":
        old.raw_replicas["c"].put(manifest_name(KEY), b"?")
        old.touch("c", KEY, 40)
    store = old.store(dict.fromkeys("abc", days(30)))
    report = assert_untouched(old, store, "degraded")
    assert "only this copy can prove or repair the one on c: run `fsbackup repair`" in reason(report)
    assert store.repair().status == "complete"
    assert store.prune(dry_run=False).count("deleted") == 2
    assert old.whole("c") == {KEY, NEW}


@pytest.mark.parametrize("name", ["b", "c"])
def test_a_backend_that_is_away_holds_up_what_only_it_should_have(disks: Disks, name: str) -> None:
    """Nothing goes from it, of course; elsewhere goes only what a third one wants and proves."""
    for day, on in enumerate(("abc", "ac", "ab", "abc")):
        disks.put(on, daily(day), 44 - day)
    disks.put("abc", NEW, 0)
    store = disks.store({"a": days(30)})
    with disks.away(name):
        report = store.prune(dry_run=False)
    assert report.status == "degraded"
    assert report.backends[name].stopped is not None
    lone = daily(1 if name == "c" else 2)
    assert disks.keys("a") == {NEW, lone}
    assert f"{name} should have it, but it cannot be listed" in reason(
        PruneReport("", True, {}, 0.0, tuple(step for step in report.steps if step.outcome == "blocked"))
    )


def test_a_backend_that_cannot_be_listed_may_want_anything(old: Disks) -> None:
    """Whatever its rule says of what the others list: which are its own newest is not known."""
    with old.away("b"):
        report = old.store(dict.fromkeys("abc", days(30))).prune(dry_run=False)
    assert (report.status, outcomes(report)) == ("degraded", {(KEY, "a"): "blocked", (KEY, "c"): "blocked"})
    assert all(old.whole(name) == {KEY, NEW} for name in "abc")


def test_nothing_goes_where_it_cannot_be_listed(old: Disks) -> None:
    """The backend with the rule is away itself; and when all are, that is an error."""
    store = old.store({"a": days(30)})
    with old.away("a"):
        report = store.prune(dry_run=False)
        assert (report.status, report.steps) == ("degraded", ())
        assert "cannot be listed" in str(report.backends["a"].stopped)
        with old.away("b"), old.away("c"), pytest.raises(NoHealthyReplicaError):
            store.prune(dry_run=False)
    assert all(old.whole(name) == {KEY, NEW} for name in "abc")


def test_a_clock_that_is_behind_the_newest_object_stops_it(old: Disks) -> None:
    """Also when that is on a backend without a rule; what is a little newer is only another machine's clock."""
    store = old.store({"a": days(30)})
    old.put("c", daily(41), -1)
    report = assert_untouched(old, store, "degraded")
    assert report.steps == ()
    assert str(report.backends["a"].stopped) == f"this machine's clock is behind its newest object ({daily(41)!r})"
    assert report.backends["c"].stopped is None
    old.put("c", daily(41), -600 / DAY)
    assert store.prune(dry_run=False).count("deleted") == 1


def test_a_clock_that_is_behind_brings_nothing_back(old: Disks) -> None:
    """What has expired by it has expired."""
    store = old.store({"a": days(30)})
    store.prune(dry_run=False)
    old.put("abc", daily(41), -1)
    assert store.status().status == "complete"
    assert store.repair().steps == ()


def damage(disks: Disks) -> None:
    disks.raw_replicas["a"].put(manifest_name(KEY), b"{}")
    disks.touch("a", KEY, 40)


#: What is wrong with the copy that is to go, what is said, and whether it is the data alone.
BAD: dict[str, tuple[Callable[[Disks], object], str]] = {
    "short": (lambda disks: disks.raw_replicas["a"].put(KEY, b"?"), "its data does not match its manifest"),
    "manifest damaged": (
        damage,
        "its manifest is damaged: run `fsbackup repair`",
    ),
    "conflict": (lambda disks: disks.put("b", KEY, 40, data=b"other"), "two contents under one generation"),
    "deleted": (
        lambda disks: disks.raw_replicas["b"].set_tombstone(KEY, generation=1),
        "the object was deleted on 2026-01-01T00:00:00+00:00: run `fsbackup repair`",
    ),
    "replacement announced": (
        lambda disks: disks.raw_replicas["a"].put(pending_name(KEY), announcement(2)),
        "another process is storing, or has stored, another version",
    ),
    "announcement damaged": (
        lambda disks: disks.raw_replicas["a"].put(pending_name(KEY), b"{}"),
        "another process is storing, or has stored, another version",
    ),
}


def announcement(generation: int) -> bytes:
    """Return an announcement of the key as it is stored."""
    return json.dumps(sealed(record(KEY, b"new", 0.0, generation=generation))).encode()


@pytest.mark.parametrize("bad", BAD)
def test_what_is_not_in_order_is_held(old: Disks, bad: str) -> None:
    """Whose it is, or which one, is for repair or a person to find out."""
    harm, why = BAD[bad]
    harm(old)
    report = assert_untouched(old, old.store({"a": days(30)}), "degraded")
    assert outcomes(report) == {(KEY, "a"): "blocked"}
    assert why in reason(report)


def test_an_announcement_that_is_done_goes_with_it(old: Disks) -> None:
    """A crash left it behind its own manifest."""
    old.raw_replicas["a"].put(pending_name(KEY), announcement(1))
    assert old.store({"a": days(30)}).prune(dry_run=False).count("deleted") == 1
    assert old.whole("a") == {NEW}
