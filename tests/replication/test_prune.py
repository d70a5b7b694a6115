"""`prune`: what each backend's retention lets go, removed there and nowhere else; and all that stops it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fsbackup import ReplicatedStorage
from fsbackup.errors import ConfigError, NoHealthyReplicaError, ObjectNotFoundError
from fsbackup.replication.prune import PruneReport, PruneStep
from fsbackup.retention import Retention
from tests.replication.eyes import manifest_name, pending_name
from tests.replication.prune_kit import DAY, Disks, content, daily, days, record

KEY = daily(0)
NEW = daily(40)


@pytest.fixture
def disks(tmp_path: Path) -> Disks:
    """Return three empty disks."""
    return Disks(tmp_path)


@pytest.fixture
def old(disks: Disks) -> Disks:
    """Return three disks with an object of 40 days and one of today, of one series."""
    disks.put("abc", KEY, 40)
    disks.put("abc", NEW, 0)
    return disks


def outcomes(report: PruneReport) -> dict[tuple[str, str], str]:
    """Return what became of each copy that was not simply kept."""
    return {(step.key, step.backend): step.outcome for step in report.steps}


def reason(report: PruneReport, backend: str = "a") -> str:
    """Return the one reason that a report has for a backend."""
    (found,) = [step.reason for step in report.steps if step.backend == backend]
    return found


def assert_untouched(disks: Disks, store: ReplicatedStorage, expected: str) -> PruneReport:
    """Prune, and check that it removes nothing and leaves something to be mended."""
    before = disks.snapshot()
    report = store.prune(dry_run=False)
    assert disks.snapshot() == before
    assert report.status == expected, report.as_dict()
    return report


def test_each_backend_lets_go_by_its_own_rule(disks: Disks) -> None:
    """30 days here, 60 there, for ever on the third; no tombstone, no manifest, no directory is left behind."""
    for day in range(90):
        disks.put("abc", daily(day), 89.5 - day)
    everything = {daily(day) for day in range(90)}
    store = disks.store({"a": days(30, 7), "b": days(60, 7)})
    heard: list[PruneStep] = []
    report = store.prune(dry_run=False, hear=heard.append)
    assert report.status == "complete", report.as_dict()
    assert disks.whole("a") == {daily(day) for day in range(60, 90)}
    assert disks.whole("b") == {daily(day) for day in range(30, 90)}
    assert disks.whole("c") == everything
    gone = [step for step in heard if step.outcome == "let go"]
    assert len(gone) == len(report.steps) == report.count("let go") == 90
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
    assert store.prune(dry_run=False).count("let go") == 0


def test_what_went_is_expired_and_is_not_brought_back(old: Disks) -> None:
    """To status, verify and repair it is as it should be; what the floor wants is still missed and refilled."""
    store = old.store({"a": days(30), "b": days(30)}, min_copies=3)
    assert store.prune(dry_run=False).count("let go") == 2
    for name in "ab":
        assert old.whole(name) == {NEW}
    status = store.status()
    assert (status.status, status.complete, status.objects) == ("complete", 2, 2)
    assert dict(status.backends["a"].states) == {"present": 1, "expired": 1}
    assert store.verify(deep=True).status == "complete"
    repaired = store.repair()
    assert (repaired.status, repaired.steps) == ("complete", ())
    assert store.download(KEY, old.root / "back")
    old.eyes["a"].drop(NEW)
    old.eyes["a"].drop(manifest_name(NEW))
    assert dict(store.status().backends["a"].states) == {"missing": 1, "expired": 1}
    assert [(each.key, each.state) for each in store.verify().problems] == [(NEW, "missing")]
    assert store.repair().done == {"refill": 1}
    assert old.whole("a") == {NEW}


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


def test_keys_without_a_date_and_other_peoples_files_stay(old: Disks) -> None:
    """Each is the only one of its series, is no key of ours, or has no manifest."""
    old.put("abc", "db/latest.gz", 4000)
    for name in ("db/2001-01-01.gz", "db/2001-01-02%zz", "db/.2001-01-03.fsbackup-tmp"):
        old.eyes["a"].put(name, b"not ours")
    heard: dict[str, str] = {}
    store = old.store({"a": days(30)})
    store.prune(
        dry_run=False, hear=lambda step: heard.update({step.key: step.reason} if step.backend == "a" else {})
    )
    assert old.keys("a") == {
        NEW,
        "db/latest.gz",
        "db/2001-01-01.gz",
        "db/2001-01-02%zz",
        "db/.2001-01-03.fsbackup-tmp",
    }
    assert heard["db/2001-01-01.gz"] == "it has no manifest, so nothing says that it is ours to remove"
    assert heard["db/latest.gz"] == "the only one of its series: its key has no date"


def test_a_prefix_restricts_what_is_acted_upon_not_what_counts(disks: Disks) -> None:
    """Whole segments; the newer ones of the series, outside of it, hold no place free."""
    for day in (0, 31, 365, 366):
        key = daily(day, "full").replace("-", "/")
        disks.put("ab", key, 500 - day)
    disks.put("ab", "full/2025/012/x-2025-01-01", 500)
    store = disks.store({"a": days(30, 2)})
    before = disks.keys("b")
    assert store.prune("full/2025/01", dry_run=False).count("let go") == 1
    assert disks.whole("a") == before - {"full/2025/01/01.gz"}
    assert store.prune("full/2026", dry_run=False).count("let go") == 0


def test_nothing_is_removed_unless_asked(old: Disks) -> None:
    """A dry run is the default: it says what would go, and nothing is touched."""
    before = old.snapshot()
    report = old.store({"a": days(30), "b": days(30)}).prune()
    assert old.snapshot() == before
    assert (report.dry_run, report.status) == (True, "complete")
    assert outcomes(report) == {(KEY, "a"): "planned", (KEY, "b"): "planned"}
    assert report.backends["a"].bytes_freed == len(content(KEY))
    assert report.as_dict()["steps"][0]["outcome"] == "planned"


#: What is wrong with the copy that the only other backend should have, and what is said of it.
LACKING: dict[str, tuple[Callable[[Disks], object], str]] = {
    "missing": (lambda disks: drop(disks, "b"), "b should have it, and has not"),
    "data gone": (lambda disks: disks.eyes["b"].drop(KEY), "b should have it, and has not"),
    "short": (lambda disks: disks.eyes["b"].put(KEY, b"?"), "b should have it, and has a copy that its manifest"),
    "manifest gone": (
        lambda disks: disks.eyes["b"].drop(manifest_name(KEY)),
        "b should have it, and has a copy that its manifest does not fit",
    ),
    "manifest damaged": (
        lambda disks: disks.eyes["b"].put(manifest_name(KEY), b"{}"),
        "b should have it, and has a copy that its manifest does not fit",
    ),
    "stale": (
        lambda disks: disks.put("a", KEY, 40, data=b"newer", generation=2),
        "b should have it, and has an older version",
    ),
}


def drop(disks: Disks, name: str, key: str = KEY) -> None:
    disks.eyes[name].drop(key)
    disks.eyes[name].drop(manifest_name(key))


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
    assert outcomes(report) == {(KEY, "a"): "held"}
    assert f"it is the only proven copy left: {why}" in reason(report)
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
    assert outcomes(report) == {(KEY, "a"): "held", (KEY, "b"): "held"}
    assert "it is not proven where it should be: c should have it, and has not" in reason(report)


def test_a_backend_wants_what_is_in_its_own_floor(tmp_path: Path) -> None:
    """Though the others have newer ones: it would keep its copy, if that were not damaged."""
    disks = Disks(tmp_path, "ab")
    disks.put("ab", KEY, 40)
    disks.put("a", NEW, 0)
    disks.eyes["b"].put(KEY, b"?")
    report = assert_untouched(disks, disks.store(dict.fromkeys("ab", days(30))), "degraded")
    assert outcomes(report) == {(KEY, "a"): "held"}


def test_a_backend_wants_for_its_floor_what_it_lacks(tmp_path: Path) -> None:
    """An object that was put back later is older by its manifest, and does not push itself out of the floor."""
    disks = Disks(tmp_path, "ab")
    disks.put("a", KEY, 40, listed=35)
    disks.put("ab", NEW, 0)
    report = assert_untouched(disks, disks.store({"a": days(30), "b": days(30, 2)}), "degraded")
    assert outcomes(report) == {(KEY, "a"): "held"}


def test_what_has_no_manifest_takes_no_place_in_a_floor(tmp_path: Path) -> None:
    """Else a file of somebody's would have the newest backup expire."""
    disks = Disks(tmp_path, "ab")
    disks.put("a", KEY, 40)
    disks.eyes["a"].put(NEW, b"not ours")
    store = disks.store(dict.fromkeys("ab", days(30)))
    assert [(each.key, each.state) for each in store.verify().problems if each.backend == "b"] == [
        (KEY, "missing"),
        (NEW, "missing"),
    ]
    assert store.prune(dry_run=False).count("let go") == 0


