"""Removing objects: one object and no other, and on a service that keeps versions, all of its bytes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from fsbackup.errors import AccessDeniedError, BackendError, LockedError, ObjectNotFoundError
from fsbackup.loop import run
from fsbackup.stores.s3.errors import code_of
from fsbackup.stores.s3.providers import B2, R2
from fsbackup.stores.s3.store import S3Store
from tests.integration.s3_helpers import connect, names, outcome, upload
from tests.matrix import matrix
from tests.servers import s3
from tests.servers.endpoint import S3Endpoint
from tests.servers.faults import FaultProxy, LoseResponse, Status, fault_proxy


@pytest.fixture
def b2(strict_b2: s3.StrictEndpoint) -> s3.StrictEndpoint:
    """The strict B2, empty and never busy."""
    strict_b2.control.reset()
    strict_b2.control.configure(unavailable_every=0)
    return strict_b2


@pytest.fixture
def proxy(b2: s3.StrictEndpoint) -> Iterator[FaultProxy]:
    """A proxy before it."""
    with fault_proxy(b2) as running:
        yield running


@pytest.fixture
def store(proxy: FaultProxy) -> Iterator[S3Store]:
    """A store with small pages."""
    made = connect(proxy.endpoint, page_size=3)
    yield made
    run(made.close())


def test_all_versions_and_markers_go_and_nothing_stays_billed(store: S3Store, b2: s3.StrictEndpoint) -> None:
    for number in range(8):  # more than two pages
        s3.put_bytes(b2, "kept", b"x" * number)
    s3.delete_key(b2, "kept")
    s3.put_bytes(b2, "kept", b"newest")
    run(store.remove("kept"))
    assert s3.list_versions(b2) == []
    assert b2.control.report().bytes_stored == 0


def test_what_is_hidden_already_is_removed_too(store: S3Store, b2: s3.StrictEndpoint) -> None:
    s3.put_bytes(b2, "hidden", b"x")
    s3.delete_key(b2, "hidden")
    run(store.remove("hidden"))
    assert s3.list_versions(b2) == []


@pytest.mark.parametrize("sibling", ["kept.old", "kept/below", "kept0", "kept ", "kep", "Kept"])
def test_no_other_name_is_touched(store: S3Store, b2: s3.StrictEndpoint, proxy: FaultProxy, sibling: str) -> None:
    for _ in range(4):
        s3.put_bytes(b2, "kept", b"x")
        s3.put_bytes(b2, sibling, b"y")
    run(store.remove("kept"))
    assert {version.key for version in s3.list_versions(b2)} == {sibling}
    assert len(s3.list_versions(b2)) == 4
    assert proxy.count("delete") == 4


def test_an_older_version_never_shows_in_between(store: S3Store, b2: s3.StrictEndpoint, proxy: FaultProxy) -> None:
    """Cut off at any step, a reader finds the newest version or none, never an older one."""
    for number in range(4):
        s3.put_bytes(b2, "kept", str(number).encode())
    for _ in range(3):
        proxy.clear()
        proxy.add(Status(403, "AccessDenied"), on="delete", first=2)
        with pytest.raises(AccessDeniedError):
            run(store.remove("kept"))
        assert s3.read_bytes(b2, "kept") == b"3"
    proxy.clear()
    run(store.remove("kept"))
    assert s3.list_versions(b2) == []


def test_a_removal_whose_answer_is_lost_is_done_again(
    store: S3Store, b2: s3.StrictEndpoint, proxy: FaultProxy
) -> None:
    s3.put_bytes(b2, "kept", b"x")
    proxy.add(LoseResponse(), on="delete", times=1)
    run(store.remove("kept"))
    assert s3.list_versions(b2) == []


def test_a_version_that_another_removed_first_is_no_error(
    store: S3Store, b2: s3.StrictEndpoint, proxy: FaultProxy
) -> None:
    s3.put_bytes(b2, "kept", b"x")
    proxy.add(Status(404, "NoSuchVersion"), on="delete", times=1)
    run(store.remove("kept"))


@pytest.fixture
def lockable(moto: S3Endpoint) -> S3Endpoint:
    """A bucket with object lock, and an object in it."""
    bucket = replace(moto, bucket=f"locked-{time.time_ns()}")
    s3.client(bucket).create_bucket(Bucket=bucket.bucket, ObjectLockEnabledForBucket=True)
    s3.put_bytes(bucket, "kept", b"x")
    return bucket


def lock(bucket: S3Endpoint, kind: str) -> None:
    """Lock the object: with a legal hold, or until tomorrow, or until yesterday."""
    where = {"Bucket": bucket.bucket, "Key": "kept"}
    if kind == "hold":
        s3.client(bucket).put_object_legal_hold(**where, LegalHold={"Status": "ON"})
        return
    until = datetime.now(UTC) + timedelta(days=-1 if kind == "ended" else 1)
    s3.client(bucket).put_object_retention(**where, Retention={"Mode": "GOVERNANCE", "RetainUntilDate": until})


@pytest.mark.parametrize(
    ("kind", "said"), [("hold", "the object has a legal hold"), ("day", "object lock (governance)")]
)
def test_what_a_lock_keeps_is_locked_not_denied(lockable: S3Endpoint, kind: str, said: str) -> None:
    """The service only says that access is denied; the object says why."""
    lock(lockable, kind)
    store = connect(lockable, profile=B2)
    error = outcome(store.remove("kept"))
    assert type(error) is LockedError
    assert said in str(error)
    assert code_of(error.__cause__) == "AccessDenied"
    assert s3.read_bytes(lockable, "kept") == b"x"
    run(store.close())


@pytest.mark.parametrize("kind", ["none", "ended", "unknown"])
def test_a_refusal_without_a_lock_stays_a_refusal(lockable: S3Endpoint, kind: str) -> None:
    """Also where the lock has ended, or the object may not be asked."""
    if kind != "none":
        lock(lockable, "ended" if kind == "ended" else "day")
    with fault_proxy(lockable) as proxy:
        proxy.add(Status(403, "AccessDenied"), on="delete")
        if kind == "unknown":
            proxy.add(Status(403, "AccessDenied"), on="head")
        store = connect(proxy.endpoint, profile=B2)
        error = outcome(store.remove("kept"))
        assert type(error) is AccessDeniedError
        assert code_of(error) == "AccessDenied"
        run(store.close())


def test_replacing_keeps_older_versions(store: S3Store, b2: s3.StrictEndpoint) -> None:
    """They are the service's own, for its lifecycle rule to end; only a removal ends them at once."""
    run(store.put("kept", b"old"))
    run(store.put("kept", b"new"))
    assert len(s3.list_versions(b2)) == 2


