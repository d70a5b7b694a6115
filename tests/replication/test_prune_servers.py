"""`prune` against real servers: versions, locks, listings that break off, refusals, and what it costs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fsbackup import clock
from fsbackup.replication.prune import PruneReport
from tests.integration.cli_helpers import wait_until
from tests.replication.prune_helpers import RULES, daily, days, expected_later, prune_later
from tests.replication.raw_replicas import RawBucket, manifest_name
from tests.replication.rig import PART, ReplicaRig, content, make_rig
from tests.servers import s3
from tests.servers.endpoint import S3Endpoint, client
from tests.servers.faults import Drop, Status

KEY, NEW = daily(0), daily(40)
OLD = content(5000, seed=1)


def fill(rig: ReplicaRig) -> ReplicaRig:
    """Store two objects of one series everywhere, the second one in a later second than the first."""
    assert rig.store().replicate(rig.file(OLD), KEY).status == "complete"
    stored = int(time.time())
    wait_until(lambda: int(time.time()) > stored)
    assert rig.store().replicate(rig.file(b"new"), NEW).status == "complete"
    for proxy in rig.proxies.values():
        proxy.forget()
    return rig


@pytest.fixture
def filled(rig: ReplicaRig) -> ReplicaRig:
    """Return three replicas behind proxies with two objects."""
    return fill(rig)


def outcomes(report: PruneReport) -> dict[str, str]:
    """Return what became of the old object, by backend."""
    assert {step.key for step in report.steps} <= {KEY}
    return {step.backend: step.outcome for step in report.steps}


def assert_only(rig: ReplicaRig, name: str, *keys: str) -> None:
    """Check that a backend has these keys, proven, and nothing else."""
    raw = rig.raw_replicas[name]
    assert raw.names() == {each for key in keys for each in (key, manifest_name(key))}
    assert all(raw.provable(key) is not None for key in keys)


def test_it_is_gone_for_good_on_every_kind_of_server(each_rig: ReplicaRig) -> None:
    """With every version of it and without a marker; the disk, which keeps everything, proves it still."""
    rig = fill(each_rig)
    report = prune_later(rig.store())
    assert (report.status, outcomes(report)) == ("complete", {"r2": "deleted", "b2": "deleted"})
    for name in ("r2", "b2"):
        assert_only(rig, name, NEW)
        raw = rig.raw_replicas[name]
        assert isinstance(raw, RawBucket)
        if not isinstance(raw.endpoint, s3.StrictEndpoint) or name == "b2":  # R2 has no versions to list
            assert all(KEY not in each.key for each in s3.list_versions(raw.endpoint, raw.prefix))
    assert_only(rig, "local", KEY, NEW)
    store = rig.store()
    verified = store.verify(expired=expected_later(store))
    assert (verified.status, verified.found) == ("complete", 0)
    repaired = store.repair(expired=expected_later(store))
    assert (repaired.status, repaired.steps) == ("complete", ())
    assert prune_later(store).steps == ()


def test_what_is_kept_costs_two_listings_each_time_the_set_is_walked(filled: ReplicaRig) -> None:
    """Nothing else is asked: two walks, of objects and of tombstones; and a dry run only reads."""
    for name in (KEY, manifest_name(KEY)):
        filled.raw_replicas["r2"].drop(name)  # what a backend lacks is no more reason to ask
    report = prune_later(filled.store(), {"r2": days(50), "b2": days(50)})
    assert report.count("kept") == 5
    for proxy in filled.proxies.values():
        assert [each.operation for each in proxy.requests] == ["list"] * 4
        proxy.forget()
    assert prune_later(filled.store(), dry_run=True).count("planned") == 1
    for proxy in filled.proxies.values():
        assert {each.operation for each in proxy.requests} <= {"list", "get", "head"}


def test_many_go_by_one_request_for_a_thousand(rig: ReplicaRig) -> None:
    """Each is asked about once, to decide; then one listing compares them all, and one request removes them."""
    items = [(rig.file(content(100 if day != 3 else PART + 1), f"{day}"), daily(day)) for day in range(1, 12)]
    assert all(result.report for result in rig.store().replicate_many(items))
    fill(rig)
    assert prune_later(rig.store()).count("deleted") == 2 * 12
    for name, proxy in rig.proxies.items():
        seen = Counter(one.operation for one in proxy.requests)
        compared = "list_versions" if name == "b2" else "list"
        # The manifest of the object of two parts is one of its own: read to decide, and removed after the data.
        own = Counter(list_versions=1) if name == "b2" else Counter()
        # Two walks list objects and tombstones each; then the names of all tombstones are listed once.
        assert seen == Counter(list=5, head=12, get=1, delete_objects=1, delete=1) + Counter([compared]) + own
        assert_only(rig, name, NEW)


@pytest.mark.parametrize("number", [1, 2, 3, 4], ids=["data", "tombstones", "data again", "tombstones again"])
def test_a_listing_that_breaks_off(filled: ReplicaRig, number: int) -> None:
    """Nothing goes where it does; nor elsewhere, unless enough others prove the object."""
    filled.proxies["b2"].add(Status(403, "AccessDenied"), on="list", first=number, times=1)
    report = prune_later(filled.store(names=("r2", "b2")), {"r2": days(30), "b2": days(365)})
    assert report.status == "degraded"
    assert "it cannot be listed" in str(report.backends["b2"].stopped)
    assert outcomes(report) == {"r2": "blocked"}
    filled.proxies["b2"].clear()
    filled.proxies["b2"].add(Status(403, "AccessDenied"), on="list", first=number)
    assert outcomes(prune_later(filled.store(min_copies=2))) == {"r2": "blocked"}
    filled.proxies["b2"].clear()
    filled.proxies["b2"].add(Status(403, "AccessDenied"), on="list", first=number)
    report = prune_later(filled.store(min_copies=1))
    assert (report.status, outcomes(report)) == ("degraded", {"r2": "deleted"})
    assert_only(filled, "b2", KEY, NEW)
    assert_only(filled, "r2", NEW)


def test_one_who_cannot_be_asked_proves_nothing(filled: ReplicaRig) -> None:
    """Its listing is complete, its manifest cannot be read."""
    filled.proxies["b2"].add(Status(403, "AccessDenied"), on="head")
    store = filled.store(names=("r2", "b2"))
    report = prune_later(store, {"r2": days(30)})
    assert (report.status, outcomes(report)) == ("degraded", {"r2": "blocked"})
    assert "b2 should have it, but did not answer: b2: " in report.steps[0].reason
    report = prune_later(store, {"b2": days(30)})
    assert (report.status, outcomes(report)) == ("failed", {"b2": "failed"})


def test_a_dead_backend_is_not_waited_for_again_and_again(filled: ReplicaRig) -> None:
    """What status found out holds for prune, too, which only asks whether it is back."""
    proxy = filled.proxies["b2"]
    proxy.add(Drop())
    filled.store(timeout=2).status()
    once = proxy.count()
    proxy.forget()
    report = prune_later(filled.store(timeout=2, min_copies=1))
    assert (report.status, outcomes(report)) == ("degraded", {"r2": "deleted"})
    assert 0 < proxy.count() < 2 * once, "as many tries as one question makes, give or take one"
    assert {each.operation for each in proxy.requests} == {"head"}


@pytest.mark.parametrize("step", [KEY, manifest_name(KEY)])
def test_what_cannot_be_removed_is_a_failure_and_the_rest_goes(rig: ReplicaRig, step: str) -> None:
    """The backend's own words; the same again does what remained."""
    filled = fill(rig if step == KEY else rig.beside())
    filled.proxies["r2"].add(Status(403, "AccessDenied"), on="delete", key=f"{filled.prefix}/{step}")
    report = prune_later(filled.store())
    assert (report.status, outcomes(report)) == ("failed", {"r2": "failed", "b2": "deleted"})
    assert next(each.reason for each in report.steps if each.backend == "r2").startswith("r2: remove")
    filled.proxies["r2"].clear()
    again = prune_later(filled.store())
    assert outcomes(again) == {"r2": "deleted" if step == KEY else "cleared"}
    assert_only(filled, "r2", NEW)