def test_what_nobody_wants_goes_everywhere(old: Disks) -> None:
    """Also with the last copy."""
    drop(old, "b")
    store = old.store(dict.fromkeys("abc", days(30)))
    report = store.prune(dry_run=False)
    assert outcomes(report) == {(KEY, "a"): "let go", (KEY, "c"): "let go"}
    assert reason(report).endswith("; no other backend's rule keeps it")
    assert all(old.whole(name) == {NEW} for name in "abc")
    assert store.status().objects == 1
    with pytest.raises(ObjectNotFoundError):
        store.restore(KEY, old.root / "back")


@pytest.mark.parametrize("damaged", [False, True], ids=["none", "damaged"])
def test_the_last_manifest_of_data_that_has_none_stays(old: Disks, damaged: bool) -> None:
    """Nobody could prove that data any more, or tell whose it is."""
    old.eyes["c"].drop(manifest_name(KEY))
    if damaged:
        old.eyes["c"].put(manifest_name(KEY), b"?")
        old.touch("c", KEY, 40)
    store = old.store(dict.fromkeys("abc", days(30)))
    report = assert_untouched(old, store, "degraded")
    assert "it proves the data on c, which has no manifest: run `fsbackup repair`" in reason(report)
    assert store.repair().status == "complete"
    assert store.prune(dry_run=False).count("let go") == 2
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
        PruneReport("", True, {}, 0.0, tuple(step for step in report.steps if step.outcome == "held"))
    )


