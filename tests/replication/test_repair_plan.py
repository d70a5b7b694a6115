"""What repair decides, from evidence alone: every action with its reason, and what it leaves and why."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from fsbackup.engine.hashing import Digest
from fsbackup.engine.intents import SAFE_AGE, Intent
from fsbackup.engine.records import ReplicaState
from fsbackup.errors import BackendUnavailableError
from fsbackup.keys import INTENT_DONE
from fsbackup.record import Manifest, Origin, Record, Tombstone
from fsbackup.replication.classify import classify
from fsbackup.replication.repair import Action
from fsbackup.replication.repair.inspection import Inspection
from fsbackup.replication.repair.plan import plan
from fsbackup.stores.base import ObjectStat
from tests.replication.memory import MemoryStore

KEY = "db/shop"
A, B, C = MemoryStore("a"), MemoryStore("b"), MemoryStore("c")
STORES = (A, B, C)


def manifest(generation: int = 1, sha: str = "1", size: int = 10) -> Manifest:
    """Return a manifest whose content is called `sha`."""
    return Manifest(
        KEY,
        size,
        sha,
        1 << 20,
        (sha,),
        generation,
        None,
        "2026-01-01T00:00:00+00:00",
        Origin("h"),
        1,
        "0",
        "0" * 32,
    )


def has(store: MemoryStore, record: Record | None, size: int | None = 10, **fields: Any) -> ReplicaState:
    """Return what a replica says that has this record, and data of this size."""
    return ReplicaState(store, record, stat=None if size is None else ObjectStat(KEY, size), **fields)


def unreachable(store: MemoryStore) -> ReplicaState:
    return ReplicaState(store, error=BackendUnavailableError("no answer", backend=store.name))


def digest(sha: str, size: int = 10) -> Digest:
    return Digest(size, sha, 1 << 20, (sha,))


def decide(
    *replicas: ReplicaState, adopt: bool = False, min_copies: int = 1, **evidence: Any
) -> list[tuple[str, str | None]]:
    """Return what is planned, as (kind or problem, backend)."""
    actions = planned(*replicas, adopt=adopt, min_copies=min_copies, **evidence)
    assert all(action.reason and action.key == KEY for action in actions)
    return [(action.problem or action.kind, action.backend) for action in actions]


def planned(
    *replicas: ReplicaState, adopt: bool = False, min_copies: int = 1, **evidence: Any
) -> tuple[Action, ...]:
    return plan(Inspection(classify(KEY, replicas, min_copies), **evidence), adopt=adopt)


ONE, TWO = manifest(), manifest(2, "2")
TOMBSTONE = Tombstone(KEY, 2, "2026-02-02T00:00:00+00:00")


def test_nothing_where_all_is_right() -> None:
    """Three copies, three manifests."""
    assert decide(*(has(store, ONE) for store in STORES)) == []


@pytest.mark.parametrize(
    "replica",
    [
        has(C, None, None),
        has(C, ONE, None),
        has(C, ONE, 9),
        has(C, manifest(0, "0"), 10),
        has(C, None, damaged=True),
        has(C, None),
    ],
    ids=["missing", "data gone", "short", "stale", "damaged manifest", "no manifest"],
)
def test_what_is_wrong_is_refilled(replica: ReplicaState) -> None:
    """From the two others, whatever it is."""
    assert decide(has(A, ONE), has(B, ONE), replica) == [("refill", "c")]


@pytest.mark.parametrize("replica", [has(C, None), has(C, None, damaged=True)], ids=["none", "damaged"])
def test_data_that_turns_out_right_gets_its_manifest(replica: ReplicaState) -> None:
    """No byte needs to be sent."""
    assert decide(has(A, ONE), has(B, ONE), replica, contents={"c": digest("1")}) == [("write manifest", "c")]


def test_the_only_data_is_proven_before_it_is_read_from() -> None:
    """First its manifest; what is refilled from it is the next round."""
    found = [has(A, ONE, None), has(B, ONE, None), has(C, None)]
    assert decide(*found, contents={"c": digest("1")}) == [("write manifest", "c")]


def test_bad_copies_are_tried_together() -> None:
    """No copy is right, but their blocks may be."""
    assert decide(has(A, ONE, 9), has(B, ONE, 8), has(C, ONE, 7)) == [("refill", name) for name in "abc"]


def test_unrecoverable_is_said_only_when_all_were_asked() -> None:
    """A replica that is away may have it."""
    assert decide(has(A, ONE, None), has(B, None, None), has(C, ONE, None)) == [("unrecoverable", None)]
    assert ("unreachable", None) in decide(has(A, ONE, None), has(B, None, None), unreachable(C))
    assert "unrecoverable" not in {
        what for what, _ in decide(has(A, ONE, None), has(B, None, None), unreachable(C))
    }


def test_an_unreachable_replica_is_named_and_the_others_repaired() -> None:
    """It is never missing."""
    assert decide(has(A, ONE), has(B, None, None), unreachable(C)) == [("refill", "b"), ("unreachable", "c")]


class TestTwoContents:
    """Under one generation."""

    OTHER = manifest(1, "x")

    def test_the_confirmed_one_wins(self) -> None:
        """Though the other has the larger hash."""
        assert decide(has(A, ONE), has(B, self.OTHER), has(C, ONE), min_copies=2) == [("refill", "b")]

    def test_at_the_same_number_of_copies_the_later_one(self) -> None:
        """Then the one with the larger hash; every replica gets it."""
        later = replace(ONE, created_at="2026-01-01T00:00:01+00:00")
        for loser, winner in ((ONE, self.OTHER), (self.OTHER, later)):
            found = [has(A, loser), has(B, winner), has(C, None, None)]
            assert decide(*found) == [("refill", "a"), ("refill", "c")]

    def test_none_is_confirmed_while_their_writers_may_be_at_work(self) -> None:
        """The loser is kept for a day; what is missing may be filled."""
        young = round(time.time() * 1000)
        found = [has(A, manifest(young)), has(B, manifest(young, "x")), has(C, None, None)]
        assert decide(*found, min_copies=2) == [("busy", "a"), ("refill", "c")]
        assert decide(has(A, ONE), has(B, self.OTHER), has(C, None, None), min_copies=2) == [
            ("refill", "a"),
            ("refill", "c"),
        ]


class TestUnconfirmed:
    """A higher version than the confirmed one, on too few replicas."""

    def test_it_gives_way_when_it_is_a_day_old(self) -> None:
        """Before that its writer may be at work."""
        young = manifest(round(time.time() * 1000), "2")
        assert decide(has(A, young), has(B, ONE), has(C, ONE), min_copies=2) == [("busy", "a")]
        assert decide(has(A, TWO), has(B, ONE), has(C, ONE), min_copies=2) == [("refill", "a")]

    def test_one_of_the_future_is_left_to_a_person(self) -> None:
        """Its writer's clock was wrong, or it is forged."""
        forged = manifest(round((time.time() + 2 * SAFE_AGE) * 1000), "2")
        assert decide(has(A, forged), has(B, ONE), has(C, ONE), min_copies=2) == [("conflict", "a")]

    @pytest.mark.parametrize("min_copies", [1, 2])
    def test_nothing_gives_way_to_one_of_the_future(self, min_copies: int) -> None:
        """Nor to its delete, however many have it; what is missing is filled."""
        future = round((time.time() + 2 * SAFE_AGE) * 1000)
        forged, deleted = manifest(future, "2"), Tombstone(KEY, future, "2026-02-02T00:00:00+00:00")
        found = [has(A, forged), has(B, forged), has(C, ONE)]
        assert decide(*found, min_copies=min_copies) == [("conflict", "c")]
        found = [has(A, deleted, None), has(B, deleted, None), has(C, ONE)]
        assert decide(*found, min_copies=min_copies) == [("conflict", "c")]
        assert decide(has(A, forged), has(B, forged), has(C, None, None), min_copies=2) == [("refill", "c")]
        after = manifest(future + 1, "3")
        assert decide(has(A, after), has(B, after), has(C, forged), min_copies=2) == [("refill", "c")]

    def test_nothing_gives_way_to_one_with_an_older_date(self) -> None:
        """Unless it was made to replace it, or clocks may differ so much."""
        later = replace(ONE, created_at="2026-01-01T00:10:00+00:00")
        assert decide(has(A, TWO), has(B, TWO), has(C, later)) == [("conflict", "c")]
        child = replace(TWO, replaces=later.sha256)
        assert decide(has(A, child), has(B, child), has(C, later)) == [("refill", "c")]
        soon = replace(ONE, created_at="2026-01-01T00:04:00+00:00")
        assert decide(has(A, TWO), has(B, TWO), has(C, soon)) == [("refill", "c")]

    def test_a_delete_is_taken_back(self) -> None:
        """A stray tombstone deletes nothing; then the copy is refilled."""
        found = [has(B, ONE), has(C, ONE)]
        assert decide(has(A, TOMBSTONE, None), *found, min_copies=2) == [("forget delete", "a")]
        just_now = Tombstone(KEY, 1, datetime.now(UTC).isoformat())
        assert decide(has(A, just_now, None), *found, min_copies=2) == [("busy", "a")]
        assert decide(has(A, TOMBSTONE, None), has(B, ONE), has(C, ONE)) == [("delete", "b"), ("delete", "c")]

    def test_a_delete_is_taken_back_where_the_data_is_still_there(self) -> None:
        """Its manifest was never written over: it proves the data again."""
        found = [has(A, TOMBSTONE), has(B, ONE), has(C, ONE)]
        assert decide(*found, min_copies=2) == [("forget delete", "a")]

    def test_nothing_is_decided_while_a_replica_is_away_that_may_decide_it(self) -> None:
        """Neither the newer version nor the older one is overwritten."""
        assert decide(has(A, TWO), has(B, ONE), unreachable(C), min_copies=2) == [
            ("unreachable", "b"),
            ("unreachable", "c"),
        ]
        assert decide(has(A, TOMBSTONE, None), has(B, ONE), unreachable(C), min_copies=2) == [
            ("unreachable", None),
            ("unreachable", "c"),
        ]

    def test_lost_data_of_the_newest_version_is_refilled_while_another_is_away(self) -> None:
        """No other version stands there that might count."""
        assert decide(has(A, ONE), has(B, ONE, None), unreachable(C), min_copies=2) == [
            ("refill", "b"),
            ("unreachable", "c"),
        ]

    def test_where_nothing_is_confirmed_the_highest_version_counts(self) -> None:
        """It is spread, over older ones too."""
        assert decide(has(A, TWO), has(B, ONE), has(C, None, None), min_copies=2) == [
            ("refill", "b"),
            ("refill", "c"),
        ]

    def test_a_manifest_without_its_data_counts_for_nothing(self) -> None:
        """The version that others prove takes its place."""
        assert decide(has(A, TWO, None), has(B, ONE), has(C, ONE), min_copies=2) == [("refill", "a")]
        assert decide(has(A, TWO, None), has(B, ONE), has(C, ONE)) == [("refill", "a")]

    def test_what_was_stored_after_a_delete_counts_on_any_replica(self) -> None:
        """A confirmed delete destroys no content that is newer."""
        assert decide(
            has(A, manifest(3, "3")), has(B, TOMBSTONE, None), has(C, TOMBSTONE, None), min_copies=2
        ) == [("refill", "b"), ("refill", "c")]


