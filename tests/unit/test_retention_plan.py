"""What retention keeps, compared with a plain model of the rules, and invariants of every decision."""

from __future__ import annotations

import tracemalloc
from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fsbackup.jobs.template import fill_now, local_now
from fsbackup.retention import Decision, Plan, Retention, decide, series_of
from tests import retention_judge
from tests.zones import ZONES, local_zone

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC).timestamp()
DAY = 86_400
Objects = list[tuple[str, float | None]]
#: What makes the keys of `named` a series of each name.
DATED = ("{name}/{now:%Y-%m-%d}",)
dated = partial(Retention, destinations=DATED)

_COUNTS = st.integers(0, 3)
RULES = st.builds(
    Retention,
    destinations=st.just(DATED),
    max_age=st.none() | st.integers(1, 60).map(lambda days: timedelta(days=days)),
    keep_last=st.integers(1, 4),
    keep_daily=_COUNTS,
    keep_weekly=_COUNTS,
    keep_monthly=_COUNTS,
    keep_yearly=_COUNTS,
)
# Few names and round ages, so that series are long and times fall together.
_AGES = st.integers(0, 90).map(lambda days: days * DAY) | st.integers(0, 900 * DAY) | st.sampled_from([0, 1, 2])
_DRAWN = st.lists(st.tuples(st.sampled_from("abc"), st.none() | _AGES.map(lambda age: NOW - age)), max_size=60)
OBJECTS = _DRAWN.map(lambda drawn: named(drawn))
LONG = st.integers(40, 60).flatmap(
    lambda size: st.lists(st.tuples(st.just("a"), _AGES.map(lambda age: NOW - age)), min_size=size, max_size=size)
)


def named(drawn: Iterable[tuple[str, float | None]], first: int = 0) -> Objects:
    """Return objects with a key each, dated from `first` days after 2000-01-01 on; their age is another matter."""
    start = date(2000, 1, 1) + timedelta(days=first)
    return [(f"{name}/{start + timedelta(days=at)}", when) for at, (name, when) in enumerate(drawn)]


def series(key: str) -> str:
    """Return the series of this module's keys: their first letter."""
    return key.partition("/")[0]


def kept(objects: Iterable[tuple[str, float | None]], rule: Retention, now: float = NOW) -> set[str]:
    """Return the keys that `rule` keeps."""
    return {one.key for one in decide(objects, rule, now) if one.keep}


def model(objects: Objects, rule: Retention, zone: str) -> set[str]:
    """Return the keys kept by a plain implementation with everything in memory."""
    return retention_judge.kept(((key, series(key), when) for key, when in objects), rule, NOW, zone)


@given(OBJECTS | LONG.map(named), RULES, st.sampled_from(ZONES))
@example(named(("a", NOW - at * DAY) for at in range(60)), dated(keep_daily=3, keep_weekly=2), "UTC")
@example(named(("a", NOW - 60 * DAY + at * DAY) for at in range(60)), dated(keep_monthly=2, keep_yearly=1), "UTC")
def test_agrees_with_the_model(objects: Objects, rule: Retention, zone: str) -> None:
    """Holding a few times per series gives the same decisions as holding all, in any local time."""
    with local_zone(zone):
        assert kept(objects, rule) == model(objects, rule, zone)


@given(OBJECTS, RULES)
def test_every_object_has_its_decision_and_reason(objects: Objects, rule: Retention) -> None:
    """In the order of the objects, each once."""
    decisions = decide(objects, rule, NOW)
    assert [one.key for one in decisions] == [key for key, _ in objects]
    assert all(one.reason for one in decisions)


@given(OBJECTS, RULES)
def test_never_below_keep_last(objects: Objects, rule: Retention) -> None:
    """Of each series at least the newest `keep_last` are kept, whatever their age."""
    stays = kept(objects, rule)
    members = defaultdict(list)
    for key, when in objects:
        if when is not None:
            members[series(key)].append((when, key))
    for one in members.values():
        newest = sorted(one, reverse=True)[: rule.keep_last]
        assert sum(key in stays for _, key in one) >= len(newest)
        assert {when for when, _ in newest} <= {when for when, key in one if key in stays}


