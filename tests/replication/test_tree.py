"""Restoring a tree: everything below a prefix, many objects at once, and only those not there yet."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fsbackup.errors import NoHealthyReplicaError, ObjectNotFoundError
from fsbackup.replication.tree import RestoredObject
from tests.replication.rig import MIB, ReplicaRig, content, make_rig
from tests.servers.faults import Status

SIZES = {"a.bin": 0, "b/c.bin": 1, "b/d/e.bin": 3 * MIB + 5, "b/f.bin": 9 * MIB, "-g h.bin": 70_000}


@pytest.fixture
def stored(rig: ReplicaRig) -> ReplicaRig:
    """Return a new world with the tree."""
    _fill(rig)
    return rig


@pytest.fixture(scope="module")
def filled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplicaRig]:
    """Return a world with the tree, for all tests that leave it as it is."""
    r2, b2 = (request.getfixturevalue(name) for name in ("second_bucket", "seaweedfs"))
    with make_rig(r2, b2, tmp_path_factory.mktemp("tree"), proxied=True) as rig:
        _fill(rig)
        yield rig


@pytest.fixture
def shared(filled: ReplicaRig, tmp_path: Path) -> Iterator[ReplicaRig]:
    """Return that world, without faults, and with a directory of the test's own outside it."""
    yield replace(filled, tmp=tmp_path)
    for proxy in filled.proxies.values():
        proxy.clear()


def _fill(rig: ReplicaRig) -> None:
    """Store a tree below ``tree/``, and an object whose key only begins like it."""
    store = rig.store()
    items = [(rig.file(content(size), f"s{at}"), f"tree/{key}") for at, (key, size) in enumerate(SIZES.items())]
    for path, _ in items:
        os.utime(path, ns=(1, 1_500_000_000_987_654_321))
    items.append((rig.file(b"x", "other"), "tree0/other"))
    assert all(outcome.report and outcome.report.status == "complete" for outcome in store.replicate_many(items))
    for proxy in rig.proxies.values():
        proxy.forget()


def found(directory: Path) -> dict[str, bytes]:
    return {str(each.relative_to(directory)): each.read_bytes() for each in directory.rglob("*") if each.is_file()}


def test_a_tree_comes_back_whole(shared: ReplicaRig) -> None:
    target = shared.tmp / "restored"
    restored: list[RestoredObject] = []
    report = shared.store().restore_tree("tree", target, on_object=restored.append)
    assert found(target) == {key: content(size) for key, size in SIZES.items()}
    assert (report.objects, report.bytes, report.already, report.failures) == (5, sum(SIZES.values()), 0, 0)
    assert {each.key for each in restored} == {f"tree/{key}" for key in SIZES}
    assert round((target / "b/f.bin").stat().st_mtime, 3) == 1_500_000_000.988
    assert shared.store().restore_tree("tree/", shared.tmp / "again").objects == 5


def test_identical_files_are_not_read_again(shared: ReplicaRig) -> None:
    """One file is missing, one has other bytes of the same size, one is truncated: only these three are read."""
    target, store = shared.tmp / "restored", shared.store(names=("r2",))
    store.restore_tree("tree", target)
    (target / "b/c.bin").unlink()
    (target / "-g h.bin").write_bytes(random.Random(1).randbytes(70_000))
    (target / "b/f.bin").write_bytes(content(9 * MIB)[:-1])
    shared.proxies["r2"].forget()
    report = store.restore_tree("tree", target)
    assert (report.objects, report.already) == (5, 2)
    assert found(target) == {key: content(size) for key, size in SIZES.items()}
    for key in ("a.bin", "b/d/e.bin"):
        assert shared.proxies["r2"].count("get", key=f"{shared.prefix}/tree/{key}") == 0


def test_one_object_that_cannot_be_read_is_reported_and_the_rest_restored(stored: ReplicaRig) -> None:
    for raw in stored.raw_replicas.values():
        raw.put("tree/b/f.bin", b"corrupt")
    target = stored.tmp / "restored"
    report = stored.store().restore_tree("tree", target)
    assert not report
    assert (report.objects, report.failures) == (4, 1)
    assert [each.key for each in report.failed] == ["tree/b/f.bin"]
    assert "do not match the manifest" in str(report.failed[0].error)
    assert set(found(target)) == set(SIZES) - {"b/f.bin"}


def test_with_one_replica_unreachable_the_tree_is_whole_and_the_report_names_it(shared: ReplicaRig) -> None:
    shared.proxies["r2"].add(Status(403, "AccessDenied"), on="any")
    report = shared.store(timeout=3).restore_tree("tree", shared.tmp / "restored")
    assert report.objects == 5
    assert set(report.unlisted) == {"r2"}


def test_a_deleted_object_is_not_restored(stored: ReplicaRig) -> None:
    """A replica that was unreachable during the delete still lists it."""
    stored.proxies["b2"].add(Status(503, "ServiceUnavailable"), on="any")
    assert not stored.store(timeout=1).remove("tree/b/c.bin")
    stored.proxies["b2"].clear()
    report = stored.store().restore_tree("tree", stored.tmp / "restored")
    assert set(found(stored.tmp / "restored")) == set(SIZES) - {"b/c.bin"}
    assert (report.objects, report.failures) == (4, 0)


def test_what_a_desktop_left_in_a_bucket_is_no_part_of_it(rig: ReplicaRig) -> None:
    """No object has that name; one that was backed up comes back. The other views of the set agree."""
    store = rig.store()
    for key in ("tree/a", "tree/Thumbs.db"):
        assert store.replicate(rig.file(b"1"), key)
    for name in ("tree/.DS_Store", "tree/@eaDir/a"):
        rig.raw_replicas["r2"].put(name, b"theirs")
    report = store.restore_tree("tree", rig.tmp / "restored")
    assert (report.status, set(found(rig.tmp / "restored"))) == ("complete", {"a", "Thumbs.db"})
    assert {each.key for each in store.ls()} == {"tree/a", "tree/Thumbs.db"}
    for view in (store.verify(), store.status()):
        assert (view.status, view.objects, view.backends["r2"].passed_over.count) == ("complete", 2, 2)
    assert store.repair().status == "complete"


def test_an_empty_tree_and_an_outage_are_different_errors(shared: ReplicaRig) -> None:
    with pytest.raises(ObjectNotFoundError, match="nothing at or below"):
        shared.store().restore_tree("no/such/tree", shared.tmp / "restored")
    shared.proxies["r2"].add(Status(403, "AccessDenied"), on="any")
    with pytest.raises(NoHealthyReplicaError, match="too few could be listed"):
        shared.store(names=("local", "r2"), timeout=2, min_copies=1).restore_tree(
            "no/such/tree", shared.tmp / "back"
        )


def test_a_single_key_becomes_one_file(shared: ReplicaRig) -> None:
    report = shared.store().restore_tree("tree/b/f.bin", shared.tmp / "restored")
    assert report.objects == 1
    assert found(shared.tmp / "restored") == {"f.bin": content(9 * MIB)}


def test_a_target_that_cannot_be_written_stays_as_it_was(shared: ReplicaRig) -> None:
    """A file stands where a directory is needed."""
    target = shared.tmp / "restored"
    target.mkdir()
    (target / "b").write_bytes(b"mine")
    report = shared.store().restore_tree("tree", target)
    assert report.failures == 3
    assert (target / "b").read_bytes() == b"mine"
    assert (target / "a.bin").read_bytes() == b""
