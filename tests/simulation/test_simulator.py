"""The simulator itself: a seed gives the same run again, and a fault of the engine or of a store is found."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import pytest

from fsbackup.engine import copy, intents, repairs, versions
from fsbackup.engine.records import ReplicaState
from fsbackup.engine.replica_upload import ReplicaUpload
from fsbackup.record import Manifest
from fsbackup.replication.prune import execute
from fsbackup.stores.base import ObjectStore
from tests.simulation.case import Case, case_of
from tests.simulation.run import run_case
from tests.simulation.store import SimWriter

#: Cases in which a planted fault must show, and of which the first are run without it.
_CASES, _WITHOUT = 60, 25


@pytest.mark.parametrize("seed", range(0, 200, 20))
def test_a_seed_gives_the_same_run_again(seed: int) -> None:
    assert run_case(case_of(seed)).describe() == run_case(case_of(seed)).describe()


def cases(*verbs: str, layout: tuple[str, ...], beginning: str = "present") -> Iterator[Case]:
    """Return cases of one kind, without other faults."""
    for seed in range(_CASES):
        yield case_of(
            seed, verbs=verbs, layout=layout, odd=0, target=0, beginning=beginning, faults=0, min_copies=2
        )


def violations(found: Iterator[Case]) -> set[str]:
    """Run the first cases and return the promises that they break."""
    return {each.promise for case in islice(found, _WITHOUT) for each in run_case(case).violations}


def is_found(promise: str, found: Iterator[Case]) -> bool:
    """Run cases until one breaks the promise."""
    return any(each.promise == promise for case in found for each in run_case(case).violations)


class TestFindsAPlantedFault:
    def test_no_intent_before_a_replacement(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert not violations(cases("replace", "read", layout=("share", "share")))
        monkeypatch.setattr(ReplicaUpload, "needs_intent", False)
        assert is_found("data that its records do not prove", cases("replace", "read", layout=("share", "share")))

    def test_no_intent_before_a_creation(self, monkeypatch: pytest.MonkeyPatch) -> None:
        layout, promise = ("ftp", "ftp"), "a create-only writer replaced other content"
        assert not violations(cases("create", "create", layout=layout, beginning="absent"))
        monkeypatch.setattr(ReplicaUpload, "needs_intent", False)
        assert is_found(promise, cases("create", "create", layout=layout, beginning="absent"))

    def test_an_intent_that_does_not_stay_for_who_may_still_write(self, monkeypatch: pytest.MonkeyPatch) -> None:
        layout = ("share", "share")

        async def end(store: ObjectStore, _: Manifest, own: str, *__: object) -> None:
            await intents.withdraw(store, own)

        assert not violations(cases("replace", "replace", layout=layout))
        monkeypatch.setattr(intents, "end", end)
        assert is_found("data that its records do not prove", cases("replace", "replace", layout=layout))

    @pytest.mark.matrix
    def test_a_writer_that_does_not_wait_for_who_gives_way(self, monkeypatch: pytest.MonkeyPatch) -> None:
        layout, verbs = ("share", "share"), ("replace", "prune", "prune")
        assert not violations(cases(*verbs, layout=layout))
        monkeypatch.setattr(intents, "is_awaited", lambda *_: False)
        promise = "a prune removed a version that it had not looked at"
        assert is_found(promise, cases(*verbs, layout=layout))

    @pytest.mark.matrix
    def test_a_repair_that_does_not_look_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        layout = ("r2", "kms")
        assert not violations(cases("replace", "repair", layout=layout, beginning="stale"))

        async def newest(*_: object) -> str:
            return "newest"

        async def unchanged(*_: object) -> bool:
            return True

        monkeypatch.setattr(versions.VersionGuard, "currency", newest)
        monkeypatch.setattr(copy._ReplicaCopy, "_is_unchanged", unchanged)
        monkeypatch.setattr(SimWriter, "_refuses", lambda _: False)  # which would hide it
        assert is_found(
            "a repair put an older version over a newer one",
            cases("replace", "repair", layout=layout, beginning="stale"),
        )

    @pytest.mark.matrix
    def test_a_delete_that_leaves_a_repair_at_work_no_tombstone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        layout, verbs = ("share", "share"), ("delete", "repair", "repair")
        assert not violations(cases(*verbs, layout=layout, beginning="missing"))

        async def nobody(*_: object) -> bool:
            return False

        monkeypatch.setattr(repairs, "at_work", nobody)
        promise = "what was deleted came back"
        assert is_found(promise, cases(*verbs, layout=layout, beginning="missing"))

    def test_a_store_that_ignores_the_condition(self, monkeypatch: pytest.MonkeyPatch) -> None:
        layout = ("r2", "kms")
        assert not violations(cases("create", "create", layout=layout, beginning="absent"))
        monkeypatch.setattr(SimWriter, "_refuses", lambda _: False)
        assert is_found(
            "a create-only writer replaced other content",
            cases("create", "create", layout=layout, beginning="absent"),
        )

    def test_a_prune_that_does_not_look_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def unchanged(replica: ReplicaState, *_: object) -> execute._Remaining:
            return execute._Remaining(replica.stat, replica.record)

        monkeypatch.setattr(execute, "_require_unchanged", unchanged)
        promise = "a prune removed a version that it had not looked at"
        assert is_found(promise, cases("replace", "prune", layout=("share", "share")))