@given(OBJECTS, RULES, st.randoms(use_true_random=False))
def test_order_does_not_matter(objects: Objects, rule: Retention, random: Any) -> None:
    """A listing in any order gives the same decisions, with the same reasons."""
    shuffled = list(objects)
    random.shuffle(shuffled)
    assert sorted(map(repr, decide(shuffled, rule, NOW))) == sorted(map(repr, decide(objects, rule, NOW)))


@given(OBJECTS, RULES)
def test_deciding_again_keeps_all(objects: Objects, rule: Retention) -> None:
    """A second prune right after the first deletes nothing."""
    stays = kept(objects, rule)
    assert kept([one for one in objects if one[0] in stays], rule) == stays


@given(_DRAWN, _DRAWN, RULES)
def test_more_objects_undelete_nothing(some: Objects, more: Objects, rule: Retention) -> None:
    """An object that is deleted is also deleted when there are more objects, newer or not."""
    objects = named(some)
    more_kept = kept(objects + named(more, first=1000), rule)
    assert more_kept & {key for key, _ in objects} <= kept(objects, rule)


@given(OBJECTS, RULES, st.integers(0, 400 * DAY))
def test_time_undeletes_nothing(objects: Objects, rule: Retention, later: int) -> None:
    """An object that is deleted is also deleted later."""
    assert kept(objects, rule, NOW + later) <= kept(objects, rule)


@given(OBJECTS, RULES, st.floats(0.001, 1e12))
def test_nothing_is_deleted_while_the_clock_is_behind(objects: Objects, rule: Retention, ahead: float) -> None:
    """One object from the future shows that ages cannot be trusted."""
    future = ("z/2030-01-01", NOW + ahead)
    decisions = decide([*objects, future], rule, NOW)
    assert all(one.keep for one in decisions)
    if rule.deletes:
        assert all("the clock is behind the newest object ('z/2030-01-01', by" in one.reason for one in decisions)


@given(OBJECTS, RULES)
def test_wants_agrees_with_decide(objects: Objects, rule: Retention) -> None:
    """A backend wants the objects that it has and keeps, and those it lacks that it would keep."""
    plan, without = Plan(rule, NOW), Plan(rule, NOW)
    for at, (key, when) in enumerate(objects):
        plan.see(key, when)
        if at:
            without.see(key, when)
    for at, (key, when) in enumerate(objects):
        assert plan.wants(key, when) == plan.decide(key, when).keep
        if not at:
            assert without.wants(key, when) == plan.wants(key, when)


def test_an_object_counted_under_another_time_counts_once() -> None:
    """With a slightly different time it takes the same place in `keep_last`."""
    keys = [key for key, _ in named([("a", None)] * 3)]
    times = [NOW - 50 * DAY, NOW - 40 * DAY, NOW - 30 * DAY]
    plan = Plan(dated(max_age=timedelta(days=1), keep_last=2), NOW)
    for key, when in zip(keys, times, strict=True):
        plan.see(key, when)
    assert not plan.wants(keys[1], times[1] - 1)
    assert plan.wants(keys[1], times[1] - 1, instead_of=times[1])
    assert not plan.wants(keys[0], times[0] - 1, instead_of=times[0])


@pytest.mark.parametrize("when", [None, 0.0, -1.0, float("nan"), float("inf")])
def test_objects_of_unknown_age_are_kept(when: float | None) -> None:
    """And they do not count for `keep_last` of the others."""
    rule = dated(max_age=timedelta(days=1))
    decisions = decide([("a/2025-01-01", when), ("a/2025-01-02", 1.0), ("a/2025-01-03", 2.0)], rule, NOW)
    assert decisions[0] == Decision("a/2025-01-01", True, "its age is unknown")
    assert [one.keep for one in decisions] == [True, False, True]


def aged(*days: float) -> Objects:
    """Return a series of objects of these ages in days."""
    return named(("db", NOW - age * DAY) for age in days)


THIRTY = timedelta(days=30)


