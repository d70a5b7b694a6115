"""What a removal may remove: the object that was looked at, where a service deletes on a condition."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from fsbackup.errors import ConflictError
from fsbackup.loop import run
from fsbackup.stores.base import ObjectStat
from fsbackup.stores.s3.store import S3Store
from tests.integration.s3_helpers import connect, outcome, upload
from tests.matrix import matrix
from tests.servers import s3
from tests.servers.endpoint import S3Endpoint
from tests.servers.faults import FaultProxy, Hold, LoseResponse, Record, Status, fault_proxy

_MULTIPART = b"x" * (6 << 20)


@pytest.fixture(params=["seaweedfs", matrix("moto")])
def proxy(request: pytest.FixtureRequest) -> Iterator[FaultProxy]:
    """A proxy before a server that deletes on a condition."""
    endpoint: S3Endpoint = request.getfixturevalue(request.param)
    s3.empty_bucket(endpoint)
    with fault_proxy(endpoint) as running:
        yield running


@pytest.fixture
def store(proxy: FaultProxy) -> Iterator[S3Store]:
    """A store before it."""
    made = connect(proxy.endpoint)
    yield made
    run(made.close())


def put(store: S3Store, name: str, data: bytes = b"old") -> ObjectStat:
    """Store an object, and return what HEAD says of it."""
    upload(store, name, data)
    found = run(store.stat(name))
    assert found is not None
    return found


def conditions(proxy: FaultProxy) -> list[str | None]:
    """Return the condition of each DELETE."""
    return [_condition(each) for each in proxy.requests if each.operation == "delete"]


def _condition(request: Record) -> str | None:
    return next((value for name, value in request.headers if name.lower() == "if-match"), None)


@pytest.mark.parametrize("old", [b"old", _MULTIPART])
def test_what_has_replaced_an_object_stays(store: S3Store, proxy: FaultProxy, old: bytes) -> None:
    stat = put(store, "dir/any", old)
    run(store.put("dir/any", b"new"))
    error = outcome(store.remove_version(stat))
    assert isinstance(error, ConflictError)
    assert "another writer stored another object" in str(error)
    assert s3.read_bytes(proxy.endpoint, "dir/any") == b"new"


@pytest.mark.parametrize("old", [b"old", _MULTIPART])
def test_the_object_itself_goes_by_one_request(store: S3Store, proxy: FaultProxy, old: bytes) -> None:
    stat = put(store, "dir/any", old)
    proxy.forget()
    run(store.remove_version(stat))
    assert [each.operation for each in proxy.requests] == ["delete"]
    assert conditions(proxy) == [f'"{stat.etag}"']
    assert s3.list_keys(proxy.endpoint) == {}


def test_what_is_gone_is_gone(store: S3Store) -> None:
    stat = put(store, "any")
    run(store.remove_version(stat))
    run(store.remove_version(stat))


def test_a_removal_whose_answer_is_lost_is_no_conflict(store: S3Store, proxy: FaultProxy) -> None:
    """The second attempt finds nothing, which some services call a condition that does not hold."""
    stat = put(store, "any")
    proxy.add(LoseResponse(), on="delete", times=1)
    run(store.remove_version(stat))
    assert s3.list_keys(proxy.endpoint) == {}


def test_what_comes_after_a_removal_whose_answer_is_lost_stays(store: S3Store, proxy: FaultProxy) -> None:
    stat = put(store, "any")
    held = proxy.add(Hold("after"), on="delete", times=1)

    def replace() -> None:
        held.wait_reached(20)
        s3.put_bytes(proxy.endpoint, "any", b"new")
        proxy.cut_connections()

    thread = threading.Thread(target=replace)
    thread.start()
    error = outcome(store.remove_version(stat))
    thread.join()
    assert isinstance(error, ConflictError)
    assert s3.read_bytes(proxy.endpoint, "any") == b"new"


def test_a_service_without_conditions_is_asked_once(store: S3Store, proxy: FaultProxy) -> None:
    stats = [put(store, name) for name in ("one", "other")]
    proxy.add(Status(501, "NotImplemented"), on="delete", times=1)
    for stat in stats:
        run(store.remove_version(stat))
    assert conditions(proxy) == [f'"{stats[0].etag}"', None, None]
    assert s3.list_keys(proxy.endpoint) == {}


def test_a_service_that_compares_other_etags_than_it_shows_still_removes(
    store: S3Store, proxy: FaultProxy
) -> None:
    stat = put(store, "any")
    proxy.add(Status(412, "PreconditionFailed"), on="delete", times=1)
    run(store.remove_version(stat))
    assert conditions(proxy) == [f'"{stat.etag}"', None]
    assert s3.list_keys(proxy.endpoint) == {}


def test_nothing_is_removed_beside_a_write_at_the_same_time(store: S3Store, proxy: FaultProxy) -> None:
    """Amazon S3 answers 409 then; HEAD may still show the object from before."""
    stat = put(store, "any")
    proxy.add(Status(409, "ConditionalRequestConflict"), on="delete", times=1)
    assert isinstance(outcome(store.remove_version(stat)), ConflictError)
    assert s3.read_bytes(proxy.endpoint, "any") == b"old"


def test_of_many_what_was_replaced_before_the_request_stays(seaweedfs: S3Endpoint) -> None:
    """After the listing that compares them. Moto has no condition in DeleteObjects."""
    s3.empty_bucket(seaweedfs)
    with fault_proxy(seaweedfs) as proxy:
        store = connect(proxy.endpoint)
        stats = [put(store, f"dir/{number}") for number in range(12)]
        held = proxy.add(Hold("before"), on="delete_objects", times=1)

        def replace() -> None:
            held.wait_reached(20)
            s3.put_bytes(seaweedfs, stats[3].name, b"new")
            held.release()

        thread = threading.Thread(target=replace)
        thread.start()
        outcomes = list(run(store.remove_many(stats)))
        thread.join()
        run(store.close())
    assert type(outcomes[3]) is ConflictError
    assert outcomes[:3] + outcomes[4:] == [None] * 11
    assert s3.read_bytes(seaweedfs, stats[3].name) == b"new"
    assert set(s3.list_keys(seaweedfs)) == {stats[3].name}


@pytest.mark.parametrize("server", ["strict_r2", "strict_b2"])
def test_no_condition_is_sent_where_there_is_none(server: str, request: pytest.FixtureRequest) -> None:
    endpoint: s3.StrictEndpoint = request.getfixturevalue(server)
    endpoint.control.reset()
    endpoint.control.configure(unavailable_every=0, write_interval=0)
    with fault_proxy(endpoint) as proxy:
        store = connect(proxy.endpoint)
        run(store.remove_version(put(store, "any")))
        assert conditions(proxy) == [None]
        run(store.close())