class TestWriteIntents:
    """Replacements that were begun."""

    def test_data_in_place_is_finished_first(self) -> None:
        """Whatever else is wrong comes after it."""
        found = [has(A, ONE), has(B, ONE), has(C, None, None)]
        evidence: dict[str, Any] = {"intents": {"a": [Intent(TWO, 0)]}, "contents": {"a": digest("2")}}
        assert decide(*found, **evidence) == [("finish", "a")]

    def test_two_different_ones_are_both_finished(self) -> None:
        """Both got as far as their data; which one counts is decided after that."""
        found = [has(A, ONE), has(B, ONE), has(C, ONE)]
        intents = {"a": [Intent(TWO, 0)], "b": [Intent(manifest(2, "x"), 0)]}
        assert decide(*found, intents=intents, contents={"a": digest("2"), "b": digest("x")}) == [
            ("finish", "a"),
            ("finish", "b"),
        ]

    def test_one_without_its_data_waits_until_it_is_old(self) -> None:
        """A writer may be at work."""
        found = [has(A, ONE), has(B, ONE), has(C, ONE)]
        assert decide(*found, intents={"a": [Intent(TWO, SAFE_AGE - 1)]}) == []
        assert decide(*found, intents={"a": [Intent(TWO, SAFE_AGE + 1)]}) == [("clear intent", "a")]
        assert decide(*found, intents={"a": [Intent(None, SAFE_AGE + 1)]}) == [("clear intent", "a")]

    def test_one_that_is_done_goes_at_once(self) -> None:
        """The manifest says the same, and its writer has ended; else he may write it once more, over another's."""
        found = [has(A, TWO), has(B, TWO), has(C, TWO)]
        ended = Intent(TWO, 0, f"x{INTENT_DONE}")
        assert decide(*found, intents={"b": [ended]}) == [("clear intent", "b")]
        assert decide(*found, intents={"b": [ended, Intent(ONE, 0)]}) == []
        assert decide(*found, intents={"b": [ended, Intent(ONE, SAFE_AGE + 1)]}) == [("clear intent", "b")]

    def test_a_copy_that_somebody_is_replacing_is_not_refilled(self) -> None:
        """Until that is old."""
        found = [has(A, ONE), has(B, ONE), has(C, manifest(0, "0"))]
        assert decide(*found, intents={"c": [Intent(TWO, 0)]}) == [("busy", "c")]
        assert ("refill", "c") in decide(*found, intents={"c": [Intent(TWO, SAFE_AGE + 1)]})

    def test_our_own_unfinished_refill_goes_on(self) -> None:
        """It announced the newest version, not a newer one."""
        found = [has(A, TWO), has(B, TWO), has(C, ONE)]
        assert decide(*found, intents={"c": [Intent(TWO, 0)]}) == [("refill", "c")]
        evidence: dict[str, Any] = {"intents": {"c": [Intent(TWO, 0)]}, "contents": {"c": digest("2")}}
        assert decide(*found, **evidence) == [("finish", "c")]

    def test_no_version_counts_by_a_manifest_whose_data_an_older_one_replaced(self) -> None:
        """Without it the newer one is on too few replicas; what the data is, is written down first."""
        found = [has(A, TWO), has(B, TWO), has(C, ONE)]
        evidence: dict[str, Any] = {"intents": {"a": [Intent(ONE, 0)]}, "contents": {"a": digest("1")}}
        assert decide(*found, min_copies=2, **evidence) == [("finish", "a")]
        assert ("finish", "a") not in decide(*found, min_copies=1, **evidence)

    def test_an_upload_after_a_delete_is_finished_not_deleted(self) -> None:
        """It came after the delete, by its generation."""
        found = [has(A, TOMBSTONE), has(B, TOMBSTONE, None), has(C, TOMBSTONE, None)]
        announced = {"a": [Intent(manifest(3, "3"), 0)]}
        evidence: dict[str, Any] = {"intents": announced, "contents": {"a": digest("3")}}
        assert decide(*found, **evidence) == [("finish", "a")]


