"""One of three replicas is away, in each of the ways there are: everything goes on with the others and names it.

And it is waited for once, however many objects there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from fsbackup import ReplicatedStorage
from fsbackup.retention import Retention
from tests.replication.rig import ReplicaRig, content, make_rig
from tests.servers.dead import dropping, moved
from tests.servers.endpoint import S3Endpoint
from tests.servers.faults import Fault, Refuse, Stall, Status

OBJECTS = 60
#: Seconds that the replica that is away has; the others have the usual ones.
DEADLINE = 0.8
#: Seconds where R2 has to answer part of what it is asked: a busy machine takes longer than `DEADLINE` for that.
PATIENCE = 3.0
#: Two questions at once, five tries each, each repeated once by the HTTP library: asked once, and then a few times
#: whether it is back.
ONCE = 40
#: The same for as many objects as are in hand at once, without the tries, for which a deadline leaves no time; and
#: some questions whether it is back, but not two for each object.
IN_HAND = 3 * 16

FAULTS: dict[str, Callable[[], Fault]] = {
    "refused": Refuse,
    "swallowed": Stall,
    "503": lambda: Status(503, "ServiceUnavailable"),
}
#: What tells people why; on a busy machine the deadline may come before the first try has failed.
SILENT = "no byte moved for 0.8 s"
CAUSES = {
    "refused": ("Remote end closed connection", "Connection reset", SILENT),
    "swallowed": ("did not answer in time", SILENT),
    "dropped": ("Connection timed out", "did not answer in time", SILENT),
    "503": ("ServiceUnavailable", "HTTP 503", SILENT),
}


@pytest.fixture(scope="module")
def rig(
    second_bucket: S3Endpoint, seaweedfs: S3Endpoint, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ReplicaRig]:
    """Return a world that holds a tree of small objects everywhere."""
    with make_rig(second_bucket, seaweedfs, tmp_path_factory.mktemp("away"), proxied=True) as made:
        assert all(made.store().replicate_many(sources(made, "tree")))
        yield made


@pytest.fixture(autouse=True)
def recovered(rig: ReplicaRig) -> Iterator[None]:
    yield
    rig.proxies["r2"].clear()


def sources(rig: ReplicaRig, prefix: str) -> list[tuple[Path, str]]:
    path = rig.file(content(900))
    return [(path, f"{prefix}/{number:03}") for number in range(OBJECTS)]


def impatient(rig: ReplicaRig, deadline: float = DEADLINE, **options: Any) -> ReplicatedStorage:
    """Return the set, with little patience for R2 only."""
    times = {"local": 10.0, "r2": deadline, "b2": 10.0}
    backends = [rig.backend(name, timeout=timeout) for name, timeout in times.items()]
    return ReplicatedStorage(backends, min_copies=2, errors="raise", **options)


@contextmanager
def away(rig: ReplicaRig, fault: str) -> Iterator[tuple[ReplicatedStorage, Callable[[], int]]]:
    """Yield the set while R2 is away, and what counts how often it was asked."""
    if fault == "dropped":
        with dropping() as port:
            endpoints = {**rig.endpoints, "r2": moved(rig.endpoints["r2"], port)}
            yield impatient(replace(rig, endpoints=endpoints)), lambda: 0
        return
    struck = rig.proxies["r2"].add(FAULTS[fault]())
    yield impatient(rig), lambda: struck.hits


def upload(rig: ReplicaRig, store: ReplicatedStorage, key: str) -> str:
    report = store.replicate(rig.file(content(5000)), key)
    assert report.status == "degraded"
    assert [name for name, result in report.replicas.items() if result.ok] == ["local", "b2"]
    return str(report.replicas["r2"].error)


def upload_many(rig: ReplicaRig, store: ReplicatedStorage, key: str) -> str:
    outcomes = list(store.replicate_many(sources(rig, key)))
    assert [each.report.status if each.report else None for each in outcomes] == ["degraded"] * OBJECTS
    return str(outcomes[-1].report and outcomes[-1].report.replicas["r2"].error)


def restore(rig: ReplicaRig, store: ReplicatedStorage, key: str) -> str:
    report = store.restore("tree/007", rig.tmp / key)
    assert (rig.tmp / key).read_bytes() == content(900)
    return report.failed["r2"]


def restore_tree(rig: ReplicaRig, store: ReplicatedStorage, key: str) -> str:
    report = store.restore_tree("tree", rig.tmp / f"{key}.d")
    assert (report.objects, report.failures) == (OBJECTS, 0)
    return report.unlisted["r2"]


def status(_: ReplicaRig, store: ReplicatedStorage, __: str) -> str:
    found = store.status("tree")
    assert (found.status, found.objects, dict(found.backends["r2"].states)) == (
        "degraded",
        OBJECTS,
        {"unknown": OBJECTS},
    )
    return str(found.backends["r2"].error)


def verify(_: ReplicaRig, store: ReplicatedStorage, __: str) -> str:
    report = store.verify("tree", deep=True)
    assert (report.status, report.objects, report.found, report.under_replicated) == ("degraded", OBJECTS, 0, 0)
    return str(report.backends["r2"].error)


def repair(_: ReplicaRig, store: ReplicatedStorage, __: str) -> str:
    report = store.repair("tree")
    assert (report.status, report.objects, report.failed, dict(report.done)) == ("degraded", OBJECTS, 0, {})
    return report.unreachable["r2"]


OPERATIONS = (upload, upload_many, restore, restore_tree, status, verify, repair)


@pytest.mark.each_choice
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda each: str(each.__name__))
@pytest.mark.parametrize("fault", CAUSES)
def test_it_goes_on_with_two_names_the_third_and_asks_it_once(
    rig: ReplicaRig, fault: str, operation: Callable[[ReplicaRig, ReplicatedStorage, str], str]
) -> None:
    with away(rig, fault) as (store, asked):
        said = operation(rig, store, f"{operation.__name__}-{fault}")
        assert asked() <= ONCE
    assert said.startswith("r2: "), said
    assert any(cause in said for cause in CAUSES[fault]), said
    assert " - check " in said or " - the service is busy" in said, said


@pytest.mark.parametrize("operation", [restore_tree, verify], ids=lambda each: str(each.__name__))
def test_a_replica_that_lists_and_says_no_more_is_waited_for_once(
    rig: ReplicaRig, operation: Callable[[ReplicaRig, ReplicatedStorage, str], str]
) -> None:
    """It goes silent after the listing: what is in hand meets that, and no object that comes later."""
    struck = [rig.proxies["r2"].add(Stall(), on="get"), rig.proxies["r2"].add(Stall(), on="head")]
    store = impatient(rig, PATIENCE)
    if operation is restore_tree:
        report = store.restore_tree("tree", rig.tmp / "silent")
        assert (report.objects, report.failures, report.unlisted) == (OBJECTS, 0, {})
    else:
        found = store.verify("tree")
        assert {each.backend for each in found.problems} == {"r2"}
        assert dict(found.backends["r2"].states) == {"unknown": OBJECTS}
        assert "no byte moved" in found.problems[-1].detail
    assert 0 < sum(fault.hits for fault in struck) <= IN_HAND


def test_what_only_the_replica_that_seemed_away_can_give_is_asked_of_it_again(rig: ReplicaRig) -> None:
    """Its listing had no answer; an object that is rotten everywhere else comes from it all the same."""
    for number in (1, 2):
        assert rig.store().replicate(rig.file(content(900)), f"rot/{number}").status == "complete"
    for name in ("local", "b2"):
        rig.raw_replicas[name].put("rot/1", b"rotten")
    rig.proxies["r2"].add(Stall(), on="list")
    report = impatient(rig, PATIENCE).restore_tree("rot", rig.tmp / "rot")
    assert (report.objects, report.failures, set(report.unlisted)) == (2, 0, {"r2"})
    assert (rig.tmp / "rot" / "1").read_bytes() == content(900)


@pytest.mark.parametrize("operation", [status, verify, repair], ids=lambda each: str(each.__name__))
def test_what_retention_expects_and_what_is_there_wait_for_it_together_once(
    rig: ReplicaRig, operation: Callable[[ReplicaRig, ReplicatedStorage, str], str]
) -> None:
    """With a retention the set is listed twice; only the first time anybody waits: for two listings, at once."""
    struck = rig.proxies["r2"].add(Stall())
    store = impatient(rig, retention={"local": Retention(max_age=timedelta(days=30))})
    assert operation(rig, store, "").startswith("r2: ")
    assert struck.hits <= 2