@pytest.mark.parametrize(
    ("rule", "days", "reasons"),
    [
        (dated(keep_last=7), (1, 900), ["no rule deletes anything"] * 2),
        (
            dated(max_age=THIRTY, keep_last=2),
            (1, 30, 31.5, 45),
            [
                "not older than 30d (1d), one of the newest 2 of its series",
                "not older than 30d (30d), one of the newest 2 of its series",
                "- older than 30d (31d), 2 newer ones of its series are kept",
                "- older than 30d (45d), 2 newer ones of its series are kept",
            ],
        ),
        (
            dated(max_age=timedelta(hours=26)),
            (2, 3),
            ["the newest of its series", "- older than 26h (72h), a newer one of its series is kept"],
        ),
        (
            dated(keep_daily=1, keep_yearly=2),
            (0, 0.1, 200),
            [
                "the newest of its series, the newest of its day, the newest of its year",
                "- no rule keeps it, a newer one of its series is kept",
                "the newest of its year",
            ],
        ),
        (
            dated(max_age=THIRTY, keep_monthly=3, keep_weekly=1),
            (1, 20, 40, 41),
            [
                "not older than 30d (1d), the newest of its series, the newest of its week, "
                "the newest of its month",
                "not older than 30d (20d), the newest of its month",
                "the newest of its month",
                "- older than 30d (41d), 3 newer ones of its series are kept",
            ],
        ),
    ],
)
def test_reasons(rule: Retention, days: tuple[float, ...], reasons: list[str]) -> None:
    """Each decision names every rule that keeps the object, or why none does and how many newer ones there are."""
    told = [f"{'' if one.keep else '- '}{one.reason}" for one in decide(aged(*days), rule, NOW)]
    assert told == reasons