class TestDeletes:
    """Tombstones."""

    def test_what_slept_through_it_is_deleted(self) -> None:
        """Data with a record of its own, and manifests without data."""
        assert decide(has(A, TOMBSTONE, None), has(B, ONE), has(C, TWO, None)) == [
            ("delete", "b"),
            ("delete", "c"),
        ]
        assert decide(has(A, TOMBSTONE, None), has(B, TOMBSTONE), has(C, None, None)) == [("delete", "b")]

    def test_data_without_a_record_is_left(self) -> None:
        """It may be another version, just coming."""
        assert decide(has(A, TOMBSTONE, None), has(B, None), has(C, TOMBSTONE, None)) == [("no manifest", "b")]

    def test_tombstones_are_forgotten_when_all_have_confirmed(self) -> None:
        """Not before."""
        assert decide(has(A, TOMBSTONE, None), has(B, None, None), has(C, TOMBSTONE, None)) == [
            ("forget delete", None)
        ]
        assert decide(has(A, TOMBSTONE, None), has(B, None, None), unreachable(C)) == [("unreachable", "c")]

    def test_a_newer_version_outdoes_a_tombstone(self) -> None:
        """It was stored again."""
        assert decide(has(A, manifest(3, "3")), has(B, TOMBSTONE, None), has(C, manifest(3, "3"))) == [
            ("refill", "b")
        ]


class TestAdopt:
    """Data without a manifest anywhere."""

    def test_only_when_asked(self) -> None:
        """Otherwise it is named."""
        assert decide(has(A, None), has(B, None), has(C, None, None)) == [("no manifest", None)]

    def test_the_same_bytes_are_adopted(self) -> None:
        """Where they are."""
        same = {"a": digest("1"), "b": digest("1")}
        found = [has(A, None), has(B, None), has(C, None, None)]
        assert decide(*found, adopt=True, contents=same) == [("adopt", "a"), ("adopt", "b")]

    def test_not_different_ones_nor_unread_ones_nor_with_a_replica_away(self) -> None:
        """Then nothing is known well enough."""
        found = [has(A, None), has(B, None)]
        different = {"a": digest("1"), "b": digest("2")}
        assert decide(*found, has(C, None, None), adopt=True, contents=different) == [("conflict", None)]
        assert decide(*found, has(C, None, None), adopt=True, contents={"a": digest("1")}) == [
            ("unreachable", None)
        ]
        assert decide(*found, unreachable(C), adopt=True, contents={"a": digest("1"), "b": digest("1")}) == [
            ("unreachable", None)
        ]
