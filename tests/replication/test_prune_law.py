"""The law of retention, for any layout of keys and any rule.

Never let go are: what a job has just found at its source, the newest `keep_last` of every series, what a
rule keeps, what is of no series, and the last proven copy of what some backend should have. Judged by
`tests.retention_judge`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from unittest.mock import patch

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from fsbackup import ReplicatedStorage
from fsbackup.retention import Retention
from tests.replication.layouts import MISTAKE, NAMES, AgedStore, World, templates, worlds
from tests.replication.memory import backend
from tests.retention_judge import kept
from tests.zones import local_zone

_COUNTS = st.sampled_from([0, 0, 1, 2, 5])
_RULE = st.builds(
    Retention,
    max_age=st.none() | st.sampled_from([1, 7, 30]).map(lambda days: timedelta(days=days)),
    keep_last=st.integers(1, 3),
    keep_daily=_COUNTS,
    keep_weekly=_COUNTS,
    keep_monthly=_COUNTS,
    destinations=st.just(tuple(templates())),
    series=st.sampled_from([None, None, MISTAKE]),
)
Rules = Mapping[str, Retention | None]
RULES = st.fixed_dictionaries(dict.fromkeys(NAMES, st.one_of(_RULE, _RULE, st.none())))


def prune(world: World, rules: Rules, min_copies: int) -> tuple[dict[str, AgedStore], bool]:
    """Prune as a job does after its run; return what is left, and whether it had anything to mend."""
    stores = {name: AgedStore(name, world) for name in NAMES}
    some = {name: rule for name, rule in rules.items() if rule is not None}
    replicated = ReplicatedStorage([*map(backend, stores.values())], retention=some, min_copies=min_copies)
    if not some:
        return stores, False
    with local_zone(world.zone), patch("fsbackup.clock.now", return_value=world.now):
        report = replicated.prune(dry_run=False, found_at_source=world.found)
    assert report.status != "failed", report.as_dict()
    return stores, bool(report.count("blocked"))


def newest_of_each_series(world: World, name: str, rule: Retention) -> set[str]:
    """Return the newest `keep_last` of each series that a backend lists."""
    of_series: dict[object, list[tuple[float | None, str]]] = {}
    for key, series, when in world.listed(name, rule):
        of_series.setdefault(series or key, []).append((when, key))
    return {key for times in of_series.values() for _, key in sorted(times)[-rule.keep_last :]}


def check_the_law(world: World, rules: Rules, min_copies: int) -> None:
    """Prune, and judge what is left."""
    before = {name: AgedStore(name, world) for name in NAMES}
    after, _ = prune(world, rules, min_copies)
    ruled = {name: kept(world.listed(name, rules[name]), rules[name], world.now, world.zone) for name in NAMES}
    wanted = {name: kept(world.listed(NAMES, rules[name]), rules[name], world.now, world.zone) for name in NAMES}
    for name, rule in rules.items():
        gone = before[name].keys() - after[name].keys()
        assert not gone & world.found
        assert rule is None or not gone & newest_of_each_series(world, name, rule)
        assert not gone & ruled[name]
        for key in gone:
            should = [
                other
                for other in NAMES
                if other != name and key in (ruled if world.objects[key].have[other] != "none" else wanted)[other]
            ]
            proving = [other for other in should if key in after[other].proven()]
            assert len(proving) >= min(min_copies, len(should)), f"{key} is gone from {name}"


def check_that_the_rest_goes(world: World, rules: Rules, min_copies: int) -> None:
    """Where everything is proven everywhere, all goes that no rule keeps and no run has just found."""
    after, blocked = prune(world, rules, min_copies)
    assert not blocked
    for name in NAMES:
        ruled = kept(world.listed(name, rules[name]), rules[name], world.now, world.zone)
        assert after[name].keys() == after[name].proven() == ruled | world.found


LONG = settings(max_examples=300, deadline=None, phases=(Phase.reuse, Phase.generate))
SHORT = settings(LONG, max_examples=30)
_ANY, _WHOLE = (given(worlds(whole=whole), RULES, st.integers(1, 3)) for whole in (False, True))

test_the_law = SHORT(_ANY(check_the_law))
test_what_nothing_keeps_goes = SHORT(_WHOLE(check_that_the_rest_goes))
test_the_law_in_many_worlds = pytest.mark.matrix(LONG(_ANY(check_the_law)))
test_what_nothing_keeps_goes_in_many_worlds = pytest.mark.matrix(LONG(_WHOLE(check_that_the_rest_goes)))