def test_a_backend_that_cannot_be_listed_may_want_anything(old: Disks) -> None:
    """Whatever its rule says of what the others list: which are its own newest is not known."""
    with old.away("b"):
        report = old.store(dict.fromkeys("abc", days(30))).prune(dry_run=False)
    assert (report.status, outcomes(report)) == ("degraded", {(KEY, "a"): "held", (KEY, "c"): "held"})
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
    assert store.prune(dry_run=False).count("let go") == 1


def test_a_clock_that_is_behind_brings_nothing_back(old: Disks) -> None:
    """What has expired by it has expired."""
    store = old.store({"a": days(30)})
    store.prune(dry_run=False)
    old.put("abc", daily(41), -1)
    assert store.status().status == "complete"
    assert store.repair().steps == ()


#: How an object of 40 days by its listing is younger by something else.
YOUNGER: dict[str, Callable[[Disks], None]] = {
    "made later, by its manifest": lambda disks: disks.edit("a", KEY, 40, created_at="2999-01-01T00:00:00+00:00"),
    "replaced elsewhere": lambda disks: disks.put("c", KEY, 5, generation=2, listed=40),
    "put back here by repair": lambda disks: disks.touch("a", KEY, 5),
    "no date": lambda disks: disks.edit("a", KEY, 40, created_at="once"),
    "date of another type": lambda disks: disks.edit("a", KEY, 40, created_at=7),
}


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
    assert store.prune(dry_run=False).count("let go") == 1
    assert store.repair().steps == ()


def damage(disks: Disks) -> None:
    disks.eyes["a"].put(manifest_name(KEY), b"{}")
    disks.touch("a", KEY, 40)


