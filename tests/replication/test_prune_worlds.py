"""`prune` in worlds drawn at random: what must hold whatever is where, of any age, and in any state."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from fsbackup.replication.prune import PruneReport
from fsbackup.retention import Retention, decide
from tests.replication.prune_helpers import Disks, daily, days
from tests.replication.raw_replicas import manifest_name, proves

NAMES = "abc"
#: Objects by the number of their day: later ones are younger. Two series.
KEYS = [daily(day, series) for series in ("db", "files") for day in range(5)]
Have = str  # "good", "short", "bare" (no manifest), "manifest" (no data), "stale" or "none"


@dataclass(frozen=True)
class Drawn:
    """One object of a world: its age in days, what each backend has of it, and of which age it lists that."""

    age: float
    have: Mapping[str, Have]
    listed: Mapping[str, float]


_RULE = st.none() | st.builds(days, st.sampled_from([30, 60]), st.integers(1, 3), keep_weekly=st.integers(0, 2))
RULES = st.fixed_dictionaries(dict.fromkeys(NAMES, _RULE)).map(
    lambda drawn: {name: rule for name, rule in drawn.items() if rule is not None}
)
_HAVE = st.sampled_from(["good"] * 6 + ["none"] * 3 + ["short", "bare", "manifest", "stale"])
_BACK = st.sampled_from([0.0] * 4 + [10.0, 40.0])


@st.composite
def worlds(draw: st.DrawFn, *, straight: bool) -> dict[str, Drawn]:
    """Draw a world; in a `straight` one every copy is listed as old as its manifest says."""
    ages = draw(st.lists(st.sampled_from([0.5 + 5 * n for n in range(20)]), min_size=10, max_size=10, unique=True))
    ages = sorted(ages[:5], reverse=True) + sorted(ages[5:], reverse=True)
    return {
        key: Drawn(
            age,
            {name: draw(_HAVE) for name in NAMES},
            {name: age if straight else max(0.1, age - draw(_BACK)) for name in NAMES},
        )
        for key, age in zip(KEYS, ages, strict=True)
    }


def build(disks: Disks, states: Mapping[str, Drawn]) -> None:
    """Make the world."""
    for key, drawn in states.items():
        stale = "stale" in drawn.have.values()
        for name, have in drawn.have.items():
            if have == "none":
                continue
            newest = have != "stale"
            data = key.encode() if newest else key.encode() + b" before"
            generation = 2 if stale and newest else 1
            disks.put(name, key, drawn.age, data=data, generation=generation, listed=drawn.listed[name])
            raw = disks.raw_replicas[name]
            if have == "short":
                raw.put(key, b"?")
            elif have == "bare":
                raw.drop(manifest_name(key))
            elif have == "manifest":
                raw.drop(key)


def proven(disks: Disks, name: str, key: str) -> str | None:
    """Return the hash of what a backend proves under a key."""
    record, data = disks.raw_replicas[name].manifest(key), disks.raw_replicas[name].get(key)
    return record["sha256"] if record is not None and data is not None and proves(record, data) else None


def newest(disks: Disks, key: str) -> str | None:
    """Return the hash of the newest version that any backend proves."""
    found = [disks.raw_replicas[name].manifest(key) for name in NAMES if proven(disks, name, key)]
    return max((each["generation"], each["sha256"]) for each in found if each)[1] if found else None


def having(states: Mapping[str, Drawn], name: str) -> list[str]:
    """Return what a backend has with data and a manifest."""
    return [key for key, drawn in states.items() if drawn.have[name] not in ("none", "bare", "manifest")]


def run_prune(disks: Disks, rules: Mapping[str, Retention]) -> PruneReport | None:
    return disks.store(rules).prune(dry_run=False) if rules else None


def missed(disks: Disks, rules: Mapping[str, Retention]) -> set[tuple[str, str]]:
    """Return what verify misses."""
    return {
        (each.key, each.backend)
        for each in disks.store(rules).verify().problems
        if each.state in ("missing", "lost")
    }


def check_always(disks: Disks, states: Mapping[str, Drawn], rules: Mapping[str, Retention]) -> None:
    """Prune, and check what holds of every world."""
    names = {name: disks.raw_replicas[name].names() for name in NAMES}
    proof = {key: newest(disks, key) for key in states}
    misses = missed(disks, rules)
    report = run_prune(disks, rules)
    assert report is None or report.status in ("complete", "degraded")
    for name in NAMES:
        gone = names[name] - disks.raw_replicas[name].names()
        assert disks.raw_replicas[name].names() <= names[name]
        assert {key for key in states if key in gone} <= {key for key in states if manifest_name(key) in gone}
        assert name in rules or not gone
        for key in filter(states.__contains__, gone):
            limit = rules[name].max_age
            assert limit is not None
            assert states[key].have[name] in ("good", "stale")
            assert min(states[key].age, states[key].listed[name]) * 86400 > limit.total_seconds()
        for series in ("db", "files"):
            had = [key for key in having(states, name) if key.startswith(series)]
            left = [key for key in had if key not in gone]
            assert name not in rules or len(left) >= min(len(had), rules[name].keep_last)
    if len(rules) < len(NAMES):
        assert {key: newest(disks, key) for key in states} == proof
    new = missed(disks, rules) - misses
    assert not {(key, name) for key, name in new if not becomes_wanted(states, rules.get(name))}


def becomes_wanted(states: Mapping[str, Drawn], rule: Retention | None) -> bool:
    """Tell whether a calendar rule may want one more object than before.

    Where the oldest listing of an object goes, the object counts as younger from then on, and by the calendar an
    older one of its series may take its place.
    """
    mislead = any(len(set(drawn.listed.values())) > 1 for drawn in states.values())
    by_calendar = rule and any((rule.keep_daily, rule.keep_weekly, rule.keep_monthly, rule.keep_yearly))
    return mislead and bool(by_calendar)


def kept_by_any(disks: Disks, states: Mapping[str, Drawn], rules: Mapping[str, Retention]) -> set[str]:
    """Return what some backend's rule keeps, of all there is anywhere: worked out by the pure decision."""
    everything = {key for name in NAMES for key in having(states, name)}
    objects = [(key, disks.now - states[key].age * 86400) for key in sorted(everything)]
    wanted = set(everything) if len(rules) < len(NAMES) else set()
    for rule in rules.values():
        wanted |= {each.key for each in decide(objects, rule, disks.now) if each.keep}
    return wanted


