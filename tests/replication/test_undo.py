"""What too few replicas took is taken back: the version before is there again, byte for byte, and nothing else."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Literal

import pytest

from fsbackup.errors import TooFewCopiesError
from tests.integration.cli_helpers import wait_until
from tests.matrix import sparing
from tests.replication.child import kill, running
from tests.replication.prune_helpers import DAY, Disks, record
from tests.replication.raw_replicas import manifest_name, pending_prefix
from tests.replication.rig import PART, ReplicaRig, content
from tests.servers import s3
from tests.servers.faults import Hold, LoseResponse, Status
from tests.servers.operations import Operation

KEY = "backups/db.dump"
#: The size of an object, of one part or of two, and where the buckets have its records.
KINDS = {
    "inside": (3000, "inside"),
    "parts": (PART + 100, "inside"),
    "beside": (3000, "beside"),
    "parts beside": (PART + 100, "beside"),
}
UNDONE = "the version before was put back"


def everything(rig: ReplicaRig, name: str) -> dict[str, bytes]:
    return rig.raw_replicas[name].everything()


@pytest.fixture(params=sparing(KINDS, {"inside", "parts"}))
def replaced(contested: ReplicaRig, request: pytest.FixtureRequest) -> ReplicaRig:
    """Return the rig with an object, and a source to replace it with."""
    size, where = KINDS[request.param]
    rig = contested.beside() if where == "beside" else contested
    rig.store().replicate(rig.file(content(size, 1), "old"), KEY)
    rig.file(content(size, 2), "new")
    return rig


def refuse(rig: ReplicaRig, *names: str) -> None:
    """Have buckets take no data any more."""
    for name in names:
        for operation in ("put_object", "create_multipart"):
            rig.proxies[name].add(Status(403, "AccessDenied"), on=operation, key=f"{rig.prefix}/{KEY}")


def test_a_disk_and_a_bucket_with_versions(replaced: ReplicaRig) -> None:
    """They have what they had; the error says which copies there are, and who put what back."""
    rig = replaced
    before = {name: everything(rig, name) for name in rig.raw_replicas}
    refuse(rig, "r2")
    report = rig.store(min_copies=3).replicate(rig.tmp / "new", KEY, overwrite=True)
    assert not report
    with pytest.raises(
        TooFewCopiesError, match=rf"stored nowhere, 3 of 3 .*local, b2: {UNDONE}; r2: .*AccessDenied"
    ):
        raise report.failure()
    assert {name: everything(rig, name) for name in rig.raw_replicas} == before
    assert len(s3.list_versions(rig.endpoints["b2"], f"{rig.prefix}/{KEY}")) == 1
    rig.settle()
    assert rig.store().verify().status == "complete"


def test_a_bucket_without_versions_keeps_it_unconfirmed(replaced: ReplicaRig) -> None:
    """No reader takes it, and the same upload completes it there without sending it again."""
    rig = replaced
    old, new = (rig.tmp / name for name in ("old", "new"))
    refuse(rig, "b2")
    report = rig.store(min_copies=3).replicate(new, KEY, overwrite=True)
    with pytest.raises(TooFewCopiesError, match=f"stored on r2 only, 3 of 3 .*local: {UNDONE}; b2: "):
        raise report.failure()
    assert rig.raw_replicas["local"].provable(KEY) == old.read_bytes()
    assert rig.raw_replicas["r2"].provable(KEY) == new.read_bytes()
    rig.settle()
    assert rig.store(min_copies=2).read(KEY) == old.read_bytes()
    again = rig.store(min_copies=2).replicate(new, KEY, overwrite=True)
    assert (again.status, again.replicas["r2"].already) == ("complete", True)
    assert {raw.provable(KEY) for raw in rig.raw_replicas.values()} == {new.read_bytes()}


def test_what_has_become_confirmed_stays(contested: ReplicaRig) -> None:
    """The bucket has stored it, and its answer came too late to count."""
    rig = contested
    rig.store().replicate(rig.file(content(3000, 1), "old"), KEY)
    where = f"{rig.prefix}/{KEY}"
    refuse(rig, "b2")
    rig.proxies["r2"].add(LoseResponse(), on="put_object", key=where)
    rig.proxies["r2"].add(Status(403, "AccessDenied"), on="head", key=where, first=2, times=1)
    new = rig.file(content(3000, 2), "new")
    report = rig.store(min_copies=2, timeout=1.0).replicate(new, KEY, overwrite=True)
    assert [name for name, each in report.replicas.items() if each.ok] == ["local"]
    assert [rig.raw_replicas[name].provable(KEY) for name in ("local", "r2")] == [new.read_bytes()] * 2


def test_a_new_object_is_kept(contested: ReplicaRig) -> None:
    """It replaced nothing, and may be all that there is: its readers get it, and repair fills the others."""
    rig = contested
    refuse(rig, "r2", "b2")
    new = rig.file(content(3000, 2), "new")
    report = rig.store(min_copies=2).replicate(new, KEY)
    with pytest.raises(TooFewCopiesError, match="stored on local only, 2 of 3"):
        raise report.failure()
    rig.settle()
    assert rig.store(min_copies=2).read(KEY) == new.read_bytes()
    assert rig.store(min_copies=2).replicate(new, KEY).replicas["local"].already


def test_what_another_writer_stored_since_stays(contested: ReplicaRig) -> None:
    """It came between the refusal and its undoing; only what was refused is taken back."""
    rig = contested
    rig.store().replicate(rig.file(content(3000, 1), "old"), KEY)
    third = rig.file(content(3000, 3), "third")
    hold = rig.proxies["r2"].add(Hold("before"), on="head", key=f"{rig.prefix}/{KEY}", first=2)
    refuse(rig, "r2", "b2")
    new = rig.file(content(3000, 2), "new")
    with ThreadPoolExecutor(1) as pool:
        upload = pool.submit(rig.store(min_copies=2).replicate, new, KEY, overwrite=True)
        hold.wait_reached()
        rig.backend("local").upload(third, KEY)
        hold.release()
        report = upload.result(30)
    assert [name for name, each in report.replicas.items() if each.ok] == ["local"]
    assert rig.raw_replicas["local"].provable(KEY) == third.read_bytes()


@pytest.mark.parametrize(("replaces", "age", "already"), [(b"old", 0, False), (b"old", 2, True), (None, 0, True)])
def test_another_upload_counts_on_no_copy_that_may_be_put_back(
    disks: Disks, replaces: bytes | None, age: float, already: bool
) -> None:
    """Who stored it may be about to do that, for a day; and never with a new object."""
    made = time.time() - age * DAY
    disks.put("bc", KEY, 3, data=b"old")
    disks.raw_replicas["a"].put(KEY, b"new")
    fields = record(KEY, b"new", made, generation=int(made * 1000), replaces=replaces)
    disks.raw_replicas["a"].set_manifest(KEY, fields)
    store = disks.store({}, min_copies=2)
    source = disks.root / "source"
    source.write_bytes(b"new")
    report = store.replicate(source, KEY, overwrite=True)
    assert (report.status, report.replicas["a"].already) == ("complete", already)


#: What B2 gets with its records beside the data while a replacement is undone.
STEPS: list[tuple[Operation, str]] = [
    ("put_object", pending_prefix(KEY)),
    ("put_object", manifest_name(KEY)),
    ("delete", f"/{KEY}"),
    ("delete", pending_prefix(KEY)),
]


@pytest.mark.parametrize(
    ("step", "when"), sparing(product(range(4), ("before", "after")), {(1, "after"), (2, "after")})
)
def test_killed_at_any_step(contested: ReplicaRig, step: int, when: Literal["before", "after"]) -> None:
    """Each replica has the old version or the new one, proven; readers get the old one, and repair settles it."""
    rig = contested.beside()
    old, new = rig.file(content(3000, 1), "old"), rig.file(content(3000, 2), "new")
    rig.store().replicate(old, KEY)
    refuse(rig, "r2")
    operation, name = STEPS[step]
    # The upload itself makes each of these requests once, but for the removal of a version.
    first = 1 if step == 2 else 2
    hold = rig.proxies["b2"].add(
        Hold(when), on=operation, key=f"{rig.prefix}/{name.removeprefix('/')}", first=first
    )
    with running(rig.places, "overwrite", KEY, new, min_copies=3) as process:
        hold.wait_reached(30)
        # The disk puts back at the same time; while it has not, two have the new version, which readers may take.
        wait_until(lambda: rig.raw_replicas["local"].get(KEY) == old.read_bytes())
        kill(process)
    rig.settle()
    for each in rig.raw_replicas.values():
        assert each.provable(KEY) in (old.read_bytes(), new.read_bytes())
    store = rig.store(min_copies=2)
    assert store.read(KEY) == old.read_bytes()
    assert store.replicate(new, KEY, overwrite=True).status == "complete"
    assert store.read(KEY) == new.read_bytes()