@pytest.mark.parametrize("zone", ["UTC", *ZONES])
@pytest.mark.parametrize(
    ("rule", "border"),
    [
        (dated(keep_daily=9), datetime(2025, 10, 15)),
        (dated(keep_weekly=9), datetime(2024, 12, 30)),
        (dated(keep_monthly=9), datetime(2025, 10, 1)),
        (dated(keep_yearly=9), datetime(2025, 1, 1)),
    ],
)
def test_periods_begin_at_local_midnight(rule: Retention, border: datetime, zone: str) -> None:
    """Days, weeks from Monday (also over New Year), months and years."""
    at = border.replace(tzinfo=ZoneInfo(zone)).timestamp()
    objects = named(("db", when) for when in (at - 2, at - 1, at, at + 1))
    with local_zone(zone):
        assert [one.keep for one in decide(objects, rule, NOW)] == [False, True, False, True]


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("template", ["db/{now:%Y-%m-%dT%H%M%S%z}", "{now:%G-W%V-%u/%H%M%z}.sql"])
def test_each_day_of_a_year_keeps_its_evening(zone: str, template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run at 1:30 and one at 19:30, every day: {now} and `keep_daily` mean the same days, in one series."""
    runs = [
        datetime(2025, 1, 1, hour, 30, tzinfo=ZoneInfo(zone)) + timedelta(days=day)
        for day in range(365)
        for hour in (1, 19)
    ]
    with local_zone(zone):
        objects: Objects = []
        for run in runs:
            monkeypatch.setattr("fsbackup.clock.now", run.timestamp)
            objects.append((fill_now(template, local_now()), run.timestamp()))
        assert len({series_of(key, None, [template]) for key, _ in objects} - {None}) == 1
        rule = Retention(keep_daily=400, destinations=(template,))
        assert [one.keep for one in decide(objects, rule, NOW)] == [run.hour == 19 for run in runs]


def test_a_day_that_comes_twice_is_one_day() -> None:
    """In Newfoundland the clocks once went back at one minute past midnight, to the evening before."""
    midnight = datetime(2010, 11, 7, 2, 30, tzinfo=UTC).timestamp()  # and again an hour later
    objects = named(("db", midnight + seconds) for seconds in (-2 * DAY, -60, 30, 600, 3600 + 600))
    with local_zone("America/St_Johns"):
        keep = [one.keep for one in decide(objects, dated(keep_daily=3), NOW)]
    assert keep == [True, False, False, True, True]


def test_the_same_month_of_another_year_is_another_month() -> None:
    """Backups of one month in several years count as several months."""
    assert len(kept(named(("db", NOW - age * 365 * DAY) for age in range(5)), dated(keep_monthly=4))) == 4


def test_the_reason_names_the_object_newer_than_the_clock() -> None:
    """So that a person can look at it."""
    one = decide([("db-2025-10-03\udcff", NOW + 2 * DAY)], dated(max_age=THIRTY), NOW)[0]
    assert one.as_dict() == {
        "key": "db-2025-10-03\udcff",
        "keep": True,
        "reason": "the clock is behind the newest object ('db-2025-10-03\\udcff', by 2d)",
    }


def test_keys_without_series_are_kept() -> None:
    """Nothing shows that another object is a newer backup of the same thing."""
    decisions = decide([("b/2025-01-01/x", NOW - 900 * DAY), ("b/2026-01-01/x", NOW)], dated(max_age=THIRTY), NOW)
    assert [(one.keep, one.reason) for one in decisions] == [
        (True, "no series: its key matches no job's destination with {now} and no `series`")
    ] * 2


def test_a_configured_pattern_names_the_series() -> None:
    """Keys that differ in numbers that are no dates can be one series by configuration."""
    objects: Objects = [("acme/n1", NOW - 40 * DAY), ("acme/n2", NOW), ("other/n1", NOW - 40 * DAY)]
    assert kept(objects, dated(max_age=THIRTY, series="^(.*)/n[0-9]+$")) == {"acme/n2", "other/n1"}


def test_objects_stored_between_the_walks_are_kept() -> None:
    """A series, or an object newer than all of its series, that the first walk did not list."""
    plan = Plan(dated(keep_daily=1), NOW)
    plan.see("a/2025-01-01", NOW - 3 * DAY)
    for key, when in (("a/2025-01-02", NOW - DAY), ("a/2025-01-03", NOW + DAY), ("b/2025-01-01", NOW - 9 * DAY)):
        assert plan.decide(key, when) == Decision(key, True, "it was stored after the listing")
    assert not plan.decide("a/2024-01-01", NOW - 9 * DAY).keep


def _wal(at: int) -> str:
    return f"wal/00000001{at >> 8:08X}{at & 0xFF:08X}"


def _mirror(at: int) -> str:
    return f"files/{at:06}/page.html"


def _daily(at: int) -> str:
    return f"full/{1990 + at % 30}/10/db{at // 30 % 20}.sql"


@pytest.mark.parametrize(
    ("key", "names"),
    [
        (_wal, {}),
        (_wal, {"series": "^(wal/[0-9A-F]{8})[0-9A-F]{16}$"}),
        (_mirror, {"destinations": ["full/{now:%Y/%m}/{name}"]}),
        (_daily, {"destinations": ["full/{now:%Y/%m}/{name}"]}),
    ],
)
def test_memory_does_not_grow_with_the_objects(key: Callable[[int], str], names: dict[str, Any]) -> None:
    """Twenty thousand objects of a few series, or of none, take only the memory of the times of their series."""
    plan = Plan(Retention(max_age=THIRTY, keep_last=7, keep_monthly=12, **names), NOW)
    tracemalloc.start()
    try:
        for at in range(20_000):
            plan.see(key(at), NOW - (20_000 - at) * 60)
        assert tracemalloc.get_traced_memory()[0] < 200_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_age": timedelta()}, "max_age must be greater than 0"),
        ({"keep_last": 0}, "keep_last must be at least 1, not 0"),
        ({"keep_daily": -1}, "keep_daily must be at least 0, not -1"),
        ({"keep_yearly": -1}, "keep_yearly must be at least 0, not -1"),
        ({"series": "("}, "series is not a regular expression"),
        ({"series": "a+"}, "series must have a group"),
    ],
)
def test_wrong_rules(wrong: dict[str, Any], message: str) -> None:
    """A rule that makes no sense is a ValueError."""
    with pytest.raises(ValueError, match=message):
        dated(**wrong)