def check_that_what_is_kept_stays_provable(states: dict[str, Drawn], rules: dict[str, Retention]) -> None:
    """In the version that was provable; and of each series the newest so many stay on each backend."""
    with tempfile.TemporaryDirectory() as root:
        disks = Disks(Path(root), NAMES)
        build(disks, states)
        proof = {key: newest(disks, key) for key in kept_by_any(disks, states, rules)}
        floors = {
            (name, key)
            for name, rule in rules.items()
            for series in ("db", "files")
            for key in [each for each in having(states, name) if each.startswith(series)][-rule.keep_last :]
        }
        check_always(disks, states, rules)
        assert {key: newest(disks, key) for key in proof} == proof
        assert all(key in disks.keys(name) for name, key in floors)
        again = run_prune(disks, rules)
        assert again is None or not again.count("deleted") + again.count("cleared")


def check_when_ages_mislead(states: dict[str, Drawn], rules: dict[str, Retention]) -> None:
    """Copies that were put back later: nothing goes too early, or leaves its floor, or is missed afterwards."""
    with tempfile.TemporaryDirectory() as root:
        disks = Disks(Path(root), NAMES)
        build(disks, states)
        check_always(disks, states, rules)


LONG = settings(max_examples=40, deadline=None, phases=(Phase.reuse, Phase.generate))
SHORT = settings(LONG, max_examples=8)

test_what_any_rule_keeps_stays_provable = SHORT(
    given(worlds(straight=True), RULES)(check_that_what_is_kept_stays_provable)
)
test_whatever_the_listings_say_of_ages = SHORT(given(worlds(straight=False), RULES)(check_when_ages_mislead))
test_what_any_rule_keeps_stays_provable_in_more_worlds = pytest.mark.matrix(
    LONG(given(worlds(straight=True), RULES)(check_that_what_is_kept_stays_provable))
)
test_whatever_the_listings_say_of_ages_in_more_worlds = pytest.mark.matrix(
    LONG(given(worlds(straight=False), RULES)(check_when_ages_mislead))
)