def test_a_bucket_without_versions_is_asked_for_none(moto: S3Endpoint) -> None:
    with fault_proxy(s3.fresh_bucket(moto)) as proxy:
        store = connect(proxy.endpoint, profile=R2)
        run(store.put("kept", b"x"))
        run(store.remove("kept"))
        run(store.remove("kept"))
        run(store.close())
        assert [one.operation for one in proxy.requests] == ["put_object", "delete", "delete"]


SERVERS = ["seaweedfs", "strict_r2", "strict_b2", *map(matrix, ["moto", "rclone"])]


@pytest.mark.parametrize("server", SERVERS)
def test_a_missing_bucket_is_never_a_missing_object(server: str, request: pytest.FixtureRequest) -> None:
    store = connect(request.getfixturevalue(server), bucket="no-such-bucket")
    for work in (store.stat("a"), store.read("a"), store.read("a", 3, 3), store.put("a", b"x"), store.remove("a")):
        error = outcome(work)
        assert isinstance(error, BackendError)
        assert not isinstance(error, ObjectNotFoundError)
        assert "bucket" in str(error)
        assert error.hint
    for action in (lambda: names(store), lambda: upload(store, "a", b"x" * (5 << 20) + b"y")):
        with pytest.raises(BackendError, match="bucket"):
            action()
    run(store.close())


@pytest.mark.parametrize("server", ["seaweedfs", "strict_r2", "strict_b2", matrix("rclone")])
@pytest.mark.parametrize("wrong", ["access_key_id", "secret_access_key"])
def test_wrong_keys_are_never_a_missing_object(server: str, wrong: str, request: pytest.FixtureRequest) -> None:
    keys: dict[str, Any] = {wrong: "wrong-wrong-wrong"}
    store = connect(request.getfixturevalue(server), **keys)
    works = [
        store.stat("a"),
        store.read("a"),
        store.put("a", b"x"),
        store.remove("a"),
        store.put("a", b"y" * (4 << 20)),
    ]
    for work in works:
        error = outcome(work)
        assert isinstance(error, AccessDeniedError)
        assert error.hint
    with pytest.raises(AccessDeniedError):
        names(store)
    run(store.close())


@pytest.mark.parametrize("server", SERVERS)
def test_all_is_gone_after_a_removal(server: str, request: pytest.FixtureRequest) -> None:
    endpoint = request.getfixturevalue(server)
    if isinstance(endpoint, s3.StrictEndpoint):
        endpoint.control.reset()
    else:
        endpoint = s3.fresh_bucket(endpoint)
    store = connect(endpoint)
    for name in ("a/b.txt", "a/c.txt"):
        upload(store, name, b"x")
    run(store.remove("a/b.txt"))
    run(store.remove("a/b.txt"))
    if server != "rclone":  # which answers 500: "a" is a directory of its disk
        run(store.remove("a"))
    assert run(store.stat("a/b.txt")) is None
    with pytest.raises(ObjectNotFoundError):
        run(store.read("a/b.txt"))
    assert names(store) == ["a/c.txt"]
    run(store.close())