@pytest.fixture
def locking(moto: S3Endpoint, strict_r2: s3.StrictEndpoint, tmp_path: Path) -> Iterator[ReplicaRig]:
    """Return replicas at servers that can lock: R2's bucket lock, and object lock in the place of B2."""
    strict_r2.control.reset()
    bucket = S3Endpoint(**{**vars(moto), "bucket": f"locked-{time.time_ns()}"})
    client(bucket).create_bucket(Bucket=bucket.bucket, ObjectLockEnabledForBucket=True)
    with make_rig(strict_r2, bucket, tmp_path, proxied=False) as rig:
        yield fill(rig)
    strict_r2.control.reset()


@pytest.mark.parametrize("mode", ["GOVERNANCE", "COMPLIANCE"])
def test_a_lock_is_not_yet_and_no_error(locking: ReplicaRig, mode: str) -> None:
    """Success, with what the service said: nobody can or need do anything; the data and its proof stay."""
    r2, b2 = locking.raw_replicas["r2"], locking.raw_replicas["b2"]
    assert isinstance(r2, RawBucket)
    assert isinstance(b2, RawBucket)
    assert isinstance(r2.endpoint, s3.StrictEndpoint)
    r2.endpoint.control.configure(bucket_lock=3600.0)
    client(b2.endpoint).put_object_retention(
        Bucket=b2.endpoint.bucket,
        Key=f"{b2.prefix}{KEY}",
        Retention={"Mode": mode, "RetainUntilDate": datetime.now(UTC) + timedelta(days=1)},
    )
    report = prune_later(locking.store())
    assert (report.status, outcomes(report)) == ("complete", {"r2": "locked", "b2": "locked"})
    said = {each.backend: each.reason for each in report.steps}
    assert "ObjectLockedByBucketPolicy" in said["r2"]
    assert f"the object has an object lock ({mode.lower()}) until 2" in said["b2"]
    assert {each.bytes_freed for each in report.backends.values()} == {0}
    for name in locking.raw_replicas:
        assert_only(locking, name, KEY, NEW)
    r2.endpoint.control.configure(bucket_lock=0.0)
    assert outcomes(prune_later(locking.store())) == {"r2": "deleted", "b2": "locked"}
    assert_only(locking, "r2", NEW)


def test_what_a_lock_keeps_of_a_repair_is_no_failure_of_the_next(
    locking: ReplicaRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    r2, mark, now = locking.raw_replicas["r2"], ".fsbackup/repairs/ended-0", clock.now
    assert isinstance(r2, RawBucket)
    assert isinstance(r2.endpoint, s3.StrictEndpoint)
    r2.put(mark, b"{}")
    monkeypatch.setattr(clock, "now", lambda: now() + 2 * 86_400)
    r2.endpoint.control.configure(bucket_lock=3600.0)
    assert (locking.store().repair().status, r2.get(mark)) == ("complete", b"{}")
    r2.endpoint.control.configure(bucket_lock=0.0)
    assert locking.store().repair().done == {"clear leftover": 1}


def test_a_backend_that_is_not_in_the_rules_keeps_everything(filled: ReplicaRig) -> None:
    """Also what only it has, beside a prefix that is elsewhere."""
    assert prune_later(filled.store(), RULES, "elsewhere").steps == ()
    assert prune_later(filled.store(), {"r2": days(30)}).backends["b2"].outcomes == {"kept": 2}