#: What is wrong with the copy that is to go, what is said, and whether it is the data alone.
BAD: dict[str, tuple[Callable[[Disks], object], str]] = {
    "short": (lambda disks: disks.eyes["a"].put(KEY, b"?"), "its data is not what its manifest says"),
    "manifest damaged": (
        damage,
        "its manifest is damaged: run `fsbackup repair`",
    ),
    "conflict": (lambda disks: disks.put("b", KEY, 40, data=b"other"), "two contents under one generation"),
    "deleted": (
        lambda disks: disks.eyes["b"].set_manifest(KEY, tombstone()),
        "it was deleted on 2026-01-01T00:00:00+00:00: `fsbackup repair` finishes that",
    ),
    "replacement announced": (
        lambda disks: disks.eyes["a"].put(pending_name(KEY), dumped(disks, generation=2)),
        "somebody is storing, or has stored, another version",
    ),
    "announcement damaged": (
        lambda disks: disks.eyes["a"].put(pending_name(KEY), b"{}"),
        "somebody is storing, or has stored, another version",
    ),
}


def tombstone() -> dict[str, Any]:
    return {
        "format": 1,
        "kind": "tombstone",
        "key": KEY,
        "generation": 1,
        "deleted_at": "2026-01-01T00:00:00+00:00",
    }


def dumped(disks: Disks, generation: int) -> bytes:
    """Return an announcement of the key as it is stored."""
    eye = disks.eyes["c"]
    before = eye.get(manifest_name("x"))
    assert before is None
    eye.set_manifest("x", record(KEY, b"new", disks.now, generation=generation))
    made = eye.get(manifest_name("x"))
    eye.drop(manifest_name("x"))
    assert made is not None
    return made


@pytest.mark.parametrize("bad", BAD)
def test_what_is_not_in_order_is_held(old: Disks, bad: str) -> None:
    """Whose it is, or which one, is for repair or a person to find out."""
    harm, why = BAD[bad]
    harm(old)
    report = assert_untouched(old, old.store({"a": days(30)}), "degraded")
    assert outcomes(report) == {(KEY, "a"): "held"}
    assert why in reason(report)


def test_an_announcement_that_is_done_goes_with_it(old: Disks) -> None:
    """A crash left it behind its own manifest."""
    old.eyes["a"].put(pending_name(KEY), dumped(old, generation=1))
    assert old.store({"a": days(30)}).prune(dry_run=False).count("let go") == 1
    assert old.whole("a") == {NEW}


def test_what_an_interrupted_prune_left_is_cleared(old: Disks) -> None:
    """A manifest without its data, of what the rule let go; meanwhile nobody misses it, and readers find it."""
    old.eyes["a"].drop(KEY)
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
    old.eyes["a"].drop(KEY)
    drop(old, "b")
    drop(old, "c")
    store = old.store(dict.fromkeys("abc", days(30)))
    assert (store.status().objects, store.verify().objects) == (1, 1)
    assert store.verify().status == "complete"
    repaired = store.repair()
    assert (repaired.status, repaired.lost, repaired.steps) == ("complete", 0, ())
    assert outcomes(store.prune(dry_run=False)) == {(KEY, "a"): "cleared"}
    assert old.whole("a") == {NEW}


def test_the_manifest_of_what_is_lost_is_not_cleared(old: Disks) -> None:
    """Its rule keeps it, or another backend should have it and does not prove it: that is repair's business."""
    store = old.store({"a": days(30)})
    old.put("abc", daily(39), 1)
    old.eyes["a"].drop(daily(39))
    for name in "abc":
        old.eyes[name].drop(KEY)
    before = old.snapshot()
    heard: list[tuple[str, str]] = []
    report = store.prune(dry_run=False, hear=lambda step: heard.append((step.key, step.backend)))
    assert (report.status, report.steps) == ("complete", ())
    assert sorted(heard) == [(daily(39), "b"), (daily(39), "c"), (NEW, "a"), (NEW, "b"), (NEW, "c")]
    assert old.snapshot() == before
    assert {each.state for each in store.verify().problems} == {"missing", "lost"}
    assert store.repair().lost == 1


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
    assert (report.status, report.count("let go")) == ("complete", 60)
    assert store.repair().done == {"refill": 30}
    assert disks.whole("a") == {daily(day) for day in range(60, 90)}


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
